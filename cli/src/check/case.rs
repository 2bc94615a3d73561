//! One call of `lacuna check`: what is asked, and whether the kernels got it right.

use crate::attend::Hyper;
use crate::attention_call::{Answer, Inputs, attend, decode};
use crate::failure::{Failure, Result};
use lacuna::reference::{ExpectedOutput, Problem, TokenMask, compare_lse, widen};
use lacuna::{
    AttentionShape, BlockFormula, BlockMask, BlockPlan, BlockSize, DType, ForwardOptions, Half, HyperConfig,
    KernelFamily, Mask, PagedKv, Stream, Tensor,
};
use std::fmt;

/// What decides which keys are read, or what else is special about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every key.
    Dense,
    /// A token-exact sliding window, softcap and a sink logit.
    Options,
    /// Keys cut into parts that are merged.
    Splits,
    /// A formula: local, strided and sink blocks.
    Formula,
    /// Lists of blocks of 64.
    Lists64,
    /// Lists of blocks smaller than a tile, which share tiles.
    Lists16,
    /// Lists of blocks with different sides.
    Mixed,
    /// Keys in pages of this many, in no order.
    Pages(usize),
    /// HyperAttention: rows sorted by hash, sampled keys.
    Hyper,
}

impl Kind {
    /// All, in the order of the table.
    pub const ALL: [Self; 10] = [
        Self::Dense,
        Self::Options,
        Self::Splits,
        Self::Formula,
        Self::Lists64,
        Self::Lists16,
        Self::Mixed,
        Self::Pages(16),
        Self::Pages(64),
        Self::Hyper,
    ];

    /// Heading of the table.
    pub fn name(self) -> String {
        let name = match self {
            Self::Dense => "dense",
            Self::Options => "window+cap+sink",
            Self::Splits => "splits",
            Self::Formula => "formula",
            Self::Lists64 => "lists 64x64",
            Self::Lists16 => "lists 16x16",
            Self::Mixed => "lists 32x128",
            Self::Hyper => "hyper",
            Self::Pages(size) => return format!("pages of {size}"),
        };
        name.into()
    }

    fn block(self) -> BlockSize {
        match self {
            Self::Lists16 => BlockSize::square(16),
            Self::Mixed => BlockSize { q: 32, k: 128 },
            _ => BlockSize::square(64),
        }
    }
}

/// Mask, heads and lengths.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    causal: bool,
    /// Query and KV heads.
    heads: (usize, usize),
    /// Queries and keys.
    lens: (usize, usize),
}

/// The kernels that serve a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// `forward`, of a family.
    Forward(KernelFamily),
    /// `decode`.
    Decode,
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(family) => family.fmt(f),
            Self::Decode => f.pad("decode"),
        }
    }
}

impl Kernels {
    /// The calls of each cell: causal or not; every head alone, grouped, one KV head; square, ragged, one query. Those
    /// of `decode` fill tiles of 16, 32 and 64 rows.
    pub fn variants(self) -> Vec<Variant> {
        match self {
            Self::Forward(_) => [
                (true, (2, 2), (128, 128)),
                (true, (6, 2), (77, 203)),
                (true, (3, 1), (1, 170)),
                (false, (4, 2), (100, 150)),
                (false, (2, 1), (130, 66)),
            ],
            Self::Decode => [
                (true, (2, 2), (1, 128)),
                (true, (8, 2), (7, 203)),
                (true, (6, 1), (16, 600)),
                (false, (4, 2), (16, 150)),
                (false, (3, 1), (16, 9)),
            ],
        }
        .map(|(causal, heads, lens)| Variant { causal, heads, lens })
        .to_vec()
    }
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Elements of a head.
    pub head_dim: usize,
    /// Element type.
    pub dtype: DType,
    /// Kernels that serve the call.
    pub kernels: Kernels,
    /// Plan and options.
    pub kind: Kind,
    /// Mask, heads, lengths.
    pub variant: Variant,
    /// Of the inputs.
    pub seed: u64,
}

/// How a call went.
pub enum Outcome {
    /// No kernel serves it.
    NotBuilt,
    /// As the reference says.
    Passed {
        /// Largest error over its bound.
        ratio: f64,
    },
    /// Not as the reference says, or not at all.
    Failed {
        /// One line.
        why: String,
    },
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Variant { causal, heads, lens } = self.variant;
        let mask = if causal { "causal" } else { "full" };
        let (head_dim, dtype, kernels, kind) = (self.head_dim, self.dtype, self.kernels, self.kind.name());
        write!(
            f,
            "{kind}, head_dim {head_dim}, {dtype}, {kernels}, {mask}, heads {}:{}, {} x {}",
            heads.0, heads.1, lens.0, lens.1
        )
    }
}

