//! Which keys HyperAttention attends, and with which weights.

use super::super::visibility::Visibility;
use super::round::Round;
use crate::error::{Error, Result};
use crate::methods::hyper::value_samples;
use crate::methods::{HyperConfig, Sampling};
use crate::shape::{AttentionShape, Mask};
use std::ops::Range;

/// What the estimator reads of q, k and v: buckets, and the keys' shares of the samples.
#[derive(Debug, Clone, Copy)]
pub struct HyperRanks<'a> {
    /// `[rounds, batch, q_heads, q_len]`
    pub q: &'a [u16],
    /// `[rounds, batch, kv_heads, kv_len]`
    pub k: &'a [u16],
    /// `[batch, kv_heads, kv_len]`, for samples that are drawn by values
    pub v_shares: Option<&'a [u16]>,
}

/// HyperAttention as a [`Visibility`].
///
/// Its parts (the leaves of a causal call, and for each halving the second half's queries on the first half's keys) are
/// merged by their LSE, which is one softmax over all their keys with the log-weights that the parts give them.
#[derive(Debug, Clone)]
pub struct HyperEstimator {
    shape: AttentionShape,
    parts: Vec<Part>,
}

/// Some queries on some keys.
#[derive(Debug, Clone)]
struct Part {
    queries: Range<usize>,
    keys: Range<usize>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// All keys.
    Full,
    /// The keys up to the query's own position.
    Causal,
    /// The estimator.
    Hashed(Hashed),
}

#[derive(Debug, Clone)]
struct Hashed {
    rounds: Vec<Round>,
    /// `[batch * kv_heads][samples]`: rows of keys, with log-weights; none if there is one block.
    samples: Vec<Vec<(usize, f64)>>,
    /// The exact keys of the part.
    sinks: Range<usize>,
    /// Queries before the first of these do not attend keys from the second on: an exact piece has both.
    local: [usize; 2],
}

impl HyperEstimator {
    /// The estimator for given buckets. `samples` `[batch, kv_heads, sample_size]` are positions in the keys as the
    /// first round sorts them;
    /// `None` draws them from the seed.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Unsupported`] as [`HyperConfig::validate`], and for samples of a causal call or
    /// outside the keys, or for missing shares; [`Error::Shape`] for a slice of another size.
    pub fn new(
        config: &HyperConfig,
        shape: &AttentionShape,
        mask: &Mask,
        ranks: HyperRanks<'_>,
        samples: Option<&[usize]>,
    ) -> Result<Self> {
        config.validate(shape, mask)?;
        check("ranks of q", ranks.q.len(), [config.rounds * shape.batch, shape.q_heads, shape.q_len])?;
        check("ranks of k", ranks.k.len(), [config.rounds * shape.batch, shape.kv_heads, shape.kv_len])?;
        let draws = config.sample_size > 0 && samples.is_none() && !config.is_exact(shape, mask);
        if config.sampling == Sampling::Values && draws {
            let shares = ranks.v_shares.ok_or_else(|| {
                let expected = "given, since samples are drawn by values".into();
                Error::Value { what: "shares of v", expected, got: "none".into() }
            })?;
            check("shares of v", shares.len(), [shape.batch, shape.kv_heads, shape.kv_len])?;
            if shares.contains(&0) {
                let expected = "at least 1".into();
                return Err(Error::Value { what: "shares of v", expected, got: "0".into() });
            }
        }
        if let Some(samples) = samples {
            if mask.causal {
                let got = "samples for a causal call, which draws for each half".into();
                return Err(Error::Value { what: "samples", expected: "absent".into(), got });
            }
            if config.sinks > 0 {
                let got = format!("samples with {} sinks, which belong to no sample", config.sinks);
                return Err(Error::Value { what: "samples", expected: "absent".into(), got });
            }
            check("samples", samples.len(), [shape.batch, shape.kv_heads, config.sample_size])?;
            if let Some(bad) = samples.iter().find(|&&at| at >= shape.kv_len) {
                let expected = format!("below kv_len ({})", shape.kv_len);
                return Err(Error::Value { what: "samples", expected, got: bad.to_string() });
            }
        }
        let mut estimator = Self { shape: *shape, parts: vec![] };
        let (queries, keys) = (0..shape.q_len, 0..shape.kv_len);
        if config.is_exact(shape, mask) {
            let kind = if mask.causal { Kind::Causal } else { Kind::Full };
            estimator.parts.push(Part { queries, keys, kind });
        } else if mask.causal {
            estimator.halve(config, ranks, 1, queries);
        } else {
            estimator.hashed(config, ranks, 0, queries, keys, samples);
        }
        Ok(estimator)
    }

