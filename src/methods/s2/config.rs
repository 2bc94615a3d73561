//! The settings of S2-Attention, and the formula that they stand for.

use crate::error::{Error, Result};
use crate::plan::{BlockFormula, BlockMask, BlockPlan, ColumnReturn};
use crate::shape::{AttentionShape, Mask};

use super::piece::{Piece, PieceCall};

/// Which heads slide, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum S2Variant {
    /// KV head `h` keeps column `j` iff `(j + h * step + offset) % stride == 0`; query heads that share a KV head share
    /// the pattern.
    #[default]
    Dkernel,
    /// Query head `h` keeps column `j` iff `(j + h * step + 1 + offset) % stride == 0`. A negative step slides by its
    /// magnitude along KV heads instead.
    Phi3,
}

/// Where strided columns count from (`vert_position_type` of DKernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum S2Columns {
    /// From the first key: a column is the same for all queries, so that a cache can drop the others.
    Absolute,
    /// From the edges of each query's window: its columns are those whose distance to the window is a multiple of the
    /// stride. They are the same for all heads: step and offset are not used.
    Relative,
}

/// Settings of S2-Attention. Blocks are square and counted in absolute key positions.
///
/// Query block `i` keeps key block `j` iff it lies in the window (`i - j < local_blocks` and `j - i < local_right`), or
/// `j < sink_blocks`, or `j` is one of the head's columns (see [`S2Variant`], [`S2Columns`]), or the head is dense; in
/// a causal call also `j <= i`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct S2Config {
    /// Tokens of a block: 16, 32, 64 or 128.
    pub block_size: usize,
    /// Blocks of the local window up to the query's own, which counts.
    pub local_blocks: usize,
    /// Blocks of the local window from the query's own on, which counts; not for causal calls. `None`: `local_blocks`.
    pub local_right: Option<usize>,
    /// Distance in blocks between columns, at least 1; 1 is dense attention.
    pub vertical_stride: usize,
    /// Where columns count from. `None`: absolute in causal calls, relative in others.
    pub columns: Option<S2Columns>,
    /// Blocks by which the columns slide from one head to the next. `None` or 0: `max(1, vertical_stride / q_heads)`,
    /// with the *query* heads whatever the variant.
    pub head_sliding_step: Option<i64>,
    /// Added to every head's shift, in blocks; may be negative.
    pub head_sliding_offset: i64,
    /// The last KV heads, with all their query heads, that attend densely; at most the KV heads.
    pub num_dense_kv_heads: usize,
    /// One pattern for all heads, that of head 0; no head is dense.
    pub homogeneous: bool,
    /// First blocks that every query keeps (an addition of this crate, 0 in the paper).
    pub sink_blocks: usize,
    /// Which heads slide.
    pub variant: S2Variant,
    /// Whether queries see no key behind them.
    pub causal: bool,
}

impl Default for S2Config {
    fn default() -> Self {
        Self {
            block_size: 64,
            local_blocks: 16,
            local_right: None,
            vertical_stride: 8,
            columns: None,
            head_sliding_step: None,
            head_sliding_offset: 0,
            num_dense_kv_heads: 0,
            homogeneous: false,
            sink_blocks: 0,
            variant: S2Variant::Dkernel,
            causal: true,
        }
    }
}

impl S2Config {
    /// Checks the settings against a shape and the token mask of the calls.
    ///
    /// # Errors
    /// [`Error::Value`] names a setting outside its range, a mask that is causal where the pattern is not (or the other
    /// way round), or a causal call with more queries than keys.
    pub fn validate(&self, shape: &AttentionShape, mask: &Mask) -> Result<()> {
        if mask.causal != self.causal {
            let expected = format!("{}, as the pattern's", self.causal);
            return Err(Error::Value { what: "causal", expected, got: mask.causal.to_string() });
        }
        self.call(shape).map(|_| ())
    }

    /// The token mask that the pattern is meant for.
    pub fn mask(&self) -> Mask {
        if self.causal { Mask::CAUSAL } else { Mask::FULL }
    }

