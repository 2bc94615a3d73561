//! Parts of a pattern: some of the queries against some of the keys, for some of the heads.

use super::config::S2Config;
use crate::error::{Error, Result};
use crate::plan::{BlockMask, BlockPlan, BlockSize};
use crate::shape::{AttentionShape, Mask};

/// Which part of a pattern a call computes. The default is all of it: queries that end where the keys end.
///
/// Sequence parallelism gives each device a range of the queries, or of the keys; what several ranges of keys give for
/// the same queries is merged by the LSE ([`attention::merge`](crate::attention::merge())). Tensor parallelism gives
/// each a range of the heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Piece {
    /// Position of the first query in the whole sequence; `None`: the last query stands at the last key of the piece.
    pub q_start: Option<usize>,
    /// Position of the first key in the whole sequence, a multiple of the block size.
    pub kv_start: usize,
    /// The heads of the call, of more; `None`: they are all.
    pub heads: Option<HeadRange>,
}

/// Consecutive heads of a model, as many as the shape of a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeadRange {
    /// First query head, a multiple of the group.
    pub first: usize,
    /// Query heads of the model.
    pub of: usize,
}

/// The call that computes a piece.
#[derive(Debug)]
pub struct PieceCall {
    /// The piece's shape. A causal piece whose last keys lie behind its last query has fewer keys than were given: cut
    /// k and v to `kv_len`, by `narrow(2, 0, kv_len)`.
    pub shape: AttentionShape,
    /// For [`ForwardOptions::mask`](crate::ForwardOptions::mask). A causal piece that lies off the diagonal has a
    /// window to the right that says the same.
    pub mask: Mask,
    /// The pattern.
    pub plan: BlockPlan,
}

impl PieceCall {
    /// The blocks of the piece, computed on the host.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn block_mask(&self) -> Result<BlockMask> {
        self.plan.host_mask(&self.shape, &self.mask)
    }
}

impl S2Config {
    /// A part of the pattern as a call of its own. `shape` is that of the call's tensors.
    ///
    /// # Errors
    /// [`Error::Value`] names a setting or a start outside its range, or a causal call of the whole pattern with more
    /// queries than keys.
    pub fn piece(&self, shape: &AttentionShape, piece: &Piece) -> Result<PieceCall> {
        shape.validate()?;
        let value = |what, expected: String, got: usize| Err(Error::Value { what, expected, got: got.to_string() });
        if let Some(HeadRange { first, of }) = piece.heads {
            let group = shape.group();
            if !first.is_multiple_of(group) || first > of.saturating_sub(shape.q_heads) {
                let expected =
                    format!("a multiple of the group ({group}), at most {}", of.saturating_sub(shape.q_heads));
                return value("first head", expected, first);
            }
            if of < shape.q_heads || of > 1 << 30 || !of.is_multiple_of(group) {
                let expected = format!("a multiple of the group ({group}) in {}..=2^30", shape.q_heads);
                return value("heads of the model", expected, of);
            }
        }
        let (formula, heads) = self.formula(shape, piece.heads.map(|heads| (heads.of, heads.first)))?;
        let block = self.block_size;
        for (what, start) in [("q_start", piece.q_start.unwrap_or(0)), ("kv_start", piece.kv_start)] {
            if start > 1 << 30 {
                return value(what, "at most 2^30".into(), start);
            }
        }
        if !piece.kv_start.is_multiple_of(block) {
            return value("kv_start", format!("a multiple of block_size ({block})"), piece.kv_start);
        }
        // Positions count from the piece's first key from here on.
        let formula = formula.starting_at(piece.kv_start / block);
        let end = shape.kv_len as i64 - shape.q_len as i64;
        let position = match piece.q_start {
            Some(q_start) => q_start as i64 - piece.kv_start as i64,
            None => end,
        };
        if self.causal && piece.q_start.is_none() {
            self.mask().validate(shape)?;
        }
        let mut shape = *shape;
        let mut mask = self.mask();
        if self.causal {
            let seen = (position + shape.q_len as i64).clamp(0, shape.kv_len as i64);
            shape.kv_len = seen as usize;
            // Keys up to `position + t`, where a kernel counts from `t + kv_len - q_len`.
            let right = position + shape.q_len as i64 - seen;
            mask = match usize::try_from(right) {
                Ok(0) if shape.q_len <= shape.kv_len => Mask::CAUSAL,
                Ok(right) => Mask { window_right: Some(right), ..Mask::FULL },
                // All queries stand before all keys, of which none is left.
                Err(_) => Mask::FULL,
            };
        }
        let size = BlockSize::square(block);
        // Rows that count from the end follow the lengths of decode.
        let plan = if position >= 0 && position == shape.kv_len as i64 - shape.q_len as i64 {
            BlockPlan::formula(formula, size, heads, true)?
        } else {
            BlockPlan::formula_at(formula, size, heads, position)?
        };
        plan.geometry(&shape)?;
        Ok(PieceCall { shape, mask, plan })
    }
}
