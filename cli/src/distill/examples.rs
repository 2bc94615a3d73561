//! What gates learn from: pooled features and block maxima of windows.

use super::recipe::{Kind, Pool, Recipe};
use crate::failure::Result;
use crate::training::Random;
use candle_core::{Device, Tensor};
use lacuna::methods::seer::{BlockMaxOptions, Pools, block_max, pooled_features};
use lacuna::{AttentionShape, Stream, bf16};

/// Queries whose maxima are in memory at once, for gates with a row for each query.
const CHUNK: usize = 512;

/// Logit of a block that a row may not see. Its exponential is 0, and its product with a probability of 0 too.
const HIDDEN: f32 = -1e30;

/// One layer of a window.
pub struct Example {
    /// `[heads, rows, width]` of the query features.
    q: Vec<f32>,
    /// `[kv_heads, blocks, k pools * head_dim]`
    k: Vec<f32>,
    /// `[heads, rows, blocks]`, each row with sum 1 (or 0, if no block has any weight)
    target: Vec<f32>,
}

/// A window of tokens: the positions that are learned from, and its layers.
pub struct Window {
    pub rows: Vec<usize>,
    pub layers: Vec<Example>,
}

/// The queries of window `number` that are learned from: block starts, or single positions.
pub fn rows(recipe: &Recipe, number: usize) -> Vec<usize> {
    let first = (recipe.skip * recipe.window as f64) as usize;
    if recipe.kind == Kind::Prefill {
        return (first.div_ceil(recipe.block_size)..recipe.blocks()).map(|block| block * recipe.block_size).collect();
    }
    // One position out of each of equal pieces of what has a complete block before it.
    let first = first.max(recipe.block_size);
    let (count, span) = (recipe.rows.min(recipe.window - first), recipe.window - first);
    let mut random = Random::new(recipe.seed, &[3, number as u64]);
    let cut = |i: usize| first + i * span / count;
    (0..count).map(|i| cut(i) + random.below(cut(i + 1) - cut(i))).collect()
}

/// Blocks that a row may choose from: those before its own, and in prefill its own unless it is dropped.
fn visible(recipe: &Recipe, row: usize) -> usize {
    row / recipe.block_size + usize::from(recipe.kind == Kind::Prefill && !recipe.drop_current)
}

impl Example {
    /// `gate_q [q_heads, window, head_dim]` and `gate_k [kv_heads, window, head_dim]` before the rotary embedding;
    /// `maxima` as [`block_maxima`] gives them.
    pub fn new(
        stream: &Stream,
        recipe: &Recipe,
        gate_q: &[bf16],
        gate_k: &[bf16],
        rows: &[usize],
        maxima: Vec<f32>,
    ) -> Result<Self> {
        let (n, dim) = (recipe.window, recipe.head_dim);
        let pooled = |x: &[bf16], heads: usize, pools: &[Pool]| -> Result<Vec<f32>> {
            let has = |pool| pools.contains(&pool);
            let pools = Pools { max: has(Pool::Max), min: has(Pool::Min), avg: has(Pool::Avg) };
            let x = lacuna::Tensor::from_slice(stream, x, [1, heads, n, dim])?;
            Ok(pooled_features(stream, recipe.block_size, pools, x.view())?.to_vec(stream)?)
        };
        let mut q = Vec::new();
        match recipe.kind {
            Kind::Prefill => {
                let width = recipe.q_pool.len() * dim;
                for head in pooled(gate_q, recipe.q_heads, &recipe.q_pool)?.chunks_exact(recipe.blocks() * width) {
                    rows.iter().for_each(|row| q.extend_from_slice(&head[row / recipe.block_size * width..][..width]));
                }
            }
            Kind::Decode => {
                for heads in gate_q.chunks_exact(n * dim * (recipe.q_heads / recipe.kv_heads)) {
                    for &row in rows {
                        let members = heads.chunks_exact(n * dim).map(|head| &head[row * dim..][..dim]);
                        q.extend(members.flatten().map(|x| x.to_f32()));
                    }
                }
            }
        }
        let k = pooled(gate_k, recipe.kv_heads, &recipe.k_pool)?;
        let mut target = maxima;
        for (index, maxima) in target.chunks_exact_mut(recipe.blocks()).enumerate() {
            weigh(recipe, rows[index % rows.len()], maxima);
        }
        Ok(Self { q, k, target })
    }
}