    /// The pattern as a plan with no index memory, for calls under [`S2Config::mask`]. Plan heads are the KV heads
    /// (`Dkernel`), the query heads (`Phi3`) or 1 (`homogeneous`).
    ///
    /// # Errors
    /// [`Error::Value`] names a setting outside its range or a causal call with more queries than keys.
    pub fn plan(&self, shape: &AttentionShape) -> Result<BlockPlan> {
        Ok(self.call(shape)?.plan)
    }

    /// The blocks of the pattern, computed on the host.
    ///
    /// # Errors
    /// As [`S2Config::plan`]; [`Error::OutOfMemory`].
    pub fn block_mask(&self, shape: &AttentionShape) -> Result<BlockMask> {
        self.call(shape)?.block_mask()
    }

    /// A column that a query block drops and a later one wants back, in a sequence as long as the shape's keys: keys
    /// that are out of reach can't be given up then. `None`: the pattern is cache-efficient, as every causal one with
    /// absolute columns is.
    ///
    /// # Errors
    /// As [`S2Config::plan`].
    pub fn column_return(&self, shape: &AttentionShape) -> Result<Option<ColumnReturn>> {
        let whole = AttentionShape { q_len: shape.kv_len, ..*shape };
        let (formula, heads) = self.formula(&whole, None)?;
        Ok(formula.column_return(heads, shape.kv_len.div_ceil(self.block_size)))
    }

    /// The call of a whole pattern.
    fn call(&self, shape: &AttentionShape) -> Result<PieceCall> {
        self.piece(shape, &Piece::default())
    }

    /// Blocks of the window as `(left, right)`, both counting the query's own.
    fn window(&self) -> Result<(usize, usize)> {
        match (self.causal, self.local_right) {
            (true, None) => Ok((self.local_blocks, 1)),
            (true, Some(right)) => {
                let expected = "none in a causal pattern".into();
                Err(Error::Value { what: "local_right", expected, got: right.to_string() })
            }
            (false, right) => Ok((self.local_blocks, right.unwrap_or(self.local_blocks))),
        }
    }

