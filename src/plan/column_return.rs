//! Whether a pattern lets a cache forget: a key block that a query block drops must never be wanted again.

use std::fmt;

use super::block_mask::BlockMask;
use super::formula::BlockFormula;
use crate::shape::AttentionShape;

/// A key block that comes back: why a pattern is not cache-efficient. All in blocks, of the first plan head that has
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ColumnReturn {
    /// Sequence of the plan; 0 where all share it.
    pub sequence: usize,
    /// Plan head.
    pub head: usize,
    /// Key block.
    pub column: usize,
    /// Query block that does not attend to it, at or after the column.
    pub dropped: usize,
    /// Query block after it that does.
    pub returns: usize,
}

impl fmt::Display for ColumnReturn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { head, column, dropped, returns, .. } = self;
        write!(f, "key block {column} of plan head {head} is dropped by query block {dropped} and back at {returns}")
    }
}

/// The first pair of `(dropped, returns)` in rows that say whether they attend, numbered from the first one that lies
/// at or behind the column.
fn first_return(rows: impl Iterator<Item = (usize, bool)>) -> Option<(usize, usize)> {
    let mut dropped = None;
    for (row, attends) in rows {
        match (dropped, attends) {
            (None, false) => dropped = Some(row),
            (Some(dropped), true) => return Some((dropped, row)),
            _ => {}
        }
    }
    None
}

impl BlockFormula {
    /// A key block that a query block drops and a later one attends to, in a sequence of `blocks` blocks whose queries
    /// and keys start together; `None`: there is none, and a cache may forget what is out of reach. The formula must be
    /// valid.
    pub fn column_return(&self, heads: usize, blocks: usize) -> Option<ColumnReturn> {
        // Columns behind the sinks are alike up to their place, and the first one sees the most rows.
        let column = self.sink_blocks;
        (0..heads.min(self.dense_from)).find_map(|head| {
            let rows = (column..blocks).map(|i| (i, self.attends(head, i as i64, column, false)));
            let (dropped, returns) = first_return(rows)?;
            Some(ColumnReturn { sequence: 0, head, column, dropped, returns })
        })
    }
}

impl BlockMask {
    /// A key block that a query block drops and a later one attends to, looking at query blocks from the key block's
    /// own on; `None`: there is none, and a cache may forget what is out of reach. Rows are named by their number in
    /// the mask.
    pub fn column_return(&self, shape: &AttentionShape) -> Option<ColumnReturn> {
        let past = shape.kv_len as i64 - shape.q_len as i64;
        let places = (0..self.batch).flat_map(|b| (0..self.heads).map(move |p| (b, p)));
        places.flat_map(|place| (0..self.kv_blocks).map(move |j| (place, j))).find_map(|((b, p), j)| {
            // From the last row that holds a query inside the block, or the first one behind it, on.
            let end = self.keys(shape, j).end as i64;
            let behind = (0..self.q_blocks).find(|&r| self.queries(shape, r).start as i64 + past >= end);
            let first = behind.unwrap_or(self.q_blocks).saturating_sub(1);
            let rows = (first..self.q_blocks).map(|r| (r, self.get(b, p, r, j) != 0));
            let (dropped, returns) = first_return(rows)?;
            Some(ColumnReturn { sequence: b, head: p, column: j, dropped, returns })
        })
    }
}
