//! The blocks a plan attends, as a dense array on the host: for counting, for drawing and as the tests' oracle.

use crate::error::{Error, Result};
use crate::plan::block_size::BlockSize;
use crate::plan::formula::BlockFormula;
use crate::plan::geometry::{Geometry, Rows};
use crate::reference::Visibility;
use crate::shape::{AttentionShape, Mask};
use std::ops::Range;

/// How often each block of a plan is attended: `data[b, p, r, j]` for sequence `b`, plan head `p`, query block `r`,
/// key block `j`. 0 is never, 1 is the rule, more comes from lists that name a block more than once.
///
/// Query `t` of a call lies in query block `(t + row_shift) / block_q`, whose absolute index is `first_row` more.
/// Query head `h` uses plan head `h * heads / q_heads`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMask {
    /// 1 (shared by all sequences) or the batch.
    pub batch: usize,
    /// Plan heads: 1, the KV heads or the query heads.
    pub heads: usize,
    /// Query blocks: `ceil((q_len + row_shift) / block_q)`.
    pub q_blocks: usize,
    /// Key blocks: `ceil(kv_len / block_k)`.
    pub kv_blocks: usize,
    /// Query rows of a block.
    pub block_q: usize,
    /// Keys of a block.
    pub block_k: usize,
    /// Rows of query block 0 that lie before the first query.
    pub row_shift: usize,
    /// Absolute index of query block 0; negative where queries stand before the first key.
    pub first_row: i64,
    /// `[batch, heads, q_blocks, kv_blocks]`, contiguous.
    pub data: Vec<u8>,
}