    /// The pattern as `(formula, plan heads)`, for plan rows that count absolute positions. `of`: the shape's heads are
    /// some of more, as `(query heads of all, first query head)`.
    pub(super) fn formula(&self, shape: &AttentionShape, of: Option<(usize, usize)>) -> Result<(BlockFormula, usize)> {
        shape.validate()?;
        let (all_q_heads, first_q_head) = of.unwrap_or((shape.q_heads, 0));
        let all_kv_heads = all_q_heads / shape.group();
        if ![16, 32, 64, 128].contains(&self.block_size) {
            return Err(out_of_range("block_size", "16, 32, 64 or 128".into(), self.block_size));
        }
        if self.vertical_stride == 0 {
            return Err(out_of_range("vertical_stride", "at least 1".into(), 0));
        }
        if self.num_dense_kv_heads > all_kv_heads {
            let expected = format!("at most kv_heads ({all_kv_heads})");
            return Err(out_of_range("num_dense_kv_heads", expected, self.num_dense_kv_heads));
        }
        let (left, right) = self.window()?;
        if right == 0 && left > 0 {
            return Err(out_of_range("local_right", "at least 1 beside local_blocks above 0".into(), 0));
        }
        let most = i32::MAX as usize;
        let local =
            BlockFormula { local_right: right.min(most), ..BlockFormula::local(self.local_blocks, self.sink_blocks) };
        let step = match self.head_sliding_step {
            None | Some(0) => i128::from((self.vertical_stride / all_q_heads).max(1) as u64),
            Some(step) => i128::from(step),
        };
        let offset = i128::from(self.head_sliding_offset);
        let relative = self.columns.unwrap_or(if self.causal { S2Columns::Absolute } else { S2Columns::Relative })
            == S2Columns::Relative;
        // In plan heads: all of them, the first one here, and those of a KV head.
        let (step, offset, per_step, per_kv_head) = match self.variant {
            S2Variant::Dkernel => (step, offset, 1, 1),
            S2Variant::Phi3 if step < 0 => (-step, offset + 1, shape.group(), shape.group()),
            S2Variant::Phi3 => (step, offset + 1, 1, shape.group()),
        };
        let (step, offset) = if relative { (0, 0) } else { (step, offset) };
        let heads = shape.kv_heads * per_kv_head;
        let first = first_q_head / shape.group() * per_kv_head;
        let offset = offset + (first / per_step) as i128 * step;
        let stride = self.vertical_stride as i128;
        let mut formula = BlockFormula {
            vertical_stride: self.vertical_stride,
            relative,
            // Only the remainder matters, and it keeps the kernels' 32-bit sums small.
            head_step: step.rem_euclid(stride) as usize,
            head_offset: offset.rem_euclid(stride) as usize,
            heads_per_step: per_step,
            dense_from: ((all_kv_heads - self.num_dense_kv_heads) * per_kv_head).saturating_sub(first),
            ..local
        };
        let mut plan_heads = heads;
        if self.homogeneous {
            plan_heads = 1;
            // Head 0 of all heads, wherever these start.
            let offset = offset - (first / per_step) as i128 * step;
            let head_offset = offset.rem_euclid(stride) as usize;
            formula = BlockFormula { head_step: 0, head_offset, heads_per_step: 1, dense_from: 1, ..formula };
        }
        let kv_blocks = shape.kv_len.div_ceil(self.block_size);
        if let Err(error) = formula.validate(plan_heads, kv_blocks) {
            // A huge stride is how others write "no columns"; it may not fit 32 bits, but then needs no columns. No
            // distance from a window reaches such a stride.
            let sparse = plan_heads.min(formula.dense_from);
            if !relative && (0..sparse).any(|h| first_column(&formula, h) < kv_blocks as u128) {
                return Err(error);
            }
            let none = BlockFormula::without_columns();
            formula = BlockFormula {
                vertical_stride: none.vertical_stride,
                head_offset: none.head_offset,
                dense_from: formula.dense_from,
                ..local
            };
        }
        Ok((formula, plan_heads))
    }
}

/// The lowest block that head `h` keeps as a column.
fn first_column(formula: &BlockFormula, h: usize) -> u128 {
    let stride = formula.vertical_stride as u128;
    let shift = (h / formula.heads_per_step) as u128 * formula.head_step as u128 + formula.head_offset as u128;
    (stride - shift % stride) % stride
}