/// Turns the largest probabilities of a row into its target: what it may choose from, weighted, with sum 1.
fn weigh(recipe: &Recipe, row: usize, maxima: &mut [f32]) {
    let own = row / recipe.block_size;
    maxima[visible(recipe, row)..].fill(0.0);
    if (recipe.power, recipe.distance) != (1.0, 0.0) {
        // powf(0, 0) is 1: without a distance weight a row's own block counts.
        let weight = |block: usize| ((own - block) as f64).powf(recipe.distance);
        let weighed = |(block, p): (usize, &mut f32)| *p = (f64::from(*p).powf(recipe.power) * weight(block)) as f32;
        maxima[..visible(recipe, row)].iter_mut().enumerate().for_each(weighed);
    }
    let sum: f32 = maxima.iter().sum();
    if sum > 0.0 {
        maxima.iter_mut().for_each(|x| *x /= sum);
    }
}

/// The largest probability of each block, `[heads, rows, blocks]`, by the kernel: `q`, `k` after the rotary embedding
/// and the rows' LSE, of one window.
pub fn block_maxima(
    stream: &Stream,
    recipe: &Recipe,
    q: &lacuna::Tensor<bf16>,
    k: &lacuna::Tensor<bf16>,
    lse: &lacuna::Tensor<f32>,
    rows: &[usize],
) -> Result<Vec<f32>> {
    let (n, heads, blocks) = (recipe.window, recipe.heads(), recipe.blocks());
    let whole = shape(recipe);
    let mut maxima = vec![0.0; heads * rows.len() * blocks];
    let mut keep = |map: &[f32], dims: [usize; 4], first: usize, unit: usize| {
        let [_, _, map_rows, columns] = dims;
        for (index, &row) in rows.iter().enumerate().filter(|(_, row)| (first..first + map_rows * unit).contains(row)) {
            for head in 0..heads {
                let from = &map[(head * map_rows + (row - first) / unit) * columns..][..columns];
                maxima[(head * rows.len() + index) * blocks..][..columns].copy_from_slice(from);
            }
        }
    };
    match recipe.kind {
        Kind::Prefill => {
            let options = BlockMaxOptions::prefill(recipe.block_size);
            let mut map = lacuna::Tensor::uninit(stream, options.dims(&whole)?)?;
            block_max(stream, &whole, &options, q.view(), k.view(), lse.view(), &mut map)?;
            keep(&map.to_vec(stream)?, map.dims(), 0, recipe.block_size);
        }
        Kind::Decode => {
            let options = BlockMaxOptions::decode(recipe.block_size);
            for first in (0..n).step_by(CHUNK) {
                let len = CHUNK.min(n - first);
                let part = AttentionShape { q_len: len, kv_len: first + len, ..whole };
                let (q, lse) = (q.view().narrow(2, first, len)?, lse.view().narrow(2, first, len)?);
                let mut map = lacuna::Tensor::uninit(stream, options.dims(&part)?)?;
                block_max(stream, &part, &options, q, k.view().narrow(2, 0, first + len)?, lse, &mut map)?;
                keep(&map.to_vec(stream)?, map.dims(), first, 1);
            }
        }
    }
    Ok(maxima)
}

/// One window as an attention problem.
pub fn shape(recipe: &Recipe) -> AttentionShape {
    AttentionShape {
        batch: 1,
        q_heads: recipe.q_heads,
        kv_heads: recipe.kv_heads,
        q_len: recipe.window,
        kv_len: recipe.window,
        head_dim: recipe.head_dim,
        dtype: lacuna::DType::BF16,
    }
}

/// One layer of some windows, for one step.
pub struct Batch {
    /// `[windows, heads, rows, width]`
    pub q: Tensor,
    /// `[windows, kv_heads, blocks, width]`
    pub k: Tensor,
    /// `[windows, heads, rows, blocks]`
    pub target: Tensor,
    /// Sum of `target * ln(target)`.
    pub negative_entropy: f64,
    /// `[windows, 1, rows, blocks]`, 0 where a row sees a block
    pub hidden: Tensor,
    /// cos and sin, `[windows, 1, rows, gate_dim / 2]`
    pub q_angles: (Tensor, Tensor),
    /// cos and sin, `[1, 1, blocks, gate_dim / 2]`
    pub k_angles: (Tensor, Tensor),
}

