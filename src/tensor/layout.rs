//! Sizes and strides, and what a layout needs of its memory.

use crate::error::{Error, Result};

/// Sizes `[batch, heads, seq, dim]` and strides of the first three axes, in elements. The last axis is contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    dims: [usize; 4],
    strides: [i64; 3],
    /// Elements from the first to behind the last one; 0 if there is none.
    extent: usize,
}

impl Layout {
    /// Elements packed in the order of the axes.
    ///
    /// # Errors
    /// [`Error::Shape`] when the elements can't be counted in 62 bits.
    pub fn contiguous(dims: [usize; 4]) -> Result<Self> {
        let stride = |axes: &[usize]| axes.iter().try_fold(1i64, |n, &d| n.checked_mul(i64::try_from(d.max(1)).ok()?));
        match (stride(&dims[1..]), stride(&dims[2..]), stride(&dims[3..])) {
            (Some(batch), Some(head), Some(seq)) => Self::strided(dims, [batch, head, seq]),
            _ => Err(too_large(dims)),
        }
    }

    /// Elements with strides of one's own. Axes may overlap, and a stride of 0 repeats: good for reading only.
    ///
    /// # Errors
    /// [`Error::Value`] for a negative stride, [`Error::Shape`] when the extent can't be counted in 62 bits.
    pub fn strided(dims: [usize; 4], strides: [i64; 3]) -> Result<Self> {
        if strides.iter().any(|&stride| stride < 0) {
            return Err(Error::Value { what: "strides", expected: "at least 0".into(), got: format!("{strides:?}") });
        }
        let extent = if dims.contains(&0) {
            Some(0)
        } else {
            let reach = dims.iter().zip(strides).try_fold(dims[3] as i128, |sum, (&d, stride)| {
                let step = i128::try_from(d - 1).ok()?.checked_mul(i128::from(stride))?;
                sum.checked_add(step)
            });
            reach.filter(|&reach| reach < 1 << 62).and_then(|reach| usize::try_from(reach).ok())
        };
        Ok(Self { dims, strides, extent: extent.ok_or_else(|| too_large(dims))? })
    }

    /// Sizes `[batch, heads, seq, dim]`.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// Strides of `[batch, heads, seq]`, in elements.
    pub fn strides(&self) -> [i64; 3] {
        self.strides
    }

    /// Elements, each index counted once.
    pub fn len(&self) -> usize {
        // Each size is at most the extent's 62 bits; repeated axes may still overflow, and saturating is enough to
        // compare with a slice's length.
        self.dims.iter().fold(1usize, |n, &d| n.saturating_mul(d))
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.extent == 0
    }

    /// Elements of memory that the layout reaches over, gaps included.
    pub fn extent(&self) -> usize {
        self.extent
    }

    /// Whether the elements are packed in the order of the axes.
    pub fn is_contiguous(&self) -> bool {
        let mut packed = self.dims[3];
        for axis in (0..3).rev() {
            if self.dims[axis] > 1 && self.strides[axis] as u64 != packed as u64 {
                return false;
            }
            packed = packed.saturating_mul(self.dims[axis]);
        }
        true
    }

    /// Whether different indices surely are different elements: each axis steps over all that the smaller ones reach.
    pub fn is_injective(&self) -> bool {
        let mut axes: Vec<(i128, i128)> = (0..3)
            .filter(|&axis| self.dims[axis] > 1)
            .map(|axis| (i128::from(self.strides[axis]), self.dims[axis] as i128))
            .collect();
        axes.sort_unstable();
        let mut reach = self.dims[3] as i128;
        for (stride, size) in axes {
            if stride < reach {
                return false;
            }
            reach += (size - 1) * stride;
        }
        true
    }

    /// The axes `heads` and `seq` exchanged: reads `[batch, seq, heads, dim]` as `[batch, heads, seq, dim]`.
    #[must_use]
    pub fn swap_heads_and_seq(self) -> Self {
        let ([batch, heads, seq, dim], [of_batch, of_head, of_seq]) = (self.dims, self.strides);
        Self { dims: [batch, seq, heads, dim], strides: [of_batch, of_seq, of_head], extent: self.extent }
    }