impl BlockMask {
    /// A mask with the sizes that `shape` and the blocks imply, all zero.
    fn empty(shape: &AttentionShape, block: BlockSize, batch: usize, heads: usize, rows: Rows) -> Result<Self> {
        let geometry = Geometry::new(shape, block, batch, heads, rows)?;
        let bytes = geometry.blocks()?;
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory { device: "the host".into(), bytes })?;
        data.resize(bytes, 0);
        Ok(Self {
            batch,
            heads,
            q_blocks: geometry.q_blocks,
            kv_blocks: geometry.kv_blocks,
            block_q: block.q,
            block_k: block.k,
            row_shift: geometry.row_shift,
            first_row: geometry.first_row,
            data,
        })
    }

    /// The blocks that a formula attends and that hold a visible (query, key) pair, as `plan_to_mask` computes them on
    /// the device. Shared by the batch.
    ///
    /// `absolute` numbers query blocks by key positions, otherwise block 0 starts at the call's first query.
    ///
    /// # Errors
    /// [`Error::Value`] for a shape, formula, mask, block size or head count outside its range, or `absolute` with
    /// more queries than keys.
    pub fn from_formula(
        shape: &AttentionShape,
        mask: &Mask,
        formula: &BlockFormula,
        heads: usize,
        block_q: usize,
        block_k: usize,
        absolute: bool,
    ) -> Result<Self> {
        Self::of_formula(shape, mask, formula, heads, BlockSize { q: block_q, k: block_k }, rows(absolute))
    }

    /// As [`BlockMask::from_formula`], for rows of any kind.
    pub(crate) fn of_formula(
        shape: &AttentionShape,
        mask: &Mask,
        formula: &BlockFormula,
        heads: usize,
        block: BlockSize,
        rows: Rows,
    ) -> Result<Self> {
        mask.validate(shape)?;
        let mut result = Self::empty(shape, block, 1, heads, rows)?;
        formula.validate(heads, result.kv_blocks)?;
        let counter = PairCounter::new(shape, mask);
        for r in 0..result.q_blocks {
            let queries = result.queries(shape, r);
            for j in 0..result.kv_blocks {
                if counter.count(&queries, &result.keys(shape, j)) == 0 {
                    continue;
                }
                for p in 0..heads {
                    let index = result.index(0, p, r, j);
                    // Visibility stands for causality here: rows need not count absolute positions.
                    result.data[index] = formula.attends(p, result.first_row + r as i64, j, false).into();
                }
            }
        }
        Ok(result)
    }

    /// The blocks of CSR lists: row `(b * heads + p) * q_blocks + r` attends to
    /// `indices[row_offsets[row]..row_offsets[row + 1]]`. A block named twice counts twice, ids outside the keys are
    /// skipped, as in the kernels. Rows count from the call's first query.
    ///
    /// # Errors
    /// [`Error::Value`] for a shape, block size, batch or head count outside its range; [`Error::Shape`] or
    /// [`Error::List`] for offsets that are too few, descend or leave `indices`, or a block named over 255 times.
    pub fn from_lists(
        shape: &AttentionShape,
        block_q: usize,
        block_k: usize,
        batch: usize,
        heads: usize,
        row_offsets: &[i32],
        indices: &[i32],
    ) -> Result<Self> {
        let mut result = Self::empty(shape, BlockSize { q: block_q, k: block_k }, batch, heads, Rows::FirstQuery)?;
        let rows = batch * heads * result.q_blocks;
        if row_offsets.len() != rows + 1 {
            return Err(Error::Shape {
                what: "row_offsets",
                expected: format!("{} elements", rows + 1),
                got: row_offsets.len().to_string(),
            });
        }
        for row in 0..rows {
            let list = |what, expected: &str, got: String| Error::List { what, row, expected: expected.into(), got };
            let (start, end) = (row_offsets[row], row_offsets[row + 1]);
            let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            let blocks = range
                .and_then(|(start, end)| indices.get(start..end))
                .ok_or_else(|| list("row_offsets", "an ascending range inside indices", format!("{start}..{end}")))?;
            for &block in blocks {
                let Some(j) = usize::try_from(block).ok().filter(|&j| j < result.kv_blocks) else { continue };
                let count = &mut result.data[row * result.kv_blocks + j];
                *count = count
                    .checked_add(1)
                    .ok_or_else(|| list("indices", "a block at most 255 times", format!("block {j} more often")))?;
            }
        }
        Ok(result)
    }

    /// A mask from its values `[batch, heads, q_blocks, kv_blocks]`; `absolute` as in [`BlockMask::from_formula`].
    ///
    /// # Errors
    /// [`Error::Value`] for a shape, block size, batch or head count outside its range, [`Error::Shape`] when `data`
    /// has another size.
    pub fn from_data(
        shape: &AttentionShape,
        block_q: usize,
        block_k: usize,
        batch: usize,
        heads: usize,
        absolute: bool,
        data: Vec<u8>,
    ) -> Result<Self> {
        Self::of_data(shape, BlockSize { q: block_q, k: block_k }, batch, heads, rows(absolute), data)
    }

    /// As [`BlockMask::from_data`], for rows of any kind.
    pub(super) fn of_data(
        shape: &AttentionShape,
        block: BlockSize,
        batch: usize,
        heads: usize,
        rows: Rows,
        data: Vec<u8>,
    ) -> Result<Self> {
        let empty = Self::empty(shape, block, batch, heads, rows)?;
        if data.len() != empty.data.len() {
            return Err(Error::Shape {
                what: "block mask",
                expected: format!("[{batch}, {heads}, {}, {}]", empty.q_blocks, empty.kv_blocks),
                got: format!("{} elements", data.len()),
            });
        }
        Ok(Self { data, ..empty })
    }

    fn index(&self, b: usize, p: usize, r: usize, j: usize) -> usize {
        ((b * self.heads + p) * self.q_blocks + r) * self.kv_blocks + j
    }

    /// How often query block `r` of sequence `b` and plan head `p` attends to key block `j`.
    pub fn get(&self, b: usize, p: usize, r: usize, j: usize) -> u8 {
        self.data[self.index(if self.batch == 1 { 0 } else { b }, p, r, j)]
    }

    /// The queries of the call in query block `r`.
    pub fn queries(&self, shape: &AttentionShape, r: usize) -> Range<usize> {
        let start = (r * self.block_q).saturating_sub(self.row_shift);
        start..((r + 1) * self.block_q).saturating_sub(self.row_shift).min(shape.q_len)
    }

    /// The keys in key block `j`.
    pub fn keys(&self, shape: &AttentionShape, j: usize) -> Range<usize> {
        j * self.block_k..((j + 1) * self.block_k).min(shape.kv_len)
    }

    /// Blocks attended, repeats included: the length of the lists that say the same.
    pub fn blocks(&self) -> u64 {
        self.data.iter().map(|&count| u64::from(count)).sum()
    }

    /// Bytes of the index lists (`row_offsets` and `indices`, 4 bytes an element) that say the same.
    pub fn list_bytes(&self) -> u64 {
        let rows = (self.batch * self.heads * self.q_blocks) as u64;
        4 * (rows + 1 + self.blocks())
    }

    /// (query, key) pairs that pass both this mask and the token mask, summed over sequences and query heads. A pair
    /// counts once however often its block is listed.
    pub fn visited_pairs(&self, shape: &AttentionShape, mask: &Mask) -> u64 {
        let counter = PairCounter::new(shape, mask);
        let mut pairs = 0;
        for r in 0..self.q_blocks {
            let queries = self.queries(shape, r);
            for j in 0..self.kv_blocks {
                let rows = (0..self.batch).flat_map(|b| (0..self.heads).map(move |p| (b, p)));
                let plans = rows.filter(|&(b, p)| self.get(b, p, r, j) != 0).count() as u64;
                if plans != 0 {
                    pairs += plans * counter.count(&queries, &self.keys(shape, j));
                }
            }
        }
        pairs * (shape.q_heads / self.heads * shape.batch / self.batch.max(1)) as u64
    }

    /// Visited pairs as a part of those of the token mask alone, 0 to 1; 0 when the token mask lets nothing through.
    pub fn density(&self, shape: &AttentionShape, mask: &Mask) -> f64 {
        match token_pairs(shape, mask) {
            0 => 0.0,
            all => self.visited_pairs(shape, mask) as f64 / all as f64,
        }
    }

    /// What the reference needs: the keys each query sees through this mask and the token mask.
    pub fn visibility<'a>(&'a self, shape: &'a AttentionShape, mask: &'a Mask) -> BlockVisibility<'a> {
        BlockVisibility { blocks: self, shape, mask }
    }
}

