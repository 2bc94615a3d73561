//! Block lists (CSR) on the device, and the rules for those that come from the host.

use super::block_size::BlockSize;
use super::geometry::{Geometry, Rows};
use crate::device::Stream;
use crate::error::{Error, Result};
use crate::shape::AttentionShape;
use crate::tensor::Tensor;

/// What the rows of block lists stand for. Row `(b * heads + p) * q_blocks + i` holds query block `i` of plan head `p`
/// of sequence `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListRows {
    /// Sizes of a block.
    pub block: BlockSize,
    /// 1 (all sequences share the rows) or the batch.
    pub batch: usize,
    /// Plan heads: 1, the KV heads or the query heads. Query head `h` uses plan head `h * heads / q_heads`.
    pub heads: usize,
    /// Whether blocks start at multiples of `block.q` in key positions (query `t` sits at `t + kv_len - q_len`), so
    /// that the first one may hold fewer queries. Otherwise block 0 starts at the call's first query.
    pub absolute: bool,
}

impl ListRows {
    pub(super) fn rows(&self) -> Rows {
        if self.absolute { Rows::Absolute } else { Rows::FirstQuery }
    }

    pub(super) fn geometry(&self, shape: &AttentionShape) -> Result<Geometry> {
        Geometry::new(shape, self.block, self.batch, self.heads, self.rows())
    }
}

/// Lists on the device. Their contents are data: the kernels skip ids outside the keys and stay inside `indices`.
#[derive(Debug)]
pub(super) struct Lists {
    /// `[rows + 1]`
    pub(super) offsets: Tensor<i32>,
    /// `[capacity]` KV block ids, ascending in a row.
    pub(super) indices: Tensor<i32>,
    pub(super) build: Option<BuildMemory>,
}

/// What building lists on the device needs beside them.
#[derive(Debug)]
pub(super) struct BuildMemory {
    /// `[rows]` scratch
    pub(super) counts: Tensor<i32>,
    /// `[1]` blocks that did not fit
    pub(super) overflow: Tensor<i32>,
}

/// Where a selector writes; all of one stream.
pub(crate) struct SelectionTargets<'a> {
    /// Elements of `indices`.
    pub(crate) capacity: i32,
    /// `[rows + 1]`
    pub(crate) row_offsets: *mut i32,
    /// `[capacity]`
    pub(crate) indices: *mut i32,
    /// `[rows]`
    pub(crate) counts: *mut i32,
    /// `[1]`
    pub(crate) overflow: *mut i32,
    /// That the memory belongs to.
    pub(crate) stream: &'a Stream,
}

impl Lists {
    /// Empty lists with room for `capacity` blocks.
    pub(super) fn with_capacity(stream: &Stream, rows: usize, capacity: usize) -> Result<Self> {
        check_capacity(capacity)?;
        Ok(Self {
            offsets: Tensor::zeros(stream, [1, 1, 1, rows + 1])?,
            indices: Tensor::uninit(stream, [1, 1, 1, capacity])?,
            build: Some(BuildMemory {
                counts: Tensor::uninit(stream, [1, 1, 1, rows])?,
                overflow: Tensor::zeros(stream, [1, 1, 1, 1])?,
            }),
        })
    }

