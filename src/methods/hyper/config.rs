//! Settings of HyperAttention.

use super::sampling::Sampling;
use crate::error::{Error, Result};
use crate::shape::{AttentionShape, Mask};

/// In which order the hash buckets stand, `c` being the code of a row: bit `j` is set iff `x . P_j > 0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BucketOrder {
    /// By the rank of `c` in the reflected Gray sequence (the inverse Gray code): neighbouring buckets differ in one
    /// bit, as the paper means it.
    #[default]
    Gray,
    /// By `c ^ (c >> 1)`, the Gray code itself, as every published code has it. Neighbours differ in 1.3 bits on
    /// average.
    Compat,
}

impl BucketOrder {
    /// The place of the bucket with code `code`.
    pub fn rank(self, code: u16) -> u16 {
        match self {
            Self::Compat => code ^ (code >> 1),
            Self::Gray => {
                let mut rank = code;
                for shift in [1, 2, 4, 8] {
                    rank ^= rank >> shift;
                }
                rank
            }
        }
    }
}

/// Settings of HyperAttention with the names and defaults of the published code. `docs/hyper-attention.md` has the
/// estimator in full.
///
/// Rows of q and k are sorted by hash bucket. A query attends the keys of the block that its place in the order falls
/// into, and `sample_size` keys drawn from all others, which stand for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HyperConfig {
    /// Hyperplanes of the hash, 1 to 16.
    pub num_projections: usize,
    /// Hashes with projections of their own, 1 to 8: a query attends the keys of its blocks in all of them, each key
    /// once.
    pub rounds: usize,
    /// Keys of a block of the sorted order, at least 1.
    pub block_size: usize,
    /// Keys drawn for each KV head; 0: none.
    pub sample_size: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// The first keys, so many, are attended exactly by every query that may see them; 0: none. A sample drawn there is
    /// left out.
    pub sinks: usize,
    /// A query of a causal call attends at least so many of the newest keys exactly: each exact piece reaches so many
    /// keys back. At most `min_seq_len`; 0: none, and the only choice for a call that is not causal.
    pub local_window: usize,
    /// A query block's keys are those around the buckets of its queries, not those of the block with its number: where
    /// q and k fill the buckets differently, the numbers drift apart. A key may then be in several blocks or in none.
    pub align_windows: bool,
    /// Fewer queries are attended exactly; a causal call is halved down to pieces of at most so many tokens, which are
    /// exact. 0 is as 1.
    pub min_seq_len: usize,
    /// Order of the buckets.
    pub bucket_order: BucketOrder,
    /// Hash `x - mean` instead of `x`, with the mean of each head over the sequence, for q and k apart: a common offset
    /// of the keys changes no softmax, but would put all of them into one bucket.
    pub center: bool,
    /// Where projections and samples that are not given are drawn from.
    pub seed: u64,
}

impl Default for HyperConfig {
    fn default() -> Self {
        Self {
            num_projections: 7,
            rounds: 1,
            block_size: 256,
            sample_size: 256,
            sampling: Sampling::Uniform,
            sinks: 0,
            local_window: 0,
            align_windows: false,
            min_seq_len: 4096,
            bucket_order: BucketOrder::Gray,
            center: true,
            seed: 0,
        }
    }
}

impl HyperConfig {
    /// Projections at most.
    pub const MAX_PROJECTIONS: usize = 16;

    /// Rounds at most.
    pub const MAX_ROUNDS: usize = 8;

    /// Sinks at most.
    pub const MAX_SINKS: usize = 1 << 16;

    /// Exact samples come in whole tiles of the backward kernels.
    const EXACT: usize = 64;

    /// Sizes and lengths of the settings at most.
    const MAX: usize = 1 << 30;

    /// Checks the settings against a shape and a token mask.
    ///
    /// # Errors
    /// [`Error::Value`] names a setting outside its range; [`Error::Unsupported`] for windows, and for a causal call
    /// with fewer queries than keys that is too long to be exact.
    pub fn validate(&self, shape: &AttentionShape, mask: &Mask) -> Result<()> {
        shape.validate()?;
        mask.validate(shape)?;
        let range = |what, value: usize, low: usize, high: usize| {
            if value < low || value > high {
                return Err(Error::Value { what, expected: format!("in {low}..={high}"), got: value.to_string() });
            }
            Ok(())
        };
        range("num_projections", self.num_projections, 1, Self::MAX_PROJECTIONS)?;
        range("rounds", self.rounds, 1, Self::MAX_ROUNDS)?;
        range("block_size", self.block_size, 1, Self::MAX)?;
        range("sample_size", self.sample_size, 0, Self::MAX)?;
        range("sinks", self.sinks, 0, Self::MAX_SINKS)?;
        range("min_seq_len", self.min_seq_len, 0, Self::MAX)?;
        range("local_window", self.local_window, 0, self.min_seq_len)?;
        if self.local_window > 0 && !mask.causal {
            return Err(Error::Unsupported {
                what: format!("HyperAttention with a local_window of {} that is not causal", self.local_window),
                hint: "its exact pieces are those of a causal call".into(),
            });
        }
        if mask.window_left.is_some() || mask.window_right.is_some() {
            return Err(Error::Unsupported {
                what: "HyperAttention with a window".into(),
                hint: "its mask is causal or full".into(),
            });
        }
        if mask.causal && shape.q_len != shape.kv_len && !self.is_exact(shape, mask) {
            return Err(Error::Unsupported {
                what: format!("causal HyperAttention of {} queries over {} keys", shape.q_len, shape.kv_len),
                hint: "its halves need as many queries as keys".into(),
            });
        }
        Ok(())
    }