fn rows(absolute: bool) -> Rows {
    if absolute { Rows::Absolute } else { Rows::FirstQuery }
}

/// The keys that pass a [`BlockMask`] and a token mask; a key whose block is listed `n` times has log-weight `ln n`.
#[derive(Debug, Clone, Copy)]
pub struct BlockVisibility<'a> {
    blocks: &'a BlockMask,
    shape: &'a AttentionShape,
    mask: &'a Mask,
}

impl Visibility for BlockVisibility<'_> {
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64)) {
        let visible = self.mask.visible(self.shape, t);
        let blocks = self.blocks;
        let (p, r) = (h * blocks.heads / self.shape.q_heads, (t + blocks.row_shift) / blocks.block_q);
        for j in visible.start / blocks.block_k..visible.end.div_ceil(blocks.block_k) {
            let count = blocks.get(b, p, r, j);
            let keys = blocks.keys(self.shape, j);
            if count != 0 {
                visit(keys.start.max(visible.start)..keys.end.min(visible.end), f64::from(count).ln());
            }
        }
    }
}

/// (query, key) pairs that pass the token mask, summed over sequences and query heads: what dense attention visits.
pub fn token_pairs(shape: &AttentionShape, mask: &Mask) -> u64 {
    let pairs = PairCounter::new(shape, mask).count(&(0..shape.q_len), &(0..shape.kv_len));
    pairs * (shape.batch * shape.q_heads) as u64
}

/// Counts the visible pairs of rectangles of queries and keys in closed form.
struct PairCounter {
    /// Query `t` sees keys from `t + low` ...
    low: i64,
    /// ... to before `t + high`.
    high: i64,
}

impl PairCounter {
    fn new(shape: &AttentionShape, mask: &Mask) -> Self {
        // Further than any key; sizes are below 2^31.
        const FAR: i64 = 1 << 32;
        let far = |bound: Option<usize>| bound.map_or(FAR, |bound| i64::try_from(bound).map_or(FAR, |b| b.min(FAR)));
        let position = shape.kv_len as i64 - shape.q_len as i64;
        let right = if mask.causal { 0 } else { far(mask.window_right) };
        Self { low: position - far(mask.window_left), high: position + right + 1 }
    }

    /// Pairs of `queries` x `keys`: for each query the clamped ends of its key range, subtracted.
    fn count(&self, queries: &Range<usize>, keys: &Range<usize>) -> u64 {
        let (first, rows) = (queries.start as i64, queries.len() as i64);
        let (start, end) = (keys.start as i64, (keys.end as i64).max(keys.start as i64));
        let clamped = |offset| clamped_sum(first + offset, rows, start, end);
        (clamped(self.high) - clamped(self.low)) as u64
    }
}

