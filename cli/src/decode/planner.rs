//! The plan of each decode step.

use super::marks::DecodeMask;
use super::request::{Planner, Request, Tokens};
use super::seer::SeerSteps;
use crate::attend::Pattern;
use crate::failure::Result;
use lacuna::{AttentionShape, BlockMask, BlockPlan, BlockSize, Half, ListRows, Stream, Tensor};

/// Plans the steps of a request one after the other.
pub struct StepPlanner<'a, T: Half> {
    request: &'a Request<T>,
    kind: Kind<'a, T>,
}

enum Kind<'a, T: Half> {
    /// The same formula in every step.
    Formula(BlockPlan),
    /// Of given blocks the row that holds the tokens of the step.
    Given(&'a BlockMask, Option<BlockPlan>),
    /// A gate.
    Seer(Box<SeerSteps<'a, T>>),
}

/// Query rows of a plan that has one row for all tokens of a step.
pub const STEP_BLOCK: usize = 16;

impl<'a, T: Half> StepPlanner<'a, T> {
    /// For the tokens after the prompts.
    pub fn new(stream: &Stream, request: &'a Request<T>) -> Result<Self> {
        let kind = match &request.planner {
            Planner::Pattern(Pattern::Tokens) => Kind::Formula(BlockPlan::dense()),
            Planner::Pattern(Pattern::S2(config, _)) => Kind::Formula(config.plan(&request.qkv.shape)?),
            Planner::Pattern(Pattern::Given(_, blocks)) => Kind::Given(blocks, None),
            Planner::Seer(gate) => Kind::Seer(Box::new(SeerSteps::new(stream, request, gate)?)),
        };
        Ok(Self { request, kind })
    }

    /// A mask to [`mark`](Self::mark) in, for planners that pick blocks as they go.
    pub fn mask(&self) -> Option<DecodeMask> {
        match &self.kind {
            Kind::Seer(steps) => Some(DecodeMask::new(self.request, steps.block())),
            _ => None,
        }
    }

    /// The end of a step of at most `tokens` tokens of a sequence. Given blocks have one row for a step.
    pub fn end_of_step(&self, b: usize, start: usize, tokens: usize) -> usize {
        let end = (start + tokens).min(self.request.lens[b]);
        match self.kind {
            Kind::Given(blocks, _) => end.min(start + blocks.block_q - (start - self.request.past()) % blocks.block_q),
            _ => end,
        }
    }

    /// Makes the plan of a step: `tokens` are new, `rows` are those of its queries.
    pub fn plan(
        &mut self,
        stream: &Stream,
        shape: &AttentionShape,
        kv_lens: &Tensor<i32>,
        tokens: &[Tokens],
        rows: &[Tokens],
    ) -> Result<&BlockPlan> {
        match &mut self.kind {
            Kind::Formula(plan) => Ok(plan),
            Kind::Given(blocks, plan) => {
                let list_rows = ListRows {
                    block: BlockSize { q: STEP_BLOCK, k: blocks.block_k },
                    batch: shape.batch,
                    heads: blocks.heads,
                    absolute: false,
                };
                let mut data = Vec::with_capacity(shape.batch * blocks.heads * blocks.kv_blocks);
                for (b, p) in (0..shape.batch).flat_map(|b| (0..blocks.heads).map(move |p| (b, p))) {
                    let last = tokens[b].end.saturating_sub(self.request.past() + 1);
                    data.extend((0..blocks.kv_blocks).map(|j| blocks.get(b, p, last / blocks.block_q, j)));
                }
                let dims = [shape.batch, blocks.heads, 1, blocks.kv_blocks];
                let capacity = data.iter().filter(|&&mark| mark != 0).count();
                let made = BlockPlan::from_mask_with_capacity(stream, shape, list_rows, capacity, dims, &data)?;
                Ok(plan.insert(made))
            }
            Kind::Seer(steps) => steps.plan(stream, shape, kv_lens, tokens, rows),
        }
    }

    /// Kernels that plan a step.
    pub fn kernels(&self) -> &'static [&'static str] {
        match &self.kind {
            Kind::Formula(_) => &[],
            Kind::Given(..) => &["mask_to_lists"],
            Kind::Seer(_) => &crate::gates::KERNELS,
        }
    }

    /// Marks the blocks that the new tokens of the step read.
    pub fn mark(&self, stream: &Stream, tokens: &[Tokens], mask: &mut DecodeMask) -> Result<()> {
        let Kind::Seer(steps) = &self.kind else { return Ok(()) };
        let Some(plan) = steps.current() else { return Ok(()) };
        let Some((offsets, indices)) = plan.lists(stream)? else { return Ok(()) };
        let heads = self.request.qkv.shape.kv_heads;
        for (list, bounds) in offsets.windows(2).enumerate() {
            let (b, h) = (list / heads, list % heads);
            let ids = &indices[bounds[0] as usize..bounds[1] as usize];
            for token in tokens[b].clone() {
                let row = mask.row_mut(b, h, token - self.request.prompts[b]);
                // Tokens of a step share a list; an earlier one does not see the last one's newest block.
                ids.iter().map(|&j| j as usize).filter(|&j| j <= token / steps.block()).for_each(|j| row[j] = 1);
            }
        }
        Ok(())
    }
}

/// The plan of the prompts of some sequences from `first` on; `shape` is that of the call.
pub fn prefill_plan<T>(
    stream: &Stream,
    request: &Request<T>,
    shape: &AttentionShape,
    first: usize,
) -> Result<BlockPlan> {
    match &request.planner {
        Planner::Seer(_) => Ok(BlockPlan::dense()),
        Planner::Pattern(Pattern::Given(_, blocks)) => {
            // The part of the mask that the prompts touch.
            let dims = [
                shape.batch,
                blocks.heads,
                shape.q_len.div_ceil(blocks.block_q),
                shape.kv_len.div_ceil(blocks.block_k),
            ];
            let mut data = Vec::with_capacity(dims.iter().product());
            for (b, p) in (first..first + shape.batch).flat_map(|b| (0..blocks.heads).map(move |p| (b, p))) {
                for r in 0..dims[2] {
                    data.extend((0..dims[3]).map(|j| blocks.get(b, p, r, j)));
                }
            }
            Ok(BlockPlan::from_mask(stream, shape, blocks.block_q, blocks.block_k, dims, &data)?)
        }
        Planner::Pattern(pattern) => pattern.plan(stream, shape),
    }
}
