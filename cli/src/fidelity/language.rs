//! What the estimate costs a language model: bits per byte beside dense attention and a local window of the same
//! density.

use crate::attend::Hyper;
use crate::attention_call::{Inputs, attend};
use crate::demo::Reading;
use crate::failure::Result;
use crate::model::{Attention, Heads, rounded};
use candle_core::Tensor;
use indicatif::ProgressBar;
use lacuna::{AttentionShape, BlockFormula, BlockPlan, BlockSize, DType, ForwardOptions, HyperConfig, Mask, Stream};
use serde::Serialize;

/// Tokens of a block of the local window: the finest.
const BLOCK: usize = 16;

/// One way to attend.
#[derive(Debug, Clone)]
pub enum Way {
    /// Every key.
    Dense,
    /// The newest blocks of 16, so many.
    Window(usize),
    /// The estimate.
    Hyper(HyperConfig),
}

/// Bits per byte of one way to attend.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// dense, hyper or window.
    pub method: &'static str,
    /// In words.
    pub settings: String,
    /// Attended pairs over causal pairs, mean over layers.
    pub density: f64,
    /// Mean over the windows.
    pub bits_per_byte: f64,
    /// Of each window.
    pub windows: Vec<f64>,
}

/// Reads the windows of a text.
pub fn measure(
    stream: &Stream,
    reading: &Reading,
    [window, windows]: [usize; 2],
    way: &Way,
    progress: &ProgressBar,
) -> Result<Row> {
    let mut attention = Kernels { stream, way, density: 0.0, calls: 0 };
    let mut bits = Vec::new();
    for i in 0..windows {
        bits.push(reading.model.bits_per_byte(&reading.text[i * window..][..=window], &mut attention)?);
        progress.inc(1);
    }
    Ok(Row {
        method: way.method(),
        settings: way.words(),
        density: attention.density / attention.calls as f64,
        bits_per_byte: bits.iter().sum::<f64>() / windows as f64,
        windows: bits,
    })
}

impl Way {
    fn method(&self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Window(_) => "window",
            Self::Hyper(_) => "hyper",
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Dense => "every key".to_owned(),
            Self::Window(blocks) => format!("newest {blocks} blocks of {BLOCK}"),
            Self::Hyper(config) => {
                let HyperConfig { block_size, sample_size, min_seq_len, .. } = config;
                format!("b {block_size}, m {sample_size}, leaves of {min_seq_len}")
            }
        }
    }

    /// The local window whose density comes nearest to `density` for `len` tokens.
    pub fn window_of(density: f64, len: usize) -> Self {
        let of = |blocks: usize| {
            let pairs: usize = (0..len).map(|t| t % BLOCK + 1 + (t / BLOCK).min(blocks - 1) * BLOCK).sum();
            pairs as f64 / (len * (len + 1) / 2) as f64
        };
        let nearer = |a: &usize, b: &usize| (of(*a) - density).abs().total_cmp(&(of(*b) - density).abs());
        Self::Window((1..=len.div_ceil(BLOCK)).min_by(nearer).unwrap_or(1))
    }
}

/// The model's attention by lacuna's kernels.
struct Kernels<'a> {
    stream: &'a Stream,
    way: &'a Way,
    density: f64,
    calls: usize,
}

impl Attention for Kernels<'_> {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        let (q_heads, len, head_dim) = heads.q.dims3()?;
        let kv_heads = heads.k.dim(0)?;
        let dtype = DType::BF16;
        let shape = AttentionShape { batch: 1, q_heads, kv_heads, q_len: len, kv_len: len, head_dim, dtype };
        let (q, k, v) = (rounded(heads.q)?, rounded(heads.k)?, rounded(heads.v)?);
        let inputs = Inputs { q: &q, k: &k, v: &v };
        let options = ForwardOptions::causal();
        let (out, density) = match self.way {
            Way::Hyper(config) => {
                let answer = Hyper::drawn(config.clone()).attend(self.stream, &shape, &options, inputs)?;
                let (_, density) = answer.visited(&shape, &Mask::CAUSAL);
                (answer.out, density)
            }
            way => {
                let plan = match way {
                    &Way::Window(blocks) => {
                        BlockPlan::formula(BlockFormula::local(blocks, 0), BlockSize::square(BLOCK), 1, true)?
                    }
                    _ => BlockPlan::dense(),
                };
                let answer = attend(self.stream, &shape, &options, &plan, inputs)?;
                let density = answer.blocks.density(&shape, &options.mask);
                (answer.out, density)
            }
        };
        self.density += density;
        self.calls += 1;
        Ok(Tensor::from_vec(out, (q_heads, len, head_dim), heads.q.device())?)
    }
}
