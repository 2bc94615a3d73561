//! Dense causal attention in plain f32 with candle, and the block map an oracle selects from.

use super::{Attention, Heads};
use crate::failure::{Failure, Result};
use candle_core::{Device, Tensor};

/// Queries of which the attention map is in memory at a time, for each head.
const ROWS: usize = 64;

/// Dense causal attention in f32 with no kernel of lacuna: the yardstick for the bits per byte of the model.
pub struct Exact;

impl Attention for Exact {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        attend(heads, None)
    }
}

/// Blocks of keys for each token by itself.
pub struct TokenBlocks {
    /// Keys of a block.
    pub block: usize,
    /// `[kv_heads, n, blocks]`, not 0 where the token attends the block, as far as it is causal; never empty.
    pub marks: Vec<u8>,
}

/// Causal attention of each token to its own choice of blocks, in f32.
pub fn attend_token_blocks(heads: &Heads<'_>, picked: &TokenBlocks) -> Result<Tensor> {
    attend(heads, Some(picked))
}

fn attend(heads: &Heads<'_>, picked: Option<&TokenBlocks>) -> Result<Tensor> {
    let (q_heads, n, _) = heads.q.dims3()?;
    let outputs = each_head(q_heads, &|h| {
        let values = heads.v.get(h * heads.v.dim(0)? / q_heads)?;
        let rows = (0..n).step_by(ROWS).map(|start| {
            let p = probabilities(heads, h, start, ROWS.min(n - start), picked)?;
            Ok(p.matmul(&values.narrow(0, 0, p.dim(1)?)?)?)
        });
        Ok(Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?)
    })?;
    Ok(Tensor::stack(&outputs, 0)?)
}

/// For each token and KV head the largest probability that a query head of the group has in each block of keys:
/// `[kv_heads, n, blocks]`.
pub fn token_maps(heads: &Heads<'_>, block: usize) -> Result<Vec<f32>> {
    let (q_heads, n, _) = heads.q.dims3()?;
    let blocks = n.div_ceil(block);
    let maps = each_head(q_heads, &|h| {
        let mut largest = vec![0f32; n * blocks];
        for start in (0..n).step_by(ROWS) {
            let p = probabilities(heads, h, start, ROWS.min(n - start), None)?;
            let keys = p.dim(1)?;
            let cells = largest[start * blocks..].chunks_exact_mut(blocks);
            for (row, cells) in p.flatten_all()?.to_vec1::<f32>()?.chunks_exact(keys).zip(cells) {
                for (cell, keys) in cells.iter_mut().zip(row.chunks(block)) {
                    *cell = keys.iter().copied().fold(0.0, f32::max);
                }
            }
        }
        Ok(largest)
    })?;
    let group = q_heads / heads.k.dim(0)?;
    let largest = |maps: &[Vec<f32>]| -> Vec<f32> {
        (0..n * blocks).map(|cell| maps.iter().map(|map| map[cell]).fold(0.0, f32::max)).collect()
    };
    Ok(maps.chunks_exact(group).flat_map(largest).collect())
}