    /// Whether every visible key is attended, so that plain attention serves the call: fewer queries than
    /// `min_seq_len`, or, when causal, fewer than twice as many keys (each half is then a leaf, and the second half has
    /// too few queries for the estimator).
    pub fn is_exact(&self, shape: &AttentionShape, mask: &Mask) -> bool {
        let least = self.least();
        let long = if mask.causal { shape.kv_len / 2 >= least } else { shape.q_len >= least };
        !long || [shape.batch, shape.q_len, shape.kv_len].contains(&0)
    }

    /// Exact samples that a plan has room for.
    pub(crate) fn exact(&self) -> usize {
        self.sinks.next_multiple_of(Self::EXACT)
    }

    /// `min_seq_len` as a number that lengths can be halved down to.
    pub(crate) fn least(&self) -> usize {
        self.min_seq_len.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::DType;

    #[test]
    fn gray_ranks_step_by_one_bit() {
        for bits in 1..=16u32 {
            let codes = 1usize << bits;
            let mut by_rank = vec![None; codes];
            let mut compat = vec![false; codes];
            for code in 0..codes {
                let rank = BucketOrder::Gray.rank(code as u16) as usize;
                assert_eq!(by_rank[rank].replace(code), None);
                // The published permutation is the inverse one.
                let gray = BucketOrder::Compat.rank(code as u16);
                assert_eq!(BucketOrder::Gray.rank(gray) as usize, code);
                assert!(!std::mem::replace(&mut compat[gray as usize], true));
            }
            for pair in by_rank.windows(2) {
                assert_eq!((pair[0].unwrap() ^ pair[1].unwrap()).count_ones(), 1);
            }
        }
    }

    #[test]
    fn defaults_are_the_published_ones() {
        let config = HyperConfig::default();
        assert_eq!((config.num_projections, config.block_size, config.sample_size), (7, 256, 256));
        assert_eq!((config.min_seq_len, config.seed, config.center), (4096, 0, true));
        assert_eq!(config.rounds, 1);
        assert_eq!((config.bucket_order, config.sampling), (BucketOrder::Gray, Sampling::Uniform));
        assert_eq!((config.sinks, config.local_window, config.align_windows), (0, 0, false));
    }

    #[test]
    fn ranges_are_checked() {
        let shape = |q_len, kv_len| AttentionShape {
            batch: 1,
            q_heads: 2,
            kv_heads: 1,
            q_len,
            kv_len,
            head_dim: 64,
            dtype: DType::BF16,
        };
        let good = HyperConfig { min_seq_len: 64, ..HyperConfig::default() };
        for (bad, name) in [
            (HyperConfig { num_projections: 0, ..good.clone() }, "num_projections"),
            (HyperConfig { num_projections: 17, ..good.clone() }, "num_projections"),
            (HyperConfig { rounds: 0, ..good.clone() }, "rounds"),
            (HyperConfig { rounds: 9, ..good.clone() }, "rounds"),
            (HyperConfig { block_size: 0, ..good.clone() }, "block_size"),
            (HyperConfig { sample_size: usize::MAX, ..good.clone() }, "sample_size"),
            (HyperConfig { sinks: (1 << 16) + 1, ..good.clone() }, "sinks"),
            (HyperConfig { min_seq_len: usize::MAX, ..good.clone() }, "min_seq_len"),
            (HyperConfig { local_window: 65, ..good.clone() }, "local_window"),
        ] {
            match bad.validate(&shape(200, 200), &Mask::FULL) {
                Err(Error::Value { what, .. }) => assert_eq!(what, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        let local = HyperConfig { local_window: 64, ..good.clone() };
        assert!(local.validate(&shape(200, 200), &Mask::CAUSAL).is_ok());
        assert!(matches!(local.validate(&shape(200, 200), &Mask::FULL), Err(Error::Unsupported { .. })));
        assert!(good.validate(&shape(200, 200), &Mask::CAUSAL).is_ok());
        assert!(good.validate(&shape(100, 127), &Mask::CAUSAL).is_ok());
        assert!(matches!(good.validate(&shape(100, 128), &Mask::CAUSAL), Err(Error::Unsupported { .. })));
        assert!(good.validate(&shape(200, 100), &Mask::FULL).is_ok());
        assert!(good.validate(&shape(200, 100), &Mask::CAUSAL).is_err());
        let window = Mask { window_left: Some(3), ..Mask::CAUSAL };
        assert!(matches!(good.validate(&shape(200, 200), &window), Err(Error::Unsupported { .. })));
        for (len, mask, exact) in
            [(63, Mask::FULL, true), (64, Mask::FULL, false), (127, Mask::CAUSAL, true), (128, Mask::CAUSAL, false)]
        {
            assert_eq!(good.is_exact(&shape(len, len), &mask), exact, "{len}");
        }
    }
}
