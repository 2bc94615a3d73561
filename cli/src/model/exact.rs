//! Causal attention in plain f32 with candle, dense or over blocks, and the block map an oracle selects from.

use super::{Attention, Heads};
use crate::failure::{Failure, Result};
use candle_core::{Device, Tensor};

/// Queries and keys of a block where the caller has no blocks of its own.
const BLOCK: usize = 64;

/// Dense causal attention in f32 with no kernel of lacuna: the yardstick for the bits per byte of the model.
pub struct Exact;

impl Attention for Exact {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        masked_attention(heads, BLOCK, &|_, _, _| true)
    }
}

/// Causal attention in f32 over the blocks for which `keep(query head, query block, key block)`. Rows without a key are 0.
pub fn masked_attention(
    heads: &Heads<'_>,
    block: usize,
    keep: &(dyn Fn(usize, usize, usize) -> bool + Sync),
) -> Result<Tensor> {
    let (_, n, dim) = heads.q.dims3()?;
    let one_head = |h: usize| -> Result<Tensor> {
        let mut rows = Vec::with_capacity(n.div_ceil(block));
        for i in 0..n.div_ceil(block) {
            let kept: Vec<usize> = (0..=i).filter(|&j| keep(h, i, j)).collect();
            let (p, values) = probabilities(heads, h, i, &kept, block)?;
            rows.push(match values {
                Some(values) => p.matmul(&values)?,
                None => Tensor::zeros((p.dim(0)?, dim), candle_core::DType::F32, &Device::Cpu)?,
            });
        }
        Ok(Tensor::cat(&rows, 0)?)
    };
    Ok(Tensor::stack(&each_head(heads.q.dim(0)?, &one_head)?, 0)?)
}

/// The largest probability in each `block` × `block` tile of every query head's map: `[heads][nb * nb]` row-major,
/// `nb = ceil(n / block)`.
pub fn block_maps(heads: &Heads<'_>, block: usize) -> Result<Vec<Vec<f32>>> {
    let (q_heads, n, _) = heads.q.dims3()?;
    let blocks = n.div_ceil(block);
    each_head(q_heads, &|h| {
        let mut largest = vec![0f32; blocks * blocks];
        for (i, cells) in largest.chunks_exact_mut(blocks).enumerate() {
            let (p, _) = probabilities(heads, h, i, &(0..=i).collect::<Vec<_>>(), block)?;
            let keys = p.dim(1)?;
            for row in p.flatten_all()?.to_vec1::<f32>()?.chunks_exact(keys) {
                for (cell, keys) in cells.iter_mut().zip(row.chunks(block)) {
                    *cell = keys.iter().copied().fold(*cell, f32::max);
                }
            }
        }
        Ok(largest)
    })
}

/// Softmax of the queries of block `i` over the keys of the blocks `kept` (ascending, at most `i`): `[queries, keys]`,
/// and the values of those keys, if there are any.
fn probabilities(
    heads: &Heads<'_>,
    h: usize,
    i: usize,
    kept: &[usize],
    block: usize,
) -> Result<(Tensor, Option<Tensor>)> {
    let (q_heads, n, dim) = heads.q.dims3()?;
    let kv_head = h * heads.k.dim(0)? / q_heads;
    let length = |j: usize| block.min(n - j * block);
    let q = heads.q.get(h)?.narrow(0, i * block, length(i))?;
    if kept.is_empty() {
        return Ok((Tensor::zeros((length(i), 0), candle_core::DType::F32, &Device::Cpu)?, None));
    }
    let gather = |x: &Tensor| -> Result<Tensor> {
        let x = x.get(kv_head)?;
        let parts: Vec<Tensor> =
            kept.iter().map(|&j| x.narrow(0, j * block, length(j))).collect::<candle_core::Result<_>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    };
    let logits = q.matmul(&gather(heads.k)?.t()?)?;
    let (rows, keys) = logits.dims2()?;
    let mut p: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let scale = (dim as f32).sqrt().recip();
    // Of the diagonal block, which comes last, query t sees the first t + 1 keys.
    let whole = if kept.last() == Some(&i) { keys - length(i) } else { keys };
    for (t, row) in p.chunks_exact_mut(keys).enumerate() {
        let (seen, hidden) = row.split_at_mut(if whole < keys { whole + t + 1 } else { keys });
        let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        seen.iter_mut().for_each(|x| *x = ((*x - max) * scale).exp());
        let sum: f32 = seen.iter().sum();
        seen.iter_mut().for_each(|x| *x /= sum);
        hidden.fill(0.0);
    }
    Ok((Tensor::from_vec(p, (rows, keys), &Device::Cpu)?, Some(gather(heads.v)?)))
}

/// `work` for every head, each on a thread of its own.
fn each_head<T: Send>(heads: usize, work: &(dyn Fn(usize) -> Result<T> + Sync)) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..heads).map(|h| scope.spawn(move || work(h))).collect();
        let panicked = |_| Err(Failure::Failed("model: a thread of the attention panicked".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a softmax written out token by token.
    #[test]
    fn blocks_are_masked_exactly() {
        let (n, dim, block) = (41, 8, 16);
        let tensor = |heads: usize, seed: usize| {
            let value = |i: usize| ((i * 7919 + seed * 31) % 101) as f32 / 50.0 - 1.0;
            Tensor::from_vec((0..heads * n * dim).map(value).collect::<Vec<_>>(), (heads, n, dim), &Device::Cpu)
                .unwrap()
        };
        let (q, k, v) = (tensor(2, 1), tensor(1, 2), tensor(1, 3));
        let heads = Heads { layer: 0, q: &q, k: &k, v: &v, gate_q: &q, gate_k: &k };
        let keep = |h: usize, i: usize, j: usize| !(h == 1 && i == 1) && (i + j + h) % 2 == 0;
        let got: Vec<f32> = masked_attention(&heads, block, &keep).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let at = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (q, k, v) = (at(&q), at(&k), at(&v));
        for (h, t) in (0..2).flat_map(|h| (0..n).map(move |t| (h, t))) {
            let query = &q[(h * n + t) * dim..][..dim];
            let seen: Vec<usize> = (0..=t).filter(|&s| keep(h, t / block, s / block)).collect();
            let weight = |&s: &usize| {
                let dot: f64 = (0..dim).map(|d| f64::from(query[d] * k[s * dim + d])).sum();
                (dot / (dim as f64).sqrt()).exp()
            };
            let sum: f64 = seen.iter().map(weight).sum();
            for d in 0..dim {
                let expected: f64 = seen.iter().map(|s| weight(s) / sum * f64::from(v[s * dim + d])).sum();
                assert!((f64::from(got[(h * n + t) * dim + d]) - expected).abs() < 1e-5, "head {h}, query {t}");
            }
        }
    }
}