impl Batch {
    /// Layer `layer` of these windows.
    pub fn new(recipe: &Recipe, windows: &[&Window], layer: usize) -> Result<Self> {
        let (count, rows, blocks) = (windows.len(), windows[0].rows.len(), recipe.blocks());
        let joined = |part: fn(&Example) -> &[f32], heads: usize, rows: usize| -> Result<Tensor> {
            let values: Vec<f32> = windows.iter().flat_map(|window| part(&window.layers[layer])).copied().collect();
            let width = values.len() / (count * heads * rows);
            Ok(Tensor::from_vec(values, (count, heads, rows, width), &Device::Cpu)?)
        };
        let positions: Vec<usize> = windows.iter().flat_map(|window| window.rows.iter().copied()).collect();
        let sees = |&row: &usize| (0..blocks).map(move |block| if block < visible(recipe, row) { 0.0 } else { HIDDEN });
        let hidden: Vec<f32> = positions.iter().flat_map(sees).collect();
        let starts: Vec<usize> = (0..blocks).map(|block| block * recipe.block_size).collect();
        let targets = windows.iter().flat_map(|window| &window.layers[layer].target);
        let entropy = targets.filter(|&&p| p > 0.0).map(|&p| f64::from(p) * f64::from(p).ln()).sum();
        Ok(Self {
            q: joined(|example| &example.q, recipe.heads(), rows)?,
            k: joined(|example| &example.k, recipe.kv_heads, blocks)?,
            target: joined(|example| &example.target, recipe.heads(), rows)?,
            negative_entropy: entropy,
            hidden: Tensor::from_vec(hidden, (count, 1, rows, blocks), &Device::Cpu)?,
            q_angles: angles(recipe, &positions, count)?,
            k_angles: angles(recipe, &starts, 1)?,
        })
    }
}

/// cos and sin of the rotary embedding at positions `[windows, rows]`.
fn angles(recipe: &Recipe, positions: &[usize], windows: usize) -> Result<(Tensor, Tensor)> {
    let half = recipe.gate_dim / 2;
    let table = |f: fn(f64) -> f64| {
        let angle = |i: usize| positions[i / half] as f64 * recipe.rope_theta.powf(-((i % half) as f64) / half as f64);
        let values: Vec<f32> = (0..positions.len() * half).map(|i| f(angle(i)) as f32).collect();
        Tensor::from_vec(values, (windows, 1, positions.len() / windows, half), &Device::Cpu)
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_weighed_rows() {
        let recipe = |drop_current, power, distance| {
            let json = serde_json::json!({
                "kind": "prefill", "block_size": 16, "q_pool": ["avg"], "k_pool": ["avg"], "project_q": false,
                "per_kv_head": false, "norm": false, "gate_dim": 8, "rope_theta": 100.0, "layers": 1, "q_heads": 1,
                "kv_heads": 1, "head_dim": 8, "window": 64, "windows": 1, "rows": 1, "skip": 0.0, "power": power,
                "drop_current": drop_current, "distance": distance, "init": "mean", "steps": 1, "warm_up": 0,
                "batch": 1, "lr": 0.1, "min_lr": 0.0, "seed": 1, "data": "",
            });
            serde_json::from_value::<Recipe>(json).unwrap()
        };
        let weighed = |recipe: Recipe, row| {
            let mut maxima = [0.16f32, 0.04, 0.2, 0.5];
            weigh(&recipe, row, &mut maxima);
            maxima.map(|x| (f64::from(x) * 1e4).round() / 1e4)
        };
        assert_eq!(weighed(recipe(false, 1.0, 0.0), 32), [0.4, 0.1, 0.5, 0.0]);
        assert_eq!(weighed(recipe(true, 1.0, 0.0), 40), [0.8, 0.2, 0.0, 0.0]);
        assert_eq!(weighed(recipe(true, 0.5, 0.0), 32), [0.6667, 0.3333, 0.0, 0.0]);
        // 0.16 * 2 and 0.04 * 1; the own block at distance 0 has no weight.
        assert_eq!(weighed(recipe(false, 1.0, 1.0), 32), [0.8889, 0.1111, 0.0, 0.0]);
        assert_eq!(weighed(recipe(true, 1.0, 0.0), 0), [0.0; 4]);
    }
}
