//! How the rows of a plan lie over the queries of a call.

use super::block_size::BlockSize;
use crate::error::{Error, Result};
use crate::shape::AttentionShape;

/// What query block 0 of a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// It starts at the call's first query and has index 0.
    FirstQuery,
    /// It holds the first query, and blocks start at multiples of `block_q` in key positions.
    Absolute,
    /// As [`Rows::Absolute`], with the first query at this position: negative before the first key.
    At(i64),
}

/// A plan laid over a shape. Counts fit the kernels' 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Sequences that have rows of their own: 1 or the batch.
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) q_blocks: usize,
    pub(crate) kv_blocks: usize,
    /// Query rows of block 0 that lie before the first query.
    pub(crate) row_shift: usize,
    /// Index of block 0.
    pub(crate) first_row: i64,
}

impl Geometry {
    pub(crate) fn new(
        shape: &AttentionShape,
        block: BlockSize,
        batch: usize,
        heads: usize,
        rows: Rows,
    ) -> Result<Self> {
        shape.validate()?;
        block.validate()?;
        if batch != 1 && batch != shape.batch {
            let expected = format!("1 or the batch ({})", shape.batch);
            return Err(Error::Value { what: "plan batch", expected, got: batch.to_string() });
        }
        if ![1, shape.kv_heads, shape.q_heads].contains(&heads) {
            let expected = format!("1, kv_heads ({}) or q_heads ({})", shape.kv_heads, shape.q_heads);
            return Err(Error::Value { what: "plan heads", expected, got: heads.to_string() });
        }
        let position = match rows {
            Rows::FirstQuery => 0,
            Rows::Absolute if shape.q_len > shape.kv_len => {
                return Err(Error::Value {
                    what: "q_len",
                    expected: format!("at most kv_len ({}) when rows count absolute positions", shape.kv_len),
                    got: shape.q_len.to_string(),
                });
            }
            Rows::Absolute => (shape.kv_len - shape.q_len) as i64,
            Rows::At(position) if position.unsigned_abs() > 1 << 30 => {
                let expected = "within 2^30 of the first key".into();
                return Err(Error::Value { what: "position of the first query", expected, got: position.to_string() });
            }
            Rows::At(position) => position,
        };
        let (row_shift, first_row) =
            (position.rem_euclid(block.q as i64) as usize, position.div_euclid(block.q as i64));
        let q_blocks = if shape.q_len == 0 { 0 } else { (shape.q_len + row_shift).div_ceil(block.q) };
        let geometry = Self { batch, heads, q_blocks, kv_blocks: shape.kv_len.div_ceil(block.k), row_shift, first_row };
        // Schedules pack a block's index into 24 bits.
        if geometry.kv_blocks > 1 << 24 {
            return Err(Error::Value {
                what: "kv_len",
                expected: format!("at most 2^24 blocks of {} keys", block.k),
                got: shape.kv_len.to_string(),
            });
        }
        let rows = geometry.batch as u128 * geometry.heads as u128 * geometry.q_blocks as u128;
        if rows > i32::MAX as u128 - 1 {
            return Err(Error::Value { what: "plan rows", expected: "below 2^31 - 1".into(), got: rows.to_string() });
        }
        Ok(geometry)
    }

    /// Rows of the plan: `batch * heads * q_blocks`.
    pub(crate) fn rows(&self) -> usize {
        self.batch * self.heads * self.q_blocks
    }

    /// Blocks of the plan: `rows * kv_blocks`.
    pub(crate) fn blocks(&self) -> Result<usize> {
        self.rows().checked_mul(self.kv_blocks).filter(|&n| isize::try_from(n).is_ok()).ok_or_else(|| Error::Shape {
            what: "block mask",
            expected: "less than 2^63 blocks".into(),
            got: format!("{:?}", self.dims()),
        })
    }

    /// `[batch, heads, q_blocks, kv_blocks]`.
    pub(crate) fn dims(&self) -> [usize; 4] {
        [self.batch, self.heads, self.q_blocks, self.kv_blocks]
    }
}
