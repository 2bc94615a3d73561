//! Block patterns given by a formula: no index memory, evaluated where it is needed.

use crate::error::{Error, Result};
use crate::kernels::bindings as abi;

/// A block pattern that the kernels evaluate themselves; the host side of `lacuna_block_formula`.
///
/// Block `(i, j)` (query block, key block) of plan head `h` is attended iff one of these holds, and, in a causal call,
/// also `j <= i`:
///
/// - `j < sink_blocks`,
/// - it lies in the window: `j <= i` and `i - j < local_blocks`, or `j > i` and `j - i < local_right`,
/// - `(x + (h / heads_per_step) * head_step + head_offset) % vertical_stride == 0`, where `x` is `j`, or if `relative`
///   the distance from the window, `max(0, i - j - local_blocks + 1) + max(0, j - i - local_right + 1)`,
/// - `h >= dense_from`.
///
/// `i` and `j` are compared with each other, so both count blocks of one size; a causal plan counts `i` in absolute
/// key positions. The pattern is that of DKernel (`get_sparse_attn_mask`), extended by sinks and shared shifts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockFormula {
    /// Blocks of the window up to and including the diagonal one.
    pub local_blocks: usize,
    /// Blocks of the window from the diagonal one on, which counts: 1 for none after it. 0 only where `local_blocks` is
    /// 0.
    pub local_right: usize,
    /// Distance in blocks between attended columns, at least 1; 1 attends every block.
    pub vertical_stride: usize,
    /// Whether columns lie at multiples of the stride from the window, and not from the first key.
    pub relative: bool,
    /// Blocks by which the columns of one step of heads lie before those of the step below, in `0..vertical_stride`.
    pub head_step: usize,
    /// Blocks by which the columns of head 0 lie before multiples of the stride, in `0..vertical_stride`.
    pub head_offset: usize,
    /// Consecutive plan heads that share one shift, at least 1.
    pub heads_per_step: usize,
    /// Plan heads from this one on attend to every block.
    pub dense_from: usize,
    /// Blocks at the start of the keys that every head attends to.
    pub sink_blocks: usize,
}

impl BlockFormula {
    /// Largest value the kernels' 32-bit arithmetic takes.
    const MAX: usize = i32::MAX as usize;

    /// Every block.
    pub const fn dense() -> Self {
        Self {
            local_blocks: 0,
            local_right: 1,
            vertical_stride: 1,
            relative: false,
            head_step: 0,
            head_offset: 0,
            heads_per_step: 1,
            dense_from: Self::MAX,
            sink_blocks: 0,
        }
    }

    /// A sliding window of `blocks` blocks (the diagonal one counts) and the first `sinks` blocks: StreamingLLM's
    /// pattern on blocks. Both are cut at `2^31 - 1`.
    pub fn local(blocks: usize, sinks: usize) -> Self {
        Self { local_blocks: blocks.min(Self::MAX), sink_blocks: sinks.min(Self::MAX), ..Self::without_columns() }
    }

    /// Nothing at all: a stride whose only column, block `2^31 - 2`, no tensor reaches.
    pub(crate) const fn without_columns() -> Self {
        Self { vertical_stride: Self::MAX, head_offset: 1, ..Self::dense() }
    }

    /// Whether plan head `head` attends to key block `j` from query block `i`, which is negative where queries stand
    /// before the first key.
    ///
    /// The formula must be valid ([`BlockFormula::validate`]).
    pub fn attends(&self, head: usize, i: i64, j: usize, causal: bool) -> bool {
        let block = j as i64;
        if causal && block > i {
            return false;
        }
        let (left, right) = (self.local_blocks as i64, self.local_right as i64);
        let window = if block <= i { i - block < left } else { block - i < right };
        let distance = (i - block - left + 1).max(0) + (block - i - right + 1).max(0);
        let shift = self.shift(head) as i64;
        let column = ((if self.relative { distance } else { block }) + shift) % self.vertical_stride as i64 == 0;
        j < self.sink_blocks || window || column || head >= self.dense_from
    }