fn out_of_range(what: &'static str, expected: String, got: usize) -> Error {
    Error::Value { what, expected, got: got.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::BlockMask;
    use crate::shape::DType;
    use proptest::prelude::*;

    fn shape(kv_heads: usize, group: usize, q_len: usize, kv_len: usize) -> AttentionShape {
        AttentionShape {
            batch: 1,
            q_heads: kv_heads * group,
            kv_heads,
            q_len,
            kv_len,
            head_dim: 64,
            dtype: DType::BF16,
        }
    }

    /// `x % n` of Python for `n > 0`.
    fn python_modulo(x: i64, n: i64) -> i64 {
        ((x % n) + n) % n
    }

    /// The published rule (DKernel's `get_sparse_attn_mask`, vLLM's variant) for one block: does query head `qh` keep
    /// `(i, j)`? All heads are there.
    fn transcribed(config: &S2Config, shape: &AttentionShape, qh: usize, i: i64, j: i64) -> bool {
        let (stride, offset) = (config.vertical_stride as i64, config.head_sliding_offset);
        let kv_head = qh / shape.group();
        let step = match config.head_sliding_step.unwrap_or(0) {
            0 => std::cmp::max(1, stride / shape.q_heads as i64),
            step => step,
        };
        let head_shift = match config.variant {
            S2Variant::Dkernel => kv_head as i64 * step,
            S2Variant::Phi3 if step >= 0 => qh as i64 * step,
            S2Variant::Phi3 => kv_head as i64 * -step,
        };
        let head_shift = if config.homogeneous { 0 } else { head_shift };
        let one = if config.variant == S2Variant::Phi3 { 1 } else { 0 };
        let dense = !config.homogeneous && kv_head >= shape.kv_heads - config.num_dense_kv_heads;
        let left_blocks = config.local_blocks as i64;
        let right_blocks = match (config.causal, config.local_right) {
            (true, _) => 1,
            (false, None) => left_blocks,
            (false, Some(right)) => right as i64,
        };
        let relative = match config.columns {
            None => !config.causal,
            Some(columns) => columns == S2Columns::Relative,
        };
        let kept = if relative {
            let left = std::cmp::max(0, (i - j) - left_blocks + 1);
            let right = std::cmp::max(0, (j - i) - right_blocks + 1);
            dense || (left + right) % stride == 0
        } else {
            dense
                || python_modulo(j + head_shift + offset + one, stride) == 0
                || i - j < left_blocks && j - i < right_blocks
        };
        let sink = j < config.sink_blocks as i64;
        (!config.causal || j <= i) && (kept || sink)
    }

    /// The planned mask per query head, query block and key block.
    fn planned(config: &S2Config, shape: &AttentionShape) -> BlockMask {
        config.block_mask(shape).unwrap()
    }

    fn assert_transcribed(config: &S2Config, shape: &AttentionShape) {
        let mask = planned(config, shape);
        for qh in 0..shape.q_heads {
            for (r, j) in (0..mask.q_blocks).flat_map(|r| (0..mask.kv_blocks).map(move |j| (r, j))) {
                let got = mask.get(0, qh * mask.heads / shape.q_heads, r, j) == 1;
                let i = mask.first_row + r as i64;
                assert_eq!(got, transcribed(config, shape, qh, i, j as i64), "head {qh}, block ({i}, {j}): {config:?}");
            }
        }
    }

    #[test]
    fn defaults_are_those_of_phi3_small() {
        let config = S2Config::default();
        let (formula, heads) = config.formula(&shape(8, 4, 4096, 4096), None).unwrap();
        assert_eq!((heads, config.block_size), (8, 64));
        assert_eq!((formula.local_blocks, formula.vertical_stride, formula.head_step), (16, 8, 1));
    }

    #[test]
    fn the_default_step_uses_query_heads() {
        let config = S2Config { vertical_stride: 16, ..S2Config::default() };
        assert_eq!(config.formula(&shape(2, 1, 64, 64), None).unwrap().0.head_step, 8);
        assert_eq!(config.formula(&shape(2, 4, 64, 64), None).unwrap().0.head_step, 2);
        let zero = S2Config { head_sliding_step: Some(0), ..config };
        assert_eq!(zero.formula(&shape(2, 4, 64, 64), None).unwrap().0.head_step, 2);
    }

    #[test]
    fn plan_heads_follow_the_variant() {
        let shape = shape(2, 3, 64, 64);
        let dense = S2Config { num_dense_kv_heads: 1, ..S2Config::default() };
        let phi3 = S2Config { variant: S2Variant::Phi3, ..dense.clone() };
        let one = S2Config { homogeneous: true, ..phi3.clone() };
        let summary = |config: &S2Config| {
            let (formula, heads) = config.formula(&shape, None).unwrap();
            (heads, formula.dense_from)
        };
        assert_eq!((summary(&dense), summary(&phi3), summary(&one)), ((2, 1), (6, 3), (1, 1)));
    }

    #[test]
    fn ranges_are_checked() {
        let (good, small) = (S2Config::default(), shape(2, 2, 64, 64));
        let cases = [
            (S2Config { block_size: 48, ..good.clone() }, "block_size"),
            (S2Config { block_size: 0, ..good.clone() }, "block_size"),
            (S2Config { vertical_stride: 0, ..good.clone() }, "vertical_stride"),
            (S2Config { num_dense_kv_heads: 3, ..good.clone() }, "num_dense_kv_heads"),
            (S2Config { local_right: Some(1), ..good.clone() }, "local_right"),
            (S2Config { causal: false, local_right: Some(0), ..good.clone() }, "local_right"),
        ];
        for (config, name) in cases {
            match config.plan(&small) {
                Err(Error::Value { what, .. }) => assert_eq!(what, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert!(good.plan(&shape(2, 2, 65, 64)).is_err());
        assert!(good.validate(&small, &Mask::CAUSAL).is_ok());
        assert!(matches!(good.validate(&small, &Mask::FULL), Err(Error::Value { what: "causal", .. })));
        assert!(S2Config { causal: false, ..good }.validate(&shape(2, 2, 65, 64), &Mask::FULL).is_ok());
    }

    #[test]
    fn extreme_settings_stay_inside_32_bits() {
        let shape = shape(4, 2, 512, 512);
        let extremes = [i64::MIN, i64::MIN + 1, -1, 1, i64::MAX];
        for (step, offset) in extremes.iter().flat_map(|&step| extremes.map(|offset| (step, offset))) {
            for variant in [S2Variant::Dkernel, S2Variant::Phi3] {
                let config = S2Config {
                    head_sliding_step: Some(step),
                    head_sliding_offset: offset,
                    local_blocks: usize::MAX,
                    sink_blocks: usize::MAX,
                    variant,
                    ..S2Config::default()
                };
                assert!(config.plan(&shape).is_ok(), "{config:?}");
            }
        }
        // "No columns" as a stride that no tensor reaches.
        for stride in [1 << 20, 1 << 31, usize::MAX] {
            let config = S2Config {
                block_size: 16,
                local_blocks: 2,
                vertical_stride: stride,
                head_sliding_offset: 1,
                num_dense_kv_heads: 1,
                ..S2Config::default()
            };
            let expected = S2Config { vertical_stride: 1 << 20, ..config.clone() };
            assert_eq!(planned(&config, &shape).data, planned(&expected, &shape).data);
        }
        // A column that exists but can't be expressed is an error, not another pattern.
        let config = S2Config { vertical_stride: 1 << 40, ..S2Config::default() };
        assert!(matches!(config.plan(&shape), Err(Error::Value { what: "vertical_stride", .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn matches_the_transcription(
            heads in (1usize..6, 1usize..5), lens in (1usize..700, 0usize..400), block in 0usize..4,
            pattern in (0usize..6, 1usize..20, 0usize..4), step in prop::option::of(-25i64..25), offset in -60i64..60,
            dense in 0usize..6, homogeneous: bool, phi3: bool, causal: bool, right in prop::option::of(1usize..6),
            columns in 0usize..3, fewer_keys: bool,
        ) {
            let (mut q_len, mut kv_len) = (lens.0, lens.0 + lens.1);
            if fewer_keys && !causal {
                std::mem::swap(&mut q_len, &mut kv_len);
            }
            let shape = shape(heads.0, heads.1, q_len, kv_len);
            let config = S2Config {
                block_size: [16, 32, 64, 128][block],
                local_blocks: pattern.0,
                local_right: right.filter(|_| !causal),
                vertical_stride: pattern.1,
                columns: [None, Some(S2Columns::Absolute), Some(S2Columns::Relative)][columns],
                head_sliding_step: step,
                head_sliding_offset: offset,
                num_dense_kv_heads: dense.min(heads.0),
                homogeneous,
                sink_blocks: pattern.2,
                variant: if phi3 { S2Variant::Phi3 } else { S2Variant::Dkernel },
                causal,
            };
            assert_transcribed(&config, &shape);
            // Whether columns return is as the mask of the whole sequence says.
            let square = AttentionShape { q_len: kv_len, ..shape };
            let back = planned(&config, &square).column_return(&square);
            prop_assert_eq!(config.column_return(&shape).unwrap().is_some(), back.is_some());
            if config.columns != Some(S2Columns::Relative) && causal {
                prop_assert_eq!(back, None);
            }
        }
    }
}
