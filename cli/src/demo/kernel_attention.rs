//! The model's attention, computed by lacuna's kernels.

use super::planner::Planner;
use super::results::BlockPicture;
use crate::attention_call::{Answer, Inputs, attend};
use crate::failure::Result;
use crate::model::{Attention, Heads, rounded};
use candle_core::Tensor;
use indicatif::ProgressBar;
use lacuna::reference::{Measure, Problem, widen};
use lacuna::{AttentionShape, BlockMask, DType, ForwardOptions, Mask, Stream, bf16};
use std::time::{Duration, Instant};

/// The head on which errors are measured and pictures are taken, in the first window.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Layer, from 0.
    pub layer: usize,
    /// Query head, from 0.
    pub head: usize,
}

/// Attention over the plans of one planner, with what it measured.
pub struct KernelAttention<'a> {
    stream: &'a Stream,
    planner: &'a Planner,
    progress: &'a ProgressBar,
    probe: Probe,
    /// Calls so far: layers times windows.
    pub calls: usize,
    /// Sum over calls.
    pub density: f64,
    /// Sum over calls; 0 where nothing counts.
    pub mma_macs: u64,
    /// Whether the device counts.
    pub counted: bool,
    /// Sum over calls: planning, scheduling, kernels, copies.
    pub elapsed: Duration,
    /// At the probe.
    pub error: Option<Measure>,
    /// At the probe, one a query head.
    pub masks: Vec<BlockPicture>,
}

impl<'a> KernelAttention<'a> {
    /// Attention on `stream`, which nobody else uses.
    pub fn new(stream: &'a Stream, planner: &'a Planner, progress: &'a ProgressBar, probe: Probe) -> Self {
        Self {
            stream,
            planner,
            progress,
            probe,
            calls: 0,
            density: 0.0,
            mma_macs: 0,
            counted: false,
            elapsed: Duration::ZERO,
            error: None,
            masks: Vec::new(),
        }
    }
}

impl Attention for KernelAttention<'_> {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        let (q_heads, len, head_dim) = heads.q.dims3()?;
        let shape = AttentionShape {
            batch: 1,
            q_heads,
            kv_heads: heads.k.dim(0)?,
            q_len: len,
            kv_len: len,
            head_dim,
            dtype: DType::BF16,
        };
        let (q, k, v) = (rounded(heads.q)?, rounded(heads.k)?, rounded(heads.v)?);
        let inputs = Inputs { q: &q, k: &k, v: &v };
        let selection = self.planner.select(heads)?;
        let options = ForwardOptions::causal();

        self.stream.reset_counters();
        let start = Instant::now();
        let plan = self.planner.plan(&selection, self.stream, &shape)?;
        let planning = start.elapsed();
        let answer = attend(self.stream, &shape, &options, &plan, inputs)?;

        self.elapsed += planning + answer.elapsed;
        self.calls += 1;
        self.density += answer.blocks.density(&shape, &options.mask);
        if let Some(counters) = &answer.work.counters {
            self.counted = true;
            self.mma_macs += counters.mma_macs;
        }
        if heads.layer == self.probe.layer && self.error.is_none() {
            self.error = Some(error_of_head(self.probe.head, &shape, inputs, &answer)?);
            let (rows, columns) = (answer.blocks.q_blocks, answer.blocks.kv_blocks);
            let plane =
                |h: usize| &answer.blocks.data[h * answer.blocks.heads / q_heads * rows * columns..][..rows * columns];
            self.masks = (0..q_heads).map(|h| BlockPicture::from_bytes(plane(h), rows, columns)).collect();
        }
        self.progress.inc(1);
        Ok(Tensor::from_vec(answer.out, (q_heads, len, head_dim), heads.q.device())?)
    }
}

/// The relative error of one query head against the reference under the blocks that the plan attended.
fn error_of_head(h: usize, shape: &AttentionShape, inputs: Inputs<'_, bf16>, answer: &Answer) -> Result<Measure> {
    let one = AttentionShape { q_heads: 1, kv_heads: 1, ..*shape };
    let size = shape.q_len * shape.head_dim;
    let head = |values: &[bf16], h: usize| widen(&values[h * size..][..size]);
    let kv_head = h / shape.group();
    let (q, k, v) = (head(inputs.q, h), head(inputs.k, kv_head), head(inputs.v, kv_head));
    let blocks = &answer.blocks;
    let plane = blocks.q_blocks * blocks.kv_blocks;
    let mask = blocks.data[h * blocks.heads / shape.q_heads * plane..][..plane].to_vec();
    let blocks = BlockMask::from_data(&one, blocks.block_q, blocks.block_k, 1, 1, false, mask)?;
    let expected = Problem::new(one, &q, &k, &v).expect(&blocks.visibility(&one, &Mask::CAUSAL))?;
    let comparison = expected.out.compare(&answer.out[h * size..][..size])?;
    let relative = comparison.relative;
    // A NaN in the wrong place is as wrong as can be; the measure itself leaves it out.
    let error = if comparison.non_finite.is_some() { f64::INFINITY } else { relative.error };
    Ok(Measure { error, ..relative })
}