    /// A part of one axis, and the element where it starts.
    ///
    /// # Errors
    /// [`Error::Value`] for an axis above 3 or a range outside the axis.
    pub(super) fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<(Self, usize)> {
        let Some(&size) = self.dims.get(axis) else {
            return Err(Error::Value { what: "axis", expected: "in 0..4".into(), got: axis.to_string() });
        };
        if start.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::Value {
                what: "range",
                expected: format!("inside 0..{size} (axis {axis})"),
                got: format!("{len} from {start}"),
            });
        }
        let stride = self.strides.get(axis).map_or(1, |&stride| stride as usize);
        let mut dims = self.dims;
        dims[axis] = len;
        let part = Self::strided(dims, self.strides)?;
        // An empty part has no first element; its offset must not leave the memory either.
        let offset = if part.is_empty() { 0 } else { start * stride };
        Ok((part, offset))
    }

    /// Calls `visit` with the memory offset of each row of the last axis, in index order.
    pub(super) fn for_each_row(&self, mut visit: impl FnMut(usize)) {
        if self.is_empty() {
            return;
        }
        let [batch, head, seq] = self.strides.map(|stride| stride as usize);
        for b in 0..self.dims[0] {
            for h in 0..self.dims[1] {
                for t in 0..self.dims[2] {
                    visit(b * batch + h * head + t * seq);
                }
            }
        }
    }
}

fn too_large(dims: [usize; 4]) -> Error {
    Error::Shape { what: "layout", expected: "less than 2^62 elements of memory".into(), got: format!("{dims:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_layouts() {
        let layout = Layout::contiguous([2, 3, 5, 8]).unwrap();
        assert_eq!(layout.strides(), [120, 40, 8]);
        assert_eq!((layout.extent(), layout.len()), (240, 240));
        assert!(layout.is_contiguous() && layout.is_injective());
        let swapped = layout.swap_heads_and_seq();
        assert_eq!((swapped.dims(), swapped.strides()), ([2, 5, 3, 8], [120, 8, 40]));
        assert!(!swapped.is_contiguous() && swapped.is_injective());
    }

    #[test]
    fn empty_layouts() {
        for dims in [[0, 3, 5, 8], [2, 0, 5, 8], [2, 3, 0, 8], [2, 3, 5, 0], [usize::MAX, 1, 1, 0]] {
            let layout = Layout::strided(dims, [i64::MAX; 3]).unwrap();
            assert!(layout.is_empty() && layout.extent() == 0);
        }
    }

    #[test]
    fn overlaps_are_seen() {
        for (strides, injective) in [
            ([120, 40, 8], true),
            ([0, 40, 8], false),
            ([120, 40, 7], false),
            ([119, 40, 8], false),
            ([8, 16, 48], true),
            ([1000, 8, 24], true),
        ] {
            assert_eq!(Layout::strided([2, 3, 5, 8], strides).unwrap().is_injective(), injective, "{strides:?}");
        }
        // An axis of one element has no step.
        assert!(Layout::strided([1, 1, 5, 8], [0, 0, 8]).unwrap().is_injective());
    }

    #[test]
    fn overflow_is_an_error() {
        for (dims, strides) in [
            ([usize::MAX, 2, 2, 2], [i64::MAX, 1, 1]),
            ([3, 1, 1, 1], [i64::MAX, 0, 0]),
            ([1, 1, 1, usize::MAX], [0, 0, 0]),
        ] {
            assert!(matches!(Layout::strided(dims, strides), Err(Error::Shape { .. })), "{dims:?}");
        }
        assert!(Layout::contiguous([1 << 40, 1 << 20, 1 << 20, 1]).is_err());
        assert!(Layout::strided([1, 1, 1, 1], [-1, 0, 0]).is_err());
    }

    #[test]
    fn parts() {
        let layout = Layout::contiguous([2, 3, 5, 8]).unwrap();
        let (part, offset) = layout.narrow(2, 1, 3).unwrap();
        assert_eq!((part.dims(), part.strides(), offset), ([2, 3, 3, 8], [120, 40, 8], 8));
        assert_eq!(layout.narrow(3, 4, 4).unwrap().1, 4);
        assert_eq!(layout.narrow(0, 2, 0).unwrap().1, 0);
        assert!(layout.narrow(2, 3, 3).is_err());
        assert!(layout.narrow(2, usize::MAX, 2).is_err());
        assert!(layout.narrow(4, 0, 1).is_err());
    }
}
