//! Plans of the prefill calls and of the decode steps.

use super::marks::GateMask;
use super::request::{Planner, Request, Tokens};
use super::seer::SeerSteps;
use crate::attend::Pattern;
use crate::failure::Result;
use lacuna::{AttentionShape, BlockMask, BlockPlan, BlockSize, Half, ListRows, Stream, Tensor};

/// Query rows of a plan that has one row for all tokens of a step: the most that a step has.
const STEP_BLOCK: usize = 16;

/// Plans the steps of a request, one after the other.
pub struct StepPlanner<'a, T: Half> {
    request: &'a Request<T>,
    kind: Kind<'a, T>,
}

enum Kind<'a, T: Half> {
    Pattern(&'a Pattern),
    Gate(Box<SeerSteps<'a, T>>),
}

impl<'a, T: Half> StepPlanner<'a, T> {
    /// For the tokens after the prompts. A gate pools the keys of the prompts here.
    pub fn new(stream: &Stream, request: &'a Request<T>) -> Result<Self> {
        let kind = match &request.planner {
            Planner::Pattern(pattern) => Kind::Pattern(pattern),
            Planner::Gate(gate) => Kind::Gate(Box::new(SeerSteps::new(stream, request, gate)?)),
        };
        Ok(Self { request, kind })
    }

    /// The end of a step that begins at `start` and has at most `tokens` tokens. Given blocks have one row for a step.
    pub fn end_of_step(&self, b: usize, start: usize, tokens: usize) -> usize {
        let end = (start + tokens).min(self.request.lens[b]);
        match self.kind {
            Kind::Pattern(Pattern::Given(_, blocks)) => {
                end.min(start + blocks.block_q - (start - self.request.past()) % blocks.block_q)
            }
            _ => end,
        }
    }

    /// Makes the plan of a step.
    pub fn plan(
        &mut self,
        stream: &Stream,
        shape: &AttentionShape,
        kv_lens: &Tensor<i32>,
        tokens: &[Tokens],
    ) -> Result<BlockPlan> {
        match &mut self.kind {
            Kind::Pattern(Pattern::Given(_, blocks)) => {
                given_rows(stream, shape, blocks, |b| tokens[b].clone().next().map(|token| token - self.request.past()))
            }
            Kind::Pattern(pattern) => pattern.plan(stream, shape),
            Kind::Gate(steps) => steps.plan(stream, shape, kv_lens, tokens),
        }
    }

    /// Kernels that plan a step.
    pub fn kernels(&self) -> &'static [&'static str] {
        match &self.kind {
            Kind::Pattern(pattern) => pattern.kernels(),
            Kind::Gate(_) => &crate::gates::KERNELS,
        }
    }

    /// Marks the blocks that a gate picked for the tokens of a step.
    pub fn mark(&self, stream: &Stream, plan: &BlockPlan, tokens: &[Tokens], mask: &mut GateMask) -> Result<()> {
        let (Kind::Gate(_), Some((offsets, indices))) = (&self.kind, plan.lists(stream)?) else { return Ok(()) };
        let heads = self.request.qkv.shape.kv_heads;
        for (list, bounds) in offsets.windows(2).enumerate() {
            let (b, h) = (list / heads, list % heads);
            let blocks = &indices[bounds[0] as usize..bounds[1] as usize];
            for token in tokens[b].clone() {
                let block = mask.block;
                let row = mask.row_mut(b, h, token - self.request.prompts[b]);
                // Tokens of a step share a list; an earlier one does not see the last one's newest block.
                blocks.iter().map(|&j| j as usize).filter(|&j| j <= token / block).for_each(|j| row[j] = 1);
            }
        }
        Ok(())
    }
}

/// Lists of one row for each sequence: that of given blocks in which its query `query_of(b)` lies; none for no query.
fn given_rows(
    stream: &Stream,
    shape: &AttentionShape,
    blocks: &BlockMask,
    query_of: impl Fn(usize) -> Option<usize>,
) -> Result<BlockPlan> {
    let block = BlockSize { q: STEP_BLOCK, k: blocks.block_k };
    let rows = ListRows { block, batch: shape.batch, heads: blocks.heads, absolute: false };
    let mut data = Vec::with_capacity(shape.batch * blocks.heads * blocks.kv_blocks);
    for (b, p) in (0..shape.batch).flat_map(|b| (0..blocks.heads).map(move |p| (b, p))) {
        let row = query_of(b).map(|query| query / blocks.block_q);
        data.extend((0..blocks.kv_blocks).map(|j| row.map_or(0, |row| blocks.get(b, p, row, j))));
    }
    let dims = [shape.batch, blocks.heads, 1, blocks.kv_blocks];
    let capacity = data.iter().filter(|&&mark| mark != 0).count();
    Ok(BlockPlan::from_mask_with_capacity(stream, shape, rows, capacity, dims, &data)?)
}

/// The plan of the prompts of some sequences from `first` on; `shape` is that of the call.
pub fn prefill_plan<T>(
    stream: &Stream,
    request: &Request<T>,
    shape: &AttentionShape,
    first: usize,
) -> Result<BlockPlan> {
    match &request.planner {
        Planner::Gate(_) => Ok(BlockPlan::dense()),
        Planner::Pattern(Pattern::Given(_, blocks)) => {
            // The part of the mask that the prompts touch.
            let q_blocks = shape.q_len.div_ceil(blocks.block_q);
            let kv_blocks = shape.kv_len.div_ceil(blocks.block_k);
            let dims = [shape.batch, blocks.heads, q_blocks, kv_blocks];
            let mut data = Vec::with_capacity(dims.iter().product());
            for (b, p) in (first..first + shape.batch).flat_map(|b| (0..blocks.heads).map(move |p| (b, p))) {
                for r in 0..q_blocks {
                    data.extend((0..kv_blocks).map(|j| blocks.get(b, p, r, j)));
                }
            }
            Ok(BlockPlan::from_mask(stream, shape, blocks.block_q, blocks.block_k, dims, &data)?)
        }
        Planner::Pattern(pattern) => pattern.plan(stream, shape),
    }
}