    /// The causal call on the tokens of node `node`.
    fn halve(&mut self, config: &HyperConfig, ranks: HyperRanks<'_>, node: usize, tokens: Range<usize>) {
        // Halves below `min_seq_len` attend one another exactly: the piece is exact as a whole.
        if tokens.len() / 2 < config.least() {
            let keys = tokens.start.saturating_sub(config.local_window)..tokens.end;
            self.parts.push(Part { queries: tokens, keys, kind: Kind::Causal });
            return;
        }
        let middle = tokens.start + tokens.len().div_ceil(2);
        let (first, second) = (tokens.start..middle, middle..tokens.end);
        self.halve(config, ranks, 2 * node, first.clone());
        self.halve(config, ranks, 2 * node + 1, second.clone());
        self.hashed(config, ranks, node, second, first, None);
    }

    /// The estimator for the queries `queries` on the keys `keys`, which are node `node`.
    fn hashed(
        &mut self,
        config: &HyperConfig,
        ranks: HyperRanks<'_>,
        node: usize,
        queries: Range<usize>,
        keys: Range<usize>,
        samples: Option<&[usize]>,
    ) {
        let shape = &self.shape;
        let of_round = |round: usize| {
            let of = |ranks: &[u16]| ranks.len() / config.rounds * round..ranks.len() / config.rounds * (round + 1);
            Round::new(config, shape, [&ranks.q[of(ranks.q)], &ranks.k[of(ranks.k)]], &queries, &keys)
        };
        let rounds: Vec<Round> = (0..config.rounds).map(of_round).collect();
        // One block holds every key: there is nothing to estimate.
        let count = if keys.len() > config.block_size { config.sample_size } else { 0 };
        let log_weight = (keys.len() as f64 / config.sample_size as f64).ln();
        let drawn = |head: usize| -> Vec<(usize, f64)> {
            let kv_head = head % shape.kv_heads;
            let at_places =
                |places: &[usize]| places.iter().map(|&place| (rounds[0].key_at(head, place), log_weight)).collect();
            match (samples, config.sampling, ranks.v_shares) {
                (Some(given), ..) => at_places(&given[head * config.sample_size..][..count]),
                (None, Sampling::Values, Some(shares)) => {
                    let shares = &shares[head * shape.kv_len..][keys.clone()];
                    let all: f64 = shares.iter().map(|&share| f64::from(share)).sum();
                    let of_sample = |share: u16| (all / (config.sample_size as f64 * f64::from(share))).ln();
                    let rows = value_samples(config.seed, kv_head, node, count, shares);
                    rows.into_iter().map(|row| (keys.start + row, of_sample(shares[row]))).collect()
                }
                (None, sampling, _) => at_places(&sampling.places(config.seed, kv_head, node, count, keys.len())),
            }
        };
        let without_sinks = |head| drawn(head).into_iter().filter(|&(row, _)| row >= config.sinks).collect();
        let hashed = Hashed {
            samples: (0..shape.batch * shape.kv_heads).map(without_sinks).collect(),
            sinks: keys.start..keys.end.min(config.sinks),
            local: [queries.start + first_piece(config, queries.len()), keys.end - config.local_window],
            rounds,
        };
        self.parts.push(Part { queries, keys, kind: Kind::Hashed(hashed) });
    }

    /// (Query, key) pairs attended, over all sequences and query heads; a key drawn twice counts twice.
    pub fn visited_pairs(&self) -> u64 {
        let shape = &self.shape;
        let mut pairs = 0;
        for (b, h) in (0..shape.batch).flat_map(|b| (0..shape.q_heads).map(move |h| (b, h))) {
            for t in 0..shape.q_len {
                self.runs(b, h, t, &mut |run, _| pairs += run.len() as u64);
            }
        }
        pairs
    }
}

