//! Who picks the blocks of a row of the demo.

use super::selection::{
    best_blocks, blocks_above, blocks_for_density, map_shares, pooled_shares, random_scores, same_number,
};
use crate::failure::Result;
use crate::gates::{GateInputs, Gates};
use crate::model::{Heads, rounded};
use lacuna::methods::seer::Select;
use lacuna::{AttentionShape, BlockFormula, BlockPlan, BlockSize, S2Config, Stream, bf16};
use std::rc::Rc;

/// How many blocks a row keeps; its own is always one of them.
#[derive(Debug, Clone, Copy)]
pub enum Keep {
    /// As many best ones as the published rule gives for a density, and its own.
    Density(f64),
    /// So many on average, its own counted, one more or less in a row.
    Number(f64),
    /// Those with a larger share than this: how many depends on the row.
    Above(f64),
}

/// A way to pick blocks.
pub enum Planner {
    /// Every block.
    Dense,
    /// S2-Attention.
    S2(S2Config),
    /// The blocks that a trained gate picks; it reads q and k before their rotation.
    Seer {
        /// One a layer.
        gates: Rc<Gates>,
        /// How many.
        select: Select,
    },
    /// The newest blocks, a number for each row.
    Newest {
        /// Queries and keys of a block.
        block: usize,
        /// How many on average, each row's own counted.
        number: f64,
    },
    /// The newest blocks and the first ones.
    Window {
        /// Newest blocks, the diagonal one counted.
        blocks: usize,
        /// First blocks.
        sinks: usize,
        /// Queries and keys of a block.
        block: usize,
    },
    /// For each row the blocks with the largest probability in the true attention map.
    Oracle {
        /// Queries and keys of a block.
        block: usize,
        /// How many.
        keep: Keep,
    },
    /// For each row the blocks whose mean key has the largest product with the mean query: a gate that learned nothing.
    Pooled {
        /// Queries and keys of a block.
        block: usize,
        /// How many.
        keep: Keep,
    },
    /// Blocks that have nothing to do with the text.
    Random {
        /// Queries and keys of a block.
        block: usize,
        /// How many.
        keep: Keep,
        /// Another seed, other blocks.
        seed: u64,
    },
}

/// What a planner decided, on the host.
pub enum Selection {
    /// A formula: nothing to decide.
    Formula,
    /// `[1, heads, blocks, blocks]` and the block size.
    Mask([usize; 4], Vec<u8>, usize),
    /// What the gate of a layer reads; it decides on the device.
    Gate {
        /// Index of the layer.
        layer: usize,
        /// `[q_heads, n, head_dim]` before the rotary embedding.
        q: Vec<bf16>,
        /// `[kv_heads, n, head_dim]` likewise.
        k: Vec<bf16>,
    },
}

impl Planner {
    /// Looks at the layer's inputs. Not part of any time measured: an oracle is not a method.
    pub fn select(&self, heads: &Heads<'_>) -> Result<Selection> {
        let (q_heads, n, _) = heads.q.dims3()?;
        let marks = |block: usize, keep: Keep, scores: Vec<Vec<f32>>| {
            let blocks = n.div_ceil(block);
            let mark = |scores: &Vec<f32>| match keep {
                Keep::Density(density) => best_blocks(scores, blocks, blocks_for_density(density, blocks)),
                Keep::Number(number) => same_number(scores, blocks, number),
                Keep::Above(share) => blocks_above(scores, blocks, share),
            };
            Selection::Mask([1, q_heads, blocks, blocks], scores.iter().flat_map(mark).collect(), block)
        };
        Ok(match *self {
            Self::Dense | Self::S2(_) | Self::Window { .. } => Selection::Formula,
            Self::Seer { .. } => {
                Selection::Gate { layer: heads.layer, q: rounded(heads.gate_q)?, k: rounded(heads.gate_k)? }
            }
            Self::Newest { block, number } => {
                let blocks = n.div_ceil(block);
                let place: Vec<f32> = (0..blocks * blocks).map(|index| (index % blocks) as f32).collect();
                marks(block, Keep::Number(number), vec![place; q_heads])
            }
            Self::Oracle { block, keep } => marks(block, keep, map_shares(heads, block)?),
            Self::Pooled { block, keep } => marks(block, keep, pooled_shares(heads, block)?),
            Self::Random { block, keep, seed } => {
                let stream = |h: usize| seed + (heads.layer * q_heads + h) as u64;
                marks(block, keep, (0..q_heads).map(|h| random_scores(stream(h), n.div_ceil(block))).collect())
            }
        })
    }

    /// The plan for the kernels.
    pub fn plan(&self, selection: &Selection, stream: &Stream, shape: &AttentionShape) -> Result<BlockPlan> {
        Ok(match (self, selection) {
            (Self::S2(config), _) => config.plan(shape)?,
            (&Self::Window { blocks, sinks, block }, _) => {
                BlockPlan::formula(BlockFormula::local(blocks, sinks), BlockSize::square(block), 1, true)?
            }
            (Self::Seer { gates, select }, Selection::Gate { layer, q, k }) => {
                gates.plan(*layer, *select, stream, shape, &GateInputs { q, k })?
            }
            (_, Selection::Mask(dims, data, block)) => {
                BlockPlan::from_mask(stream, shape, *block, *block, *dims, data)?
            }
            (_, Selection::Formula | Selection::Gate { .. }) => BlockPlan::dense(),
        })
    }
}
