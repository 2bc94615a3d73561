//! Dense causal attention in plain f32 with candle, and the block map an oracle selects from.

use super::{Attention, Heads};
use crate::failure::Result;
use candle_core::{D, Device, Tensor};

/// Dense causal attention in f32 with no kernel of lacuna: the yardstick for the bits per byte of the model.
pub struct Exact;

impl Attention for Exact {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        let q_heads = heads.q.dim(0)?;
        let group = q_heads / heads.k.dim(0)?;
        // One head at a time: [n, n] of one head is all that is ever in memory.
        let outputs = (0..q_heads)
            .map(|h| Ok(probabilities(heads, h)?.matmul(&heads.v.get(h / group)?)?))
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&outputs, 0)?)
    }
}

/// The causal attention map `[n, n]` of query head `h`.
fn probabilities(heads: &Heads<'_>, h: usize) -> Result<Tensor> {
    let (q_heads, n, dim) = heads.q.dims3()?;
    let k = heads.k.get(h * heads.k.dim(0)? / q_heads)?;
    let logits = (heads.q.get(h)?.matmul(&k.t()?)? * (dim as f64).sqrt().recip())?;
    let hidden: Vec<f32> = (0..n * n).map(|i| if i % n > i / n { f32::NEG_INFINITY } else { 0.0 }).collect();
    let logits = (logits + Tensor::from_vec(hidden, (n, n), &Device::Cpu)?)?;
    let exp = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?)
}

/// The largest probability in each `block` × `block` tile of query head `h`'s map: `[nb, nb]` row-major,
/// `nb = ceil(n / block)`.
pub fn block_map(heads: &Heads<'_>, h: usize, block: usize) -> Result<Vec<f32>> {
    let map: Vec<f32> = probabilities(heads, h)?.flatten_all()?.to_vec1()?;
    let n = heads.q.dim(1)?;
    let blocks = n.div_ceil(block);
    let mut largest = vec![0f32; blocks * blocks];
    for (i, row) in map.chunks_exact(n).enumerate() {
        for (j, keys) in row.chunks(block).enumerate() {
            let cell = &mut largest[i / block * blocks + j];
            *cell = keys.iter().copied().fold(*cell, f32::max);
        }
    }
    Ok(largest)
}