    /// The memory of the lists and of their building.
    pub(super) fn selection_targets(&mut self) -> SelectionTargets<'_> {
        let pointer = |tensor: &mut Tensor<i32>| tensor.view_mut().as_mut_ptr();
        let build = self.build.as_mut();
        let (counts, overflow) = build.map_or((std::ptr::null_mut(), std::ptr::null_mut()), |build| {
            (pointer(&mut build.counts), pointer(&mut build.overflow))
        });
        SelectionTargets {
            capacity: self.indices.layout().len() as i32,
            row_offsets: pointer(&mut self.offsets),
            indices: pointer(&mut self.indices),
            counts,
            overflow,
            stream: self.offsets.stream(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.indices.layout().len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let tensors = [Some(&self.offsets), Some(&self.indices), self.build.as_ref().map(|build| &build.counts)];
        let elements: usize = tensors.into_iter().flatten().map(|tensor| tensor.layout().extent()).sum();
        4 * (elements + usize::from(self.build.is_some()))
    }
}

/// The kernels count blocks in 32 bits.
pub(super) fn check_capacity(capacity: usize) -> Result<()> {
    if capacity > i32::MAX as usize {
        return Err(Error::Value {
            what: "capacity",
            expected: "at most 2^31 - 1 blocks".into(),
            got: capacity.to_string(),
        });
    }
    Ok(())
}

/// Checks lists from the host: offsets start at 0, never descend and end at the number of ids; ids lie in
/// `0..kv_blocks` and never descend within a row (a block named twice counts twice).
pub(super) fn check_host_lists(geometry: &Geometry, row_offsets: &[i32], indices: &[i32]) -> Result<()> {
    let (rows, kv_blocks) = (geometry.rows(), geometry.kv_blocks);
    check_capacity(indices.len())?;
    if row_offsets.len() != rows + 1 {
        return Err(Error::Shape {
            what: "row_offsets",
            expected: format!("{} elements (a row for each of {:?}, and 1)", rows + 1, &geometry.dims()[..3]),
            got: row_offsets.len().to_string(),
        });
    }
    let broken = |what, row, expected: String, got: String| Err(Error::List { what, row, expected, got });
    if row_offsets[0] != 0 {
        return broken("row_offsets", 0, "0 as the first offset".into(), row_offsets[0].to_string());
    }
    for (row, pair) in row_offsets.windows(2).enumerate() {
        if pair[1] < pair[0] || pair[1] as usize > indices.len() {
            let expected = format!("an end in {}..={}", pair[0], indices.len());
            return broken("row_offsets", row, expected, pair[1].to_string());
        }
        let list = &indices[pair[0] as usize..pair[1] as usize];
        if let Some(id) = list.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= kv_blocks)) {
            return broken("indices", row, format!("block ids in 0..{kv_blocks}"), id.to_string());
        }
        if let Some(pair) = list.windows(2).find(|pair| pair[1] < pair[0]) {
            let got = format!("{} after {}", pair[1], pair[0]);
            return broken("indices", row, "ids that never descend".into(), got);
        }
    }
    if row_offsets[rows] as usize != indices.len() {
        let expected = format!("{} (the number of ids) as the last offset", indices.len());
        return broken("row_offsets", rows.saturating_sub(1), expected, row_offsets[rows].to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row_offsets: &[i32], indices: &[i32]) -> Result<()> {
        let geometry = Geometry { batch: 1, heads: 1, q_blocks: 2, kv_blocks: 4, row_shift: 0, first_row: 0 };
        check_host_lists(&geometry, row_offsets, indices)
    }

    #[test]
    fn good_lists() {
        check(&[0, 2, 4], &[0, 3, 1, 1]).unwrap();
        check(&[0, 0, 0], &[]).unwrap();
    }

    #[test]
    fn bad_lists_name_the_row() {
        let row = |offsets: &[i32], indices: &[i32]| match check(offsets, indices) {
            Err(Error::List { what, row, .. }) => (what, row),
            other => panic!("{other:?}"),
        };
        assert_eq!(row(&[1, 1, 1], &[0]), ("row_offsets", 0));
        assert_eq!(row(&[0, 2, 1], &[0, 1]), ("row_offsets", 1));
        assert_eq!(row(&[0, -1, 2], &[0, 1]), ("row_offsets", 0));
        assert_eq!(row(&[0, 3, 3], &[0, 1]), ("row_offsets", 0));
        assert_eq!(row(&[0, 1, 1], &[0, 1]), ("row_offsets", 1));
        assert_eq!(row(&[0, 0, 2], &[0, 4]), ("indices", 1));
        assert_eq!(row(&[0, 1, 2], &[-1, 3]), ("indices", 0));
        assert_eq!(row(&[0, 0, 2], &[3, 2]), ("indices", 1));
        assert!(matches!(check(&[0, 0], &[]), Err(Error::Shape { .. })));
        assert!(matches!(check(&[], &[]), Err(Error::Shape { .. })));
    }
}