impl Visibility for HyperEstimator {
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64)) {
        let shape = &self.shape;
        for part in self.parts.iter().filter(|part| part.queries.contains(&t)) {
            match &part.kind {
                Kind::Full => visit(part.keys.clone(), 0.0),
                Kind::Causal => {
                    let position = t + part.keys.end - part.queries.end;
                    visit(part.keys.start..position + 1, 0.0);
                }
                Kind::Hashed(hashed) => {
                    let (head, key_head) = (b * shape.q_heads + h, b * shape.kv_heads + h / shape.group());
                    let windows: Vec<_> = hashed.rounds.iter().map(|round| round.window(head, t)).collect();
                    let in_one_of = |rounds: usize, row: usize| {
                        let mut windows = hashed.rounds.iter().zip(&windows).take(rounds);
                        windows.any(|(round, window)| window.contains(&round.place_of(key_head, row)))
                    };
                    let mut visit = |row: usize, log_weight| {
                        if t >= hashed.local[0] || row < hashed.local[1] {
                            visit(row..row + 1, log_weight);
                        }
                    };
                    for (number, (round, window)) in hashed.rounds.iter().zip(&windows).enumerate() {
                        let keys = window.clone().map(|place| round.key_at(key_head, place));
                        keys.filter(|&row| !in_one_of(number, row)).for_each(|row| visit(row, 0.0));
                    }
                    let others = |&row: &usize| !in_one_of(windows.len(), row);
                    hashed.sinks.clone().filter(others).for_each(|row| visit(row, 0.0));
                    let samples = hashed.samples[key_head].iter();
                    samples.filter(|(row, _)| others(row)).for_each(|&(row, log_weight)| visit(row, log_weight));
                }
            }
        }
    }
}

/// Tokens of the exact piece that a causal call on `len` tokens begins with.
fn first_piece(config: &HyperConfig, len: usize) -> usize {
    if len / 2 < config.least() { len } else { first_piece(config, len.div_ceil(2)) }
}

