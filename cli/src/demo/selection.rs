//! Block selections that need more than a formula: the best blocks by some score.

use crate::failure::Result;
use crate::gates::softmax;
use crate::model::{Heads, block_maps};
use candle_core::Tensor;

/// The published rule for blocks a row: with `k` of `blocks` kept in every row, the lower triangle has density
/// `1 - (1 - k/blocks)^2` (SeerAttention).
pub fn blocks_for_density(density: f64, blocks: usize) -> usize {
    (((1.0 - (1.0 - density).sqrt()) * blocks as f64) as usize).max(1)
}

/// Marks the `keep` best-scoring causal blocks of each row, ties to the lower index, and the diagonal besides.
/// `scores [blocks, blocks]` and the result row by row.
pub fn best_blocks(scores: &[f32], blocks: usize, keep: usize) -> Vec<u8> {
    let mut mask = vec![0; blocks * blocks];
    for (i, (row, marks)) in scores.chunks_exact(blocks).zip(mask.chunks_exact_mut(blocks)).enumerate() {
        let mut order: Vec<usize> = (0..=i).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        for &j in order.iter().take(keep) {
            marks[j] = 1;
        }
        marks[i] = 1;
    }
    mask
}

/// Marks the causal blocks with a larger share than `least`, and the diagonal besides. Sizes as in [`best_blocks`].
pub fn blocks_above(shares: &[f32], blocks: usize, least: f64) -> Vec<u8> {
    let mark = |(index, &share): (usize, &f32)| {
        let (i, j) = (index / blocks, index % blocks);
        u8::from(i == j || (j < i && f64::from(share) > least))
    };
    shares.iter().enumerate().map(mark).collect()
}

/// The softmax of the products of the mean query and the mean key of each pair of blocks, as a gate without weights would
/// have it: `[heads][blocks * blocks]`, 0 where a row sees nothing.
pub fn pooled_shares(heads: &Heads<'_>, block: usize) -> Result<Vec<Vec<f32>>> {
    let (q, k) = (block_means(heads.q, block)?, block_means(heads.k, block)?);
    let (q_heads, blocks, head_dim) = q.dims3()?;
    let shares = |h: usize| {
        let products = (q.get(h)?.matmul(&k.get(h * k.dim(0)? / q_heads)?.t()?)? / (head_dim as f64).sqrt())?;
        let mut shares = products.flatten_all()?.to_vec1()?;
        for (i, row) in shares.chunks_exact_mut(blocks).enumerate() {
            let (seen, hidden) = row.split_at_mut(i + 1);
            softmax(seen);
            hidden.fill(0.0);
        }
        Ok(shares)
    };
    (0..q_heads).map(shares).collect()
}

/// The largest probability of each block in the true attention map, over the sum of its row: what gates learn.
pub fn map_shares(heads: &Heads<'_>, block: usize) -> Result<Vec<Vec<f32>>> {
    let blocks = heads.q.dim(1)?.div_ceil(block);
    let mut maps = block_maps(heads, block)?;
    for row in maps.iter_mut().flat_map(|map| map.chunks_exact_mut(blocks)) {
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }
    Ok(maps)
}

/// `[heads, n, dim]` to `[heads, ceil(n / block), dim]`; the last block over the tokens that it has.
fn block_means(x: &Tensor, block: usize) -> Result<Tensor> {
    let n = x.dim(1)?;
    let mean = |i: usize| x.narrow(1, i * block, block.min(n - i * block))?.mean_keepdim(1);
    Ok(Tensor::cat(&(0..n.div_ceil(block)).map(mean).collect::<candle_core::Result<Vec<_>>>()?, 1)?)
}

/// Scores that have nothing to do with the text: SplitMix64 of the position.
pub fn random_scores(seed: u64, blocks: usize) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32
    };
    (0..blocks * blocks).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_best_and_the_diagonal() {
        let scores = [1.0, 9.0, 9.0, 0.5, 0.1, 9.0, 0.3, 0.7, 0.2];
        assert_eq!(best_blocks(&scores, 3, 1), [1, 0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(best_blocks(&[0.5; 9], 3, 2), [1, 0, 0, 1, 1, 0, 1, 1, 1]);
    }

    #[test]
    fn keeps_what_is_above_and_the_diagonal() {
        let shares = [0.0, 0.9, 0.9, 0.75, 0.25, 0.9, 0.5, 0.25, 0.25];
        assert_eq!(blocks_above(&shares, 3, 0.25), [1, 0, 0, 1, 1, 0, 1, 0, 1]);
        assert_eq!(blocks_above(&shares, 3, 0.0), [1, 0, 0, 1, 1, 0, 1, 1, 1]);
    }

    /// Against the definition, token by token; the last block has 5 tokens of 16.
    #[test]
    fn pooled_shares_are_a_softmax_of_means() {
        let (n, dim, block) = (37, 4, 16);
        let tensor = |heads: usize, seed: usize| {
            let value = |i: usize| ((i * 7919 + seed * 31) % 101) as f32 / 25.0 - 2.0;
            let values: Vec<f32> = (0..heads * n * dim).map(value).collect();
            Tensor::from_vec(values, (heads, n, dim), &candle_core::Device::Cpu).unwrap()
        };
        let (q, k) = (tensor(4, 1), tensor(2, 2));
        let heads = Heads { layer: 0, q: &q, k: &k, v: &k, gate_q: &q, gate_k: &k };
        let got = pooled_shares(&heads, block).unwrap();
        let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (q, k) = (flat(&q), flat(&k));
        let mean = |x: &[f32], head: usize, b: usize, e: usize| {
            let tokens = b * block..n.min((b + 1) * block);
            let count = tokens.len() as f64;
            tokens.map(|t| f64::from(x[(head * n + t) * dim + e])).sum::<f64>() / count
        };
        for (h, i) in (0..4).flat_map(|h| (0..3).map(move |i| (h, i))) {
            let logit = |j: usize| {
                (0..dim).map(|e| mean(&q, h, i, e) * mean(&k, h / 2, j, e)).sum::<f64>() / (dim as f64).sqrt()
            };
            let sum: f64 = (0..=i).map(|j| logit(j).exp()).sum();
            for j in 0..3 {
                let expected = if j <= i { logit(j).exp() / sum } else { 0.0 };
                assert!((f64::from(got[h][i * 3 + j]) - expected).abs() < 1e-5, "{h} {i} {j}");
            }
        }
    }

    #[test]
    fn published_rule() {
        assert_eq!([0.5, 0.3, 0.2, 0.1, 0.05, 0.001].map(|r| blocks_for_density(r, 64)), [18, 10, 6, 3, 1, 1]);
        assert_eq!(blocks_for_density(1.0, 64), 64);
    }
}
