//! Sorted rows and their blocks, for a call that is not causal.

use crate::failure::{Failure, Result};
use lacuna::{AttentionShape, HyperConfig};

/// One sequence: the place of each row, and the blocks of the places.
pub struct Sorted {
    /// `[q_heads][q_len]`: the block of each query.
    pub q_blocks: Vec<Vec<usize>>,
    /// `[kv_heads][kv_len]`: the block of each key.
    pub k_blocks: Vec<Vec<usize>>,
    /// `[kv_heads][kv_len]`: the key at each place.
    pub k_order: Vec<Vec<usize>>,
}

impl Sorted {
    /// From the bucket ranks of q and k that a plan found.
    pub fn new(config: &HyperConfig, shape: &AttentionShape, ranks: Option<&[Vec<u16>; 2]>) -> Result<Self> {
        let Some([q, k]) = ranks else {
            return Err(Failure::Failed("fidelity: an exact call has no blocks".into()));
        };
        let blocks = shape.kv_len.div_ceil(config.block_size);
        let order = |ranks: &[u16]| {
            let mut order: Vec<usize> = (0..ranks.len()).collect();
            order.sort_by_key(|&row| ranks[row]); // stable
            order
        };
        let blocks_of = |order: &[usize], size: usize| {
            let mut blocks = vec![0; order.len()];
            order.iter().enumerate().for_each(|(place, &row)| blocks[row] = place / size);
            blocks
        };
        let k_order: Vec<Vec<usize>> = k.chunks(shape.kv_len).map(order).collect();
        Ok(Self {
            q_blocks: q.chunks(shape.q_len).map(|r| blocks_of(&order(r), shape.q_len.div_ceil(blocks))).collect(),
            k_blocks: k_order.iter().map(|order| blocks_of(order, config.block_size)).collect(),
            k_order,
        })
    }
}