fn check(what: &'static str, got: usize, dims: [usize; 3]) -> Result<()> {
    if got == dims.iter().product() {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{dims:?}"), got: format!("{got} elements") })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Counted, Output, Problem, TokenMask};
    use super::*;
    use crate::methods::Sampling;
    use crate::shape::DType;

    fn numbers(len: usize, seed: u64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        (0..len).map(next).collect()
    }

    struct Inputs {
        shape: AttentionShape,
        q: Vec<f64>,
        k: Vec<f64>,
        v: Vec<f64>,
        q_ranks: Vec<u16>,
        k_ranks: Vec<u16>,
        v_shares: Vec<u16>,
    }

    impl Inputs {
        fn new([q_heads, kv_heads]: [usize; 2], [q_len, kv_len]: [usize; 2]) -> Self {
            let shape = AttentionShape { batch: 2, q_heads, kv_heads, q_len, kv_len, head_dim: 4, dtype: DType::BF16 };
            let size = |heads: usize, len: usize| 2 * heads * len * 4;
            let ranks =
                |len: usize, seed| -> Vec<u16> { numbers(len, seed).iter().map(|x| (x * 4.0 + 4.0) as u16).collect() };
            Self {
                shape,
                q: numbers(size(q_heads, q_len), 1),
                k: numbers(size(kv_heads, kv_len), 2),
                v: numbers(size(kv_heads, kv_len), 3),
                q_ranks: ranks(2 * q_heads * q_len, 4),
                k_ranks: ranks(2 * kv_heads * kv_len, 5),
                v_shares: ranks(2 * kv_heads * kv_len, 6).into_iter().map(|x| x * x + 1).collect(),
            }
        }

        /// With ranks of one more round.
        fn two_rounds(mut self) -> Self {
            let more = |ranks: &mut Vec<u16>, seed| {
                let numbers = numbers(ranks.len(), seed);
                ranks.extend(numbers.iter().map(|x| (x * 4.0 + 4.0) as u16));
            };
            more(&mut self.q_ranks, 7);
            more(&mut self.k_ranks, 8);
            self
        }

        fn ranks(&self) -> HyperRanks<'_> {
            HyperRanks { q: &self.q_ranks, k: &self.k_ranks, v_shares: Some(&self.v_shares) }
        }

        fn estimator(&self, config: &HyperConfig, mask: &Mask, samples: Option<&[usize]>) -> Result<HyperEstimator> {
            HyperEstimator::new(config, &self.shape, mask, self.ranks(), samples)
        }

        fn attend(&self, visible: &impl Visibility) -> Output {
            Problem { scale: Some(1.0), ..Problem::new(self.shape, &self.q, &self.k, &self.v) }.attend(visible).unwrap()
        }
    }

    fn assert_close(got: &Output, expected: &Output) {
        for (got, expected) in got.out.iter().chain(&got.lse).zip(expected.out.iter().chain(&expected.lse)) {
            assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
        }
    }

    /// The definition as a matrix of counts.
    #[test]
    fn blocks_and_samples() {
        let inputs = Inputs::new([4, 2], [23, 31]);
        let config = HyperConfig { block_size: 8, sample_size: 5, min_seq_len: 4, ..HyperConfig::default() };
        let samples = [3, 0, 30, 12, 12, 7, 9, 1, 22, 30, 5, 6, 0, 28, 29, 8, 8, 8, 0, 17];
        let got = inputs.attend(&inputs.estimator(&config, &Mask::FULL, Some(&samples)).unwrap());
        // Place of row i: how many rows have a smaller bucket, or the same and a smaller index.
        let place = |ranks: &[u16], i: usize| (0..ranks.len()).filter(|&j| (ranks[j], j) < (ranks[i], i)).count();
        let count = |b: usize, h: usize, t: usize, key: usize| {
            let head = b * 2 + h / 2;
            // 31 keys in blocks of 8: 4 blocks, of 6 queries.
            let block = place(&inputs.q_ranks[(b * 4 + h) * 23..][..23], t) / 6;
            let at = place(&inputs.k_ranks[head * 31..][..31], key);
            let drawn = samples[head * 5..][..5].iter().filter(|&&s| s == at).count();
            if at / 8 == block { 1.0 } else { drawn as f64 * 31.0 / 5.0 }
        };
        assert_close(&got, &inputs.attend(&Counted { kv_len: 31, count }));
    }

    #[test]
    fn short_calls_and_single_blocks_are_exact() {
        let inputs = Inputs::new([2, 1], [30, 30]);
        for (mask, min_seq_len, block_size) in
            [(Mask::FULL, 31, 4), (Mask::FULL, 1, 30), (Mask::CAUSAL, 16, 4), (Mask::CAUSAL, 1, 15)]
        {
            let config = HyperConfig { min_seq_len, block_size, sample_size: 4, ..HyperConfig::default() };
            let exact = inputs.attend(&TokenMask { shape: &inputs.shape, mask: &mask });
            assert_close(&inputs.attend(&inputs.estimator(&config, &mask, None).unwrap()), &exact);
        }
        let config = HyperConfig { min_seq_len: 15, block_size: 4, sample_size: 4, ..HyperConfig::default() };
        let exact = inputs.attend(&TokenMask { shape: &inputs.shape, mask: &Mask::CAUSAL });
        assert_ne!(inputs.attend(&inputs.estimator(&config, &Mask::CAUSAL, None).unwrap()), exact);
    }

    #[test]
    fn no_query_sees_its_future_and_every_leaf_is_complete() {
        for len in [1, 2, 3, 17, 64, 77] {
            let inputs = Inputs::new([2, 2], [len, len]);
            for min_seq_len in [0, 1, 3, 8] {
                let config = HyperConfig { block_size: 4, sample_size: 3, min_seq_len, ..HyperConfig::default() };
                let estimator = inputs.estimator(&config, &Mask::CAUSAL, None).unwrap();
                for t in 0..len {
                    let mut own = false;
                    estimator.runs(1, 1, t, &mut |run, _| {
                        assert!(run.end <= t + 1);
                        own |= run.contains(&t);
                    });
                    assert!(own, "query {t} of {len} does not see itself");
                }
            }
        }
    }

    /// The published weights make the sum of exponentials right on average; the bound is five standard errors.
    #[test]
    fn the_mean_over_seeds_is_the_exact_denominator() {
        let inputs = Inputs::new([1, 1], [40, 40]);
        let samplings = [Sampling::Uniform, Sampling::Distinct, Sampling::Stratified, Sampling::Values];
        let two_rounds = Inputs::new([1, 1], [40, 40]).two_rounds();
        let calls =
            [(Mask::FULL, 0, 1), (Mask::CAUSAL, 0, 1), (Mask::FULL, 3, 1), (Mask::CAUSAL, 3, 2), (Mask::FULL, 0, 2)];
        for ((mask, sinks, rounds), sampling) in calls.into_iter().flat_map(|call| samplings.map(|s| (call, s))) {
            let inputs = if rounds == 2 { &two_rounds } else { &inputs };
            let exact = inputs.attend(&TokenMask { shape: &inputs.shape, mask: &mask });
            let seeds = 400;
            let ratios: Vec<f64> = (0..seeds)
                .map(|seed| {
                    let sizes = HyperConfig { block_size: 4, sample_size: 6, min_seq_len: 4, ..HyperConfig::default() };
                    let config = HyperConfig { sampling, sinks, rounds, seed, ..sizes };
                    let got = inputs.attend(&inputs.estimator(&config, &mask, None).unwrap());
                    got.lse.iter().zip(&exact.lse).map(|(a, b)| (a - b).exp()).sum::<f64>() / exact.lse.len() as f64
                })
                .collect();
            let mean = ratios.iter().sum::<f64>() / seeds as f64;
            let variance = ratios.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / seeds as f64;
            assert!(
                variance > 0.0 && (mean - 1.0).abs() < 5.0 * (variance / seeds as f64).sqrt(),
                "{sampling:?}, {sinks} sinks, {rounds} rounds: {mean}"
            );
        }
    }

    /// Every key with the weight 1: what is not drawn twice and all drawn leaves nothing to chance.
    #[test]
    fn as_many_samples_as_keys_are_exact() {
        let inputs = Inputs::new([2, 1], [23, 31]);
        let exact = inputs.attend(&TokenMask { shape: &inputs.shape, mask: &Mask::FULL });
        for sample_size in [31, 62] {
            let config = HyperConfig { block_size: 4, sample_size, min_seq_len: 1, ..HyperConfig::default() };
            let drawn = |sampling| {
                let config = HyperConfig { sampling, ..config.clone() };
                inputs.attend(&inputs.estimator(&config, &Mask::FULL, None).unwrap())
            };
            assert_close(&drawn(Sampling::Distinct), &exact);
            assert_close(&drawn(Sampling::Stratified), &exact);
            assert_ne!(drawn(Sampling::Uniform), exact);
        }
    }

    /// The definition as a matrix of counts.
    #[test]
    fn sinks_count_once() {
        let inputs = Inputs::new([4, 2], [23, 31]);
        let sizes = HyperConfig { block_size: 8, sample_size: 25, min_seq_len: 4, ..HyperConfig::default() };
        let place = |ranks: &[u16], i: usize| (0..ranks.len()).filter(|&j| (ranks[j], j) < (ranks[i], i)).count();
        for sinks in [1, 3, 31, 100] {
            let config = HyperConfig { sinks, ..sizes.clone() };
            let count = |b: usize, h: usize, t: usize, key: usize| {
                let head = b * 2 + h / 2;
                let block = place(&inputs.q_ranks[(b * 4 + h) * 23..][..23], t) / 6;
                let at = place(&inputs.k_ranks[head * 31..][..31], key);
                let samples = config.sampling.places(config.seed, h / 2, 0, 25, 31);
                let drawn = samples.into_iter().filter(|&s| s == at).count();
                if at / 8 == block || key < sinks { 1.0 } else { drawn as f64 * 31.0 / 25.0 }
            };
            let got = inputs.attend(&inputs.estimator(&config, &Mask::FULL, None).unwrap());
            assert_close(&got, &inputs.attend(&Counted { kv_len: 31, count }));
        }
        let given = inputs.estimator(&HyperConfig { sinks: 1, ..sizes }, &Mask::FULL, Some(&[0; 100]));
        assert!(matches!(given, Err(Error::Value { what: "samples", .. })));
    }

    /// The definition as a matrix of counts.
    #[test]
    fn keys_of_several_rounds_count_once() {
        let inputs = Inputs::new([4, 2], [23, 31]).two_rounds();
        let config =
            HyperConfig { rounds: 2, block_size: 8, sample_size: 25, min_seq_len: 4, ..HyperConfig::default() };
        let place = |ranks: &[u16], i: usize| (0..ranks.len()).filter(|&j| (ranks[j], j) < (ranks[i], i)).count();
        let count = |b: usize, h: usize, t: usize, key: usize| {
            let head = b * 2 + h / 2;
            let meet = |round: usize| {
                let block = place(&inputs.q_ranks[(round * 8 + b * 4 + h) * 23..][..23], t) / 6;
                place(&inputs.k_ranks[(round * 4 + head) * 31..][..31], key) / 8 == block
            };
            let at = place(&inputs.k_ranks[head * 31..][..31], key);
            let drawn = config.sampling.places(config.seed, h / 2, 0, 25, 31).into_iter().filter(|&s| s == at).count();
            if meet(0) || meet(1) { 1.0 } else { drawn as f64 * 31.0 / 25.0 }
        };
        let got = inputs.attend(&inputs.estimator(&config, &Mask::FULL, None).unwrap());
        assert_close(&got, &inputs.attend(&Counted { kv_len: 31, count }));
    }

    /// The definition as a matrix of counts.
    #[test]
    fn value_samples_weigh_by_their_shares() {
        let inputs = Inputs::new([4, 2], [23, 31]);
        let sizes = HyperConfig { block_size: 8, sample_size: 25, min_seq_len: 4, ..HyperConfig::default() };
        let config = HyperConfig { sampling: Sampling::Values, ..sizes };
        let place = |ranks: &[u16], i: usize| (0..ranks.len()).filter(|&j| (ranks[j], j) < (ranks[i], i)).count();
        let count = |b: usize, h: usize, t: usize, key: usize| {
            let head = b * 2 + h / 2;
            let block = place(&inputs.q_ranks[(b * 4 + h) * 23..][..23], t) / 6;
            let at = place(&inputs.k_ranks[head * 31..][..31], key);
            let shares = &inputs.v_shares[head * 31..][..31];
            let drawn = value_samples(config.seed, h / 2, 0, 25, shares).into_iter().filter(|&row| row == key).count();
            let all: f64 = shares.iter().map(|&share| f64::from(share)).sum();
            if at / 8 == block { 1.0 } else { drawn as f64 * all / (25.0 * f64::from(shares[key])) }
        };
        let got = inputs.attend(&inputs.estimator(&config, &Mask::FULL, None).unwrap());
        assert_close(&got, &inputs.attend(&Counted { kv_len: 31, count }));
        let without = HyperRanks { v_shares: None, ..inputs.ranks() };
        let refused = HyperEstimator::new(&config, &inputs.shape, &Mask::FULL, without, None);
        assert!(matches!(refused, Err(Error::Value { what: "shares of v", .. })));
    }

    /// `L (n / 2) (b + m)` pairs of the levels, masked samples left out, and half of the leaves.
    #[test]
    fn pairs_follow_the_model() {
        let inputs = Inputs::new([2, 1], [256, 256]);
        let config = HyperConfig { block_size: 16, sample_size: 16, min_seq_len: 32, ..HyperConfig::default() };
        let pairs = inputs.estimator(&config, &Mask::CAUSAL, None).unwrap().visited_pairs();
        let (blocks, leaves) = (3 * 128 * 16, 256 * 33 / 2);
        assert!(pairs > 4 * (blocks + leaves) && pairs < 4 * (2 * blocks + leaves), "{pairs}");
        let blocks_alone = HyperConfig { sample_size: 0, ..config };
        let estimator = inputs.estimator(&blocks_alone, &Mask::CAUSAL, None).unwrap();
        assert_eq!(estimator.visited_pairs(), 4 * (blocks + leaves));
    }

    #[test]
    fn bad_samples_are_refused() {
        let inputs = Inputs::new([1, 1], [9, 9]);
        let config = HyperConfig { block_size: 4, sample_size: 2, min_seq_len: 1, ..HyperConfig::default() };
        assert!(inputs.estimator(&config, &Mask::FULL, Some(&[0, 8, 3, 3])).is_ok());
        assert!(inputs.estimator(&config, &Mask::FULL, Some(&[0, 9, 3, 3])).is_err());
        assert!(inputs.estimator(&config, &Mask::FULL, Some(&[0, 8, 3])).is_err());
        assert!(inputs.estimator(&config, &Mask::CAUSAL, Some(&[0, 8, 3, 3])).is_err());
    }
}