/// The sum of `clamp(x, low, high)` for the `count` integers `x` from `first` on.
fn clamped_sum(first: i64, count: i64, low: i64, high: i64) -> i64 {
    let below = (low - first).clamp(0, count);
    let above = (first + count - high).clamp(0, count - below);
    let inside = count - below - above;
    let start = first + below;
    below * low + above * high + inside * start + inside * (inside - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::DType;
    use proptest::prelude::*;

    fn shape(batch: usize, heads: [usize; 2], lens: [usize; 2]) -> AttentionShape {
        let (q_len, kv_len) = (lens[0], lens[1]);
        AttentionShape { batch, q_heads: heads[0], kv_heads: heads[1], q_len, kv_len, head_dim: 8, dtype: DType::BF16 }
    }

    /// Pairs counted one by one.
    fn brute_force(shape: &AttentionShape, visibility: &impl Visibility) -> u64 {
        let mut pairs = 0;
        for b in 0..shape.batch {
            for h in 0..shape.q_heads {
                (0..shape.q_len).for_each(|t| visibility.runs(b, h, t, &mut |keys, _| pairs += keys.len() as u64));
            }
        }
        pairs
    }

    #[test]
    fn absolute_rows_start_inside_a_block() {
        // 17 queries at positions 31 .. 47, blocks of 16: blocks 1 (position 31) and 2.
        let (shape, mask) = (shape(1, [1, 1], [17, 48]), Mask::CAUSAL);
        let blocks = BlockMask::from_formula(&shape, &mask, &BlockFormula::local(1, 0), 1, 16, 16, true).unwrap();
        assert_eq!((blocks.q_blocks, blocks.row_shift, blocks.first_row), (2, 15, 1));
        assert_eq!((blocks.queries(&shape, 0), blocks.queries(&shape, 1)), (0..1, 1..17));
        assert_eq!(blocks.data, [0, 1, 0, 0, 0, 1]);
        assert_eq!(blocks.visited_pairs(&shape, &mask), 16 + 16 * 17 / 2);
        assert_eq!((blocks.blocks(), blocks.list_bytes()), (2, 4 * (3 + 2)));
    }

    #[test]
    fn dense_has_density_one() {
        let (shape, mask) = (shape(2, [6, 2], [50, 70]), Mask::CAUSAL);
        let blocks = BlockMask::from_formula(&shape, &mask, &BlockFormula::dense(), 2, 16, 16, true).unwrap();
        assert_eq!(blocks.density(&shape, &mask), 1.0);
        assert_eq!(blocks.visited_pairs(&shape, &mask), 2 * 6 * (50 * 51 / 2 + 50 * 20));
        // A window hides blocks that the formula has.
        let narrow = Mask { window_left: Some(0), ..mask };
        let blocks = BlockMask::from_formula(&shape, &narrow, &BlockFormula::dense(), 1, 16, 16, true).unwrap();
        assert_eq!(blocks.visited_pairs(&shape, &narrow), 2 * 6 * 50);
        assert_eq!(blocks.blocks(), blocks.q_blocks as u64);
    }

    #[test]
    fn lists_count_repeats_and_skip_strangers() {
        let shape = shape(2, [2, 1], [32, 40]);
        let offsets = [0, 3, 3, 5, 6];
        let blocks = BlockMask::from_lists(&shape, 16, 16, 2, 1, &offsets, &[2, 0, 2, -1, 3, 1]).unwrap();
        assert_eq!(blocks.data, [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(blocks.visited_pairs(&shape, &Mask::FULL), 2 * (16 * (16 + 8) + 16 * 16));
        let mut runs = Vec::new();
        blocks.visibility(&shape, &Mask::FULL).runs(0, 1, 15, &mut |keys, weight| runs.push((keys, weight)));
        assert_eq!(runs, [(0..16, 0.0), (32..40, 2f64.ln())]);

        assert!(matches!(BlockMask::from_lists(&shape, 16, 16, 2, 1, &[0; 4], &[]), Err(Error::Shape { .. })));
        for offsets in [[0, 2, 1, 2, 2], [-1, 0, 0, 0, 0], [0, 0, 0, 0, 9]] {
            let result = BlockMask::from_lists(&shape, 16, 16, 2, 1, &offsets, &[0, 1]);
            assert!(matches!(result, Err(Error::List { .. })), "{offsets:?}");
        }
        assert!(BlockMask::from_lists(&shape, 16, 16, 1, 1, &[0, 256, 256], &[0; 256]).is_err());
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let few = shape(1, [4, 2], [33, 16]);
        assert!(BlockMask::from_data(&few, 16, 16, 1, 3, false, vec![0; 9]).is_err());
        assert!(BlockMask::from_data(&few, 16, 16, 2, 1, false, vec![0; 6]).is_err());
        assert!(BlockMask::from_data(&few, 0, 16, 1, 1, false, vec![]).is_err());
        assert!(BlockMask::from_data(&few, 16, 16, 1, 1, false, vec![1; 4]).is_err());
        assert!(BlockMask::from_data(&few, 16, 16, 1, 1, true, vec![1; 3]).is_err());
        let full = BlockMask::from_data(&few, 16, 16, 1, 1, false, vec![1; 3]).unwrap();
        assert_eq!(full.visited_pairs(&few, &Mask::FULL), 4 * 33 * 16);
        // No queries, no keys, no sequences.
        for (batch, lens) in [(1, [0, 5]), (1, [0, 0]), (0, [4, 4])] {
            let none = shape(batch, [4, 2], lens);
            let blocks =
                BlockMask::from_formula(&none, &Mask::CAUSAL, &BlockFormula::dense(), 1, 16, 16, true).unwrap();
            assert_eq!((blocks.visited_pairs(&none, &Mask::CAUSAL), blocks.density(&none, &Mask::CAUSAL)), (0, 0.0));
        }
    }

    fn windows() -> impl Strategy<Value = Mask> {
        let bound = || prop::option::of(prop_oneof![0usize..150, Just(1 << 40)]);
        (any::<bool>(), bound(), bound()).prop_map(|(causal, left, right)| Mask {
            causal,
            window_left: left,
            window_right: right,
        })
    }

    proptest! {
        #[test]
        fn pairs_match_brute_force(
            lens in [1usize..200, 1usize..200], batch in 1usize..3, plan in 0usize..3, shared: bool, mask in windows(),
            block in [4usize..8, 4usize..8], absolute: bool, bits in prop::collection::vec(0u8..3, 64),
        ) {
            let mut shape = shape(batch, [4, 2], lens);
            if mask.causal || absolute {
                shape.q_len = shape.q_len.min(shape.kv_len);
            }
            let (heads, batch) = ([1, 2, 4][plan], if shared { 1 } else { batch });
            let block = BlockSize { q: 1 << block[0], k: 1 << block[1] };
            let mut blocks = BlockMask::empty(&shape, block, batch, heads, rows(absolute)).unwrap();
            blocks.data.iter_mut().enumerate().for_each(|(i, count)| *count = bits[i * 7 % 64]);
            let pairs = blocks.visited_pairs(&shape, &mask);
            prop_assert_eq!(pairs, brute_force(&shape, &blocks.visibility(&shape, &mask)));
            let tokens = crate::reference::TokenMask { shape: &shape, mask: &mask };
            prop_assert_eq!(token_pairs(&shape, &mask), brute_force(&shape, &tokens));
        }

        /// A block of the formula is kept iff one of its pairs is visible.
        #[test]
        fn formula_keeps_visible_blocks(
            lens in [1usize..200, 1usize..200], block in 4u32..7, local in 0usize..4, stride in 1usize..5,
            heads in 0usize..3, mask in windows(),
        ) {
            let mut shape = shape(2, [4, 2], lens);
            shape.q_len = shape.q_len.min(shape.kv_len);
            let (heads, block) = ([1, 2, 4][heads], 1 << block);
            let local = BlockFormula::local(local, 1);
            let formula = BlockFormula { vertical_stride: stride, head_step: 1 % stride, head_offset: 0, ..local };
            let blocks = BlockMask::from_formula(&shape, &mask, &formula, heads, block, block, true).unwrap();
            let past = shape.kv_len - shape.q_len;
            let mut expected = vec![0; blocks.data.len()];
            for (p, t) in (0..heads).flat_map(|p| (0..shape.q_len).map(move |t| (p, t))) {
                let i = (past + t) / block;
                for key in mask.visible(&shape, t) {
                    let index = blocks.index(0, p, i - past / block, key / block);
                    expected[index] = formula.attends(p, i as i64, key / block, mask.causal).into();
                }
            }
            prop_assert_eq!(blocks.data, expected);
        }
    }
}