/// The largest probability in each `block` × `block` tile of every query head's map: `[heads][nb * nb]` row-major,
/// `nb = ceil(n / block)`.
pub fn block_maps(heads: &Heads<'_>, block: usize) -> Result<Vec<Vec<f32>>> {
    let (q_heads, n, _) = heads.q.dims3()?;
    let blocks = n.div_ceil(block);
    each_head(q_heads, &|h| {
        let mut largest = vec![0f32; blocks * blocks];
        for (i, cells) in largest.chunks_exact_mut(blocks).enumerate() {
            let p = probabilities(heads, h, i * block, block.min(n - i * block), None)?;
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

/// The attention map of `rows` queries from `start` on over the keys up to the last of them: `[rows, start + rows]`.
fn probabilities(
    heads: &Heads<'_>,
    h: usize,
    start: usize,
    rows: usize,
    picked: Option<&TokenBlocks>,
) -> Result<Tensor> {
    let (q_heads, _, dim) = heads.q.dims3()?;
    let keys = start + rows;
    let k = heads.k.get(h * heads.k.dim(0)? / q_heads)?.narrow(0, 0, keys)?;
    let logits = heads.q.get(h)?.narrow(0, start, rows)?.matmul(&k.t()?)?;
    let mut p: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let scale = (dim as f32).sqrt().recip();
    for (t, row) in p.chunks_exact_mut(keys).enumerate() {
        let (seen, hidden) = row.split_at_mut(start + t + 1);
        if let Some(TokenBlocks { block, marks }) = picked {
            let (n, blocks) = (heads.q.dim(1)?, heads.q.dim(1)?.div_ceil(*block));
            let marks = &marks[(h * heads.k.dim(0)? / q_heads * n + start + t) * blocks..][..blocks];
            let out = seen.chunks_mut(*block).zip(marks).filter(|(_, mark)| **mark == 0);
            out.for_each(|(keys, _)| keys.fill(f32::NEG_INFINITY));
        }
        let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        seen.iter_mut().for_each(|x| *x = ((*x - max) * scale).exp());
        let sum: f32 = seen.iter().sum();
        seen.iter_mut().for_each(|x| *x /= sum);
        hidden.fill(0.0);
    }
    Ok(Tensor::from_vec(p, (rows, keys), &Device::Cpu)?)
}

/// `work` for every head, each on a thread of its own.
pub fn each_head<T: Send>(heads: usize, work: &(dyn Fn(usize) -> Result<T> + Sync)) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..heads).map(|h| scope.spawn(move || work(h))).collect();
        let panicked = |_| Err(Failure::Failed("model: a thread of the attention panicked".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 query heads on 1 KV head, or 4 on 2, of 141 tokens of 8 elements.
    fn tensor(heads: usize, seed: usize) -> Tensor {
        let value = |i: usize| ((i * 7919 + seed * 31) % 101) as f32 / 50.0 - 1.0;
        Tensor::from_vec((0..heads * 141 * 8).map(value).collect::<Vec<_>>(), (heads, 141, 8), &Device::Cpu).unwrap()
    }

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    }

    /// Against a softmax written out token by token.
    #[test]
    fn dense_and_its_map() {
        let (n, dim, block) = (141, 8, 16);
        let (q, k, v) = (tensor(2, 1), tensor(1, 2), tensor(1, 3));
        let heads = Heads { layer: 0, q: &q, k: &k, v: &v, gate_q: &q, gate_k: &k };
        let (got, maps) = (flat(&Exact.attend(&heads).unwrap()), block_maps(&heads, block).unwrap());
        let (q, k, v) = (flat(&q), flat(&k), flat(&v));
        for (h, map) in maps.iter().enumerate() {
            let mut largest = vec![0.0; map.len()];
            for t in 0..n {
                let query = &q[(h * n + t) * dim..][..dim];
                let weight = |s: usize| {
                    let dot: f64 = (0..dim).map(|d| f64::from(query[d] * k[s * dim + d])).sum();
                    (dot / (dim as f64).sqrt()).exp()
                };
                let sum: f64 = (0..=t).map(weight).sum();
                for d in 0..dim {
                    let expected: f64 = (0..=t).map(|s| weight(s) / sum * f64::from(v[s * dim + d])).sum();
                    assert!((f64::from(got[(h * n + t) * dim + d]) - expected).abs() < 1e-5, "head {h}, query {t}");
                }
                for s in 0..=t {
                    let cell: &mut f64 = &mut largest[t / block * n.div_ceil(block) + s / block];
                    *cell = cell.max(weight(s) / sum);
                }
            }
            assert!(map.iter().zip(&largest).all(|(&a, &b)| (f64::from(a) - b).abs() < 1e-6), "head {h}");
        }
    }

    /// Each token's own choice of blocks, against a softmax over them; and the map that an oracle picks from.
    #[test]
    fn blocks_of_tokens() {
        let (n, dim, block, blocks) = (141, 8, 16, 9);
        let (q, k, v) = (tensor(4, 1), tensor(2, 2), tensor(2, 3));
        let heads = Heads { layer: 0, q: &q, k: &k, v: &v, gate_q: &q, gate_k: &k };
        let marked = |g: usize, t: usize, b: usize| b == t / block || (g + t * 5 + b * 3).is_multiple_of(4);
        let marks = |g: usize| (0..n * blocks).map(move |cell| u8::from(marked(g, cell / blocks, cell % blocks)));
        let picked = TokenBlocks { block, marks: (0..2).flat_map(marks).collect() };
        let (got, maps) = (flat(&attend_token_blocks(&heads, &picked).unwrap()), token_maps(&heads, block).unwrap());
        let (q, k, v) = (flat(&q), flat(&k), flat(&v));
        let mut largest = vec![0.0; maps.len()];
        for (h, t) in (0..4).flat_map(|h| (0..n).map(move |t| (h, t))) {
            let g = h / 2;
            let weight = |s: usize| {
                let dot: f64 = (0..dim).map(|d| f64::from(q[(h * n + t) * dim + d] * k[(g * n + s) * dim + d])).sum();
                (dot / (dim as f64).sqrt()).exp()
            };
            let keys: Vec<usize> = (0..=t).filter(|s| marked(g, t, s / block)).collect();
            let sum: f64 = keys.iter().map(|&s| weight(s)).sum();
            for d in 0..dim {
                let value = |s: usize| weight(s) / sum * f64::from(v[(g * n + s) * dim + d]);
                let expected: f64 = keys.iter().map(|&s| value(s)).sum();
                assert!((f64::from(got[(h * n + t) * dim + d]) - expected).abs() < 1e-5, "head {h}, token {t}");
            }
            let sum: f64 = (0..=t).map(weight).sum();
            for s in 0..=t {
                let cell: &mut f64 = &mut largest[(g * n + t) * blocks + s / block];
                *cell = cell.max(weight(s) / sum);
            }
        }
        assert!(maps.iter().zip(&largest).all(|(&a, &b)| (f64::from(a) - b).abs() < 1e-6));
    }
}