impl Case {
    /// Runs the call. An error is one of the device or of this tool; wrong results are an outcome.
    pub fn run<T: Half + Into<f64>>(&self, stream: &Stream) -> Result<Outcome> {
        match self.try_run::<T>(stream) {
            Err(Failure::Request(why)) if why.starts_with("unsupported") => Ok(Outcome::NotBuilt),
            Err(failure) => Ok(Outcome::Failed { why: failure.line() }),
            Ok(outcome) => Ok(outcome),
        }
    }

    fn try_run<T: Half + Into<f64>>(&self, stream: &Stream) -> Result<Outcome> {
        // Decode splits by itself, in the calls of every cell.
        if self.kernels == Kernels::Decode && self.kind == Kind::Splits {
            return Ok(Outcome::NotBuilt);
        }
        let Variant { causal, heads, lens } = self.variant;
        let shape = AttentionShape {
            batch: 2,
            q_heads: heads.0,
            kv_heads: heads.1,
            q_len: lens.0,
            kv_len: lens.1,
            head_dim: self.head_dim,
            dtype: T::DTYPE,
        };
        let random = |len: usize, heads: usize, seed: u64| -> Result<Vec<T>> {
            Ok(Tensor::random(stream, [shape.batch, heads, len, shape.head_dim], seed)?.to_vec(stream)?)
        };
        let q = random(shape.q_len, shape.q_heads, 3 * self.seed)?;
        let k = random(shape.kv_len, shape.kv_heads, 3 * self.seed + 1)?;
        let v = random(shape.kv_len, shape.kv_heads, 3 * self.seed + 2)?;
        let inputs = Inputs { q: &q, k: &k, v: &v };
        let (wide_q, wide_k, wide_v) = (widen(&q), widen(&k), widen(&v));
        let mut problem = Problem::new(shape, &wide_q, &wide_k, &wide_v);
        let mut options = ForwardOptions {
            mask: if causal { Mask::CAUSAL } else { Mask::FULL },
            splits: if self.kind == Kind::Splits { 3 } else { 1 },
            family: self.family(),
            ..ForwardOptions::default()
        };
        if self.kind == Kind::Hyper {
            if self.kernels != Kernels::Forward(KernelFamily::Portable) {
                return Ok(Outcome::NotBuilt);
            }
            let config = HyperConfig { block_size: 32, sample_size: 24, min_seq_len: 32, ..HyperConfig::default() };
            let answer = Hyper::drawn(config).attend(stream, &shape, &options, inputs)?;
            return judged(&problem.expect(&answer.estimator)?, &answer.out, &answer.lse);
        }
        let sinks: Vec<f32> = (0..shape.q_heads).map(|h| h as f32 / 2.0 - 0.5).collect();
        let wide_sinks = widen(&sinks);
        let sink = Tensor::vector(stream, &sinks)?;
        if self.kind == Kind::Options {
            options.mask.window_left = Some(40);
            options.mask.window_right = Some(9);
            (options.softcap, options.sink) = (Some(5.0), Some(&sink));
            (problem.softcap, problem.sink) = (Some(5.0), Some(wide_sinks.as_slice()));
        }
        let blocks = self.blocks(&shape, &options.mask)?;
        let plan = self.plan(stream, &shape, blocks.as_ref())?;
        let answer = if let Kind::Pages(size) = self.kind {
            let pages = shape.kv_len.div_ceil(size);
            let dims = [shape.batch, 1, 1, pages];
            let table: Vec<i32> = (0..shape.batch * pages).map(|at| page_of(&shape, size, at) as i32).collect();
            let table = Tensor::from_slice(stream, &table, dims)?;
            let paged = Some(PagedKv { block_table: table.view(), page_size: size });
            let (k, v) = (pool(&k, &shape, size), pool(&v, &shape, size));
            self.attend(stream, &shape, &ForwardOptions { paged, ..options }, &plan, Inputs { q: &q, k: &k, v: &v })?
        } else {
            self.attend(stream, &shape, &options, &plan, inputs)?
        };
        let expected = match &blocks {
            Some(blocks) => problem.expect(&blocks.visibility(&shape, &options.mask))?,
            None => problem.expect(&TokenMask { shape: &shape, mask: &options.mask })?,
        };
        judged(&expected, &answer.out, &answer.lse)
    }