    /// The formula of keys that start at block `first` of these; query blocks count from there too.
    pub(crate) fn starting_at(self, first: usize) -> Self {
        let shift = if self.relative { 0 } else { first % self.vertical_stride };
        let head_offset = (self.head_offset + shift) % self.vertical_stride;
        Self { head_offset, sink_blocks: self.sink_blocks.saturating_sub(first), ..self }
    }

    /// Whether a plan head attends to key block `j` from every query block behind it, however far. The formula must be
    /// cache-efficient.
    pub(crate) fn keeps(&self, head: usize, j: usize) -> bool {
        let at = if self.relative { 1 } else { j + self.shift(head) };
        j < self.sink_blocks || at.is_multiple_of(self.vertical_stride) || head >= self.dense_from
    }

    /// Blocks by which the columns of a plan head lie before multiples of the stride, not reduced by it.
    fn shift(&self, head: usize) -> usize {
        head / self.heads_per_step * self.head_step + self.head_offset
    }

    /// The formula as the kernels see it; it must be valid.
    pub(crate) fn to_abi(self) -> abi::lacuna_block_formula {
        abi::lacuna_block_formula {
            local_blocks: self.local_blocks as i32,
            vertical_stride: self.vertical_stride as i32,
            head_step: self.head_step as i32,
            head_offset: self.head_offset as i32,
            heads_per_step: self.heads_per_step as i32,
            dense_from: self.dense_from as i32,
            sink_blocks: self.sink_blocks as i32,
            local_after: self.local_right as i32 - 1,
            relative: i32::from(self.relative),
        }
    }

    /// Checks every field's range, and that `j + shift` stays below `2^31` for `heads` plan heads and `kv_blocks` key
    /// blocks.
    ///
    /// # Errors
    /// [`Error::Value`] names the first field that breaks its range.
    pub fn validate(&self, heads: usize, kv_blocks: usize) -> Result<()> {
        let range = |what, value: usize, low: usize, high: usize| {
            if value < low || value > high {
                return Err(Error::Value { what, expected: format!("in {low}..={high}"), got: value.to_string() });
            }
            Ok(())
        };
        range("local_blocks", self.local_blocks, 0, Self::MAX)?;
        range("local_right", self.local_right, usize::from(self.local_blocks > 0), Self::MAX)?;
        range("vertical_stride", self.vertical_stride, 1, Self::MAX)?;
        range("head_step", self.head_step, 0, self.vertical_stride - 1)?;
        range("head_offset", self.head_offset, 0, self.vertical_stride - 1)?;
        range("heads_per_step", self.heads_per_step, 1, Self::MAX)?;
        range("dense_from", self.dense_from, 0, Self::MAX)?;
        range("sink_blocks", self.sink_blocks, 0, Self::MAX)?;
        if !self.fits(heads, kv_blocks) {
            return Err(Error::Value {
                what: "vertical_stride",
                expected: format!(
                    "small enough that the shifts of {heads} heads over {kv_blocks} blocks stay below 2^31"
                ),
                got: self.vertical_stride.to_string(),
            });
        }
        Ok(())
    }