    fn attend<T: Half>(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        options: &ForwardOptions<'_>,
        plan: &BlockPlan,
        inputs: Inputs<'_, T>,
    ) -> Result<Answer> {
        match self.kernels {
            Kernels::Forward(_) => attend(stream, shape, options, plan, inputs),
            Kernels::Decode => decode(stream, shape, options, plan, inputs),
        }
    }

    fn family(&self) -> KernelFamily {
        match self.kernels {
            Kernels::Forward(family) => family,
            Kernels::Decode => KernelFamily::Auto,
        }
    }

    fn formula(&self) -> BlockFormula {
        BlockFormula { vertical_stride: 3, head_step: 1, head_offset: 0, ..BlockFormula::local(1, 1) }
    }

    /// Causal formulas count query blocks in absolute positions.
    fn absolute(&self) -> bool {
        self.variant.causal
    }

    /// The blocks to read, made on the host; `None` where it is about tokens.
    fn blocks(&self, shape: &AttentionShape, mask: &Mask) -> Result<Option<BlockMask>> {
        let BlockSize { q, k } = self.kind.block();
        Ok(match self.kind {
            Kind::Dense | Kind::Options | Kind::Splits | Kind::Pages(_) | Kind::Hyper => None,
            Kind::Formula => {
                let (formula, absolute) = (self.formula(), self.absolute());
                Some(BlockMask::from_formula(shape, mask, &formula, shape.kv_heads, q, k, absolute)?)
            }
            Kind::Lists64 | Kind::Lists16 | Kind::Mixed => {
                let size = shape.batch * shape.q_heads * shape.q_len.div_ceil(q) * shape.kv_len.div_ceil(k);
                // A third of the blocks, in no order; some rows are empty.
                let data = (0..size).map(|i| u8::from((i * i + 7 * i) % 11 < 4)).collect();
                Some(BlockMask::from_data(shape, q, k, shape.batch, shape.q_heads, false, data)?)
            }
        })
    }

    fn plan(&self, stream: &Stream, shape: &AttentionShape, blocks: Option<&BlockMask>) -> Result<BlockPlan> {
        Ok(match (self.kind, blocks) {
            (Kind::Formula, _) => {
                BlockPlan::formula(self.formula(), self.kind.block(), shape.kv_heads, self.absolute())?
            }
            (_, Some(b)) => {
                let dims = [b.batch, b.heads, b.q_blocks, b.kv_blocks];
                BlockPlan::from_mask(stream, shape, b.block_q, b.block_k, dims, &b.data)?
            }
            (_, None) => BlockPlan::dense(),
        })
    }
}

/// The page of the pool that holds page `at` of the batch, counted over sequences: the last first, with gaps.
fn page_of(shape: &AttentionShape, size: usize, at: usize) -> usize {
    2 * (shape.batch * shape.kv_len.div_ceil(size) - at)
}

/// Keys or values `[batch, kv_heads, kv_len, head_dim]` in pages; everything else is NaN.
fn pool<T: Half>(rows: &[T], shape: &AttentionShape, size: usize) -> Vec<T> {
    let (dim, pages) = (shape.head_dim, shape.kv_len.div_ceil(size));
    let count = page_of(shape, size, 0) + 1;
    let mut pool = vec![T::from_f32(f32::NAN); count * shape.kv_heads * size * dim];
    for (row, values) in rows.chunks(dim).enumerate() {
        let (sequence, key) = (row / shape.kv_len, row % shape.kv_len);
        let (batch, head) = (sequence / shape.kv_heads, sequence % shape.kv_heads);
        let page = page_of(shape, size, batch * pages + key / size);
        let at = ((page * shape.kv_heads + head) * size + key % size) * dim;
        pool[at..at + dim].copy_from_slice(values);
    }
    pool
}

/// An answer against the reference.
fn judged(expected: &ExpectedOutput, out: &[f32], lse: &[f32]) -> Result<Outcome> {
    let (out, lse) = (expected.out.compare(out)?, compare_lse(lse, &expected.lse)?);
    if !(out.passed() && lse.passed()) {
        return Ok(Outcome::Failed { why: format!("out {out}; lse {lse}") });
    }
    let measures = [out.relative, out.worst_row, out.largest, lse.error];
    let ratio = measures.iter().map(|m| if m.error == 0.0 { 0.0 } else { m.error / m.bound }).fold(0.0, f64::max);
    Ok(Outcome::Passed { ratio })
}