    /// Whether `j + shift` stays below `2^31` for every plan head and key block.
    fn fits(&self, heads: usize, kv_blocks: usize) -> bool {
        let steps = (heads.saturating_sub(1) / self.heads_per_step) as u128;
        let shift = steps * self.head_step as u128 + self.head_offset as u128;
        kv_blocks as u128 + shift <= Self::MAX as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of head `head` as strings, `x` for an attended block.
    fn draw(formula: &BlockFormula, head: usize, blocks: usize, causal: bool) -> Vec<String> {
        formula.validate(head + 1, blocks).unwrap();
        let row = |i| (0..blocks).map(|j| if formula.attends(head, i, j, causal) { 'x' } else { '.' }).collect();
        (0..blocks as i64).map(row).collect()
    }

    #[test]
    fn dense_is_the_triangle_or_the_square() {
        assert_eq!(draw(&BlockFormula::dense(), 3, 3, true), ["x..", "xx.", "xxx"]);
        assert_eq!(draw(&BlockFormula::dense(), 3, 3, false), ["xxx", "xxx", "xxx"]);
    }

    #[test]
    fn local_keeps_a_band_and_the_sinks() {
        let expected = ["x....", "xx...", "xxx..", "x.xx.", "x..xx"];
        assert_eq!(draw(&BlockFormula::local(2, 1), 0, 5, true), expected);
        // Without causality the sinks reach over the diagonal, the window does not.
        assert_eq!(draw(&BlockFormula::local(1, 2), 0, 3, false), ["xx.", "xx.", "xxx"]);
        assert_eq!(draw(&BlockFormula::local(0, 0), 0, 2, false), ["..", ".."]);
        assert!(BlockFormula::local(usize::MAX, usize::MAX).validate(1, 1).is_ok());
    }

    #[test]
    fn columns_slide_with_the_head() {
        let formula = BlockFormula {
            vertical_stride: 3,
            head_step: 1,
            heads_per_step: 2,
            dense_from: 6,
            ..BlockFormula::local(0, 0)
        };
        let formula = BlockFormula { head_offset: 0, ..formula };
        for (head, row) in [(0, "x..x"), (1, "x..x"), (2, "..x."), (3, "..x."), (4, ".x.."), (5, ".x.."), (6, "xxxx")] {
            assert_eq!(draw(&formula, head, 4, true)[3], row, "head {head}");
        }
    }

    #[test]
    fn relative_columns_count_from_the_window() {
        let formula = BlockFormula {
            local_blocks: 2,
            local_right: 1,
            vertical_stride: 3,
            relative: true,
            ..BlockFormula::dense()
        };
        // Window of the own block and the one before; columns 3 and 6 blocks before it, and 3 after.
        let expected = ["x..x..x", "xx..x..", ".xx..x.", "..xx..x", "x..xx..", ".x..xx.", "..x..xx"];
        assert_eq!(draw(&formula, 0, 7, false), expected);
        let wide = BlockFormula { local_right: 3, ..formula };
        assert_eq!(draw(&wide, 5, 7, false)[..2], ["xxx..x.", "xxxx..x"]);
        assert!(formula.attends(0, -3, 0, false) && !formula.attends(0, -2, 0, false));
        // Without a window both of its sides count for the diagonal block.
        let none = BlockFormula { local_blocks: 0, local_right: 0, vertical_stride: 2, ..formula };
        assert_eq!(draw(&none, 0, 4, false)[0], "xx.x");
    }

    #[test]
    fn ranges_are_checked() {
        let dense = BlockFormula::dense();
        let cases = [
            (BlockFormula { vertical_stride: 0, ..dense }, "vertical_stride"),
            (BlockFormula { head_step: 1, ..dense }, "head_step"),
            (BlockFormula { head_offset: 1, ..dense }, "head_offset"),
            (BlockFormula { heads_per_step: 0, ..dense }, "heads_per_step"),
            (BlockFormula { local_blocks: 1 << 31, ..dense }, "local_blocks"),
            (BlockFormula { local_blocks: 1, local_right: 0, ..dense }, "local_right"),
            (BlockFormula { vertical_stride: 1 << 30, head_step: 1 << 29, ..dense }, "vertical_stride"),
        ];
        for (formula, name) in cases {
            match formula.validate(8, 4) {
                Err(Error::Value { what, .. }) => assert_eq!(what, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert!(BlockFormula { vertical_stride: 1 << 30, head_step: 1 << 29, ..dense }.validate(3, 4).is_ok());
    }
}
