//! Block selections that need more than a formula: the best blocks by some score.

use crate::failure::Result;
use crate::model::Heads;
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

/// Products of the mean query and the mean key of each pair of blocks, one map a query head.
pub fn pooled_scores(heads: &Heads<'_>, block: usize) -> Result<Vec<Vec<f32>>> {
    let (q, k) = (block_means(heads.q, block)?, block_means(heads.k, block)?);
    let q_heads = q.dim(0)?;
    let scores = |h: usize| Ok(q.get(h)?.matmul(&k.get(h * k.dim(0)? / q_heads)?.t()?)?.flatten_all()?.to_vec1()?);
    (0..q_heads).map(scores).collect()
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
    fn published_rule() {
        assert_eq!([0.5, 0.3, 0.2, 0.1, 0.05, 0.001].map(|r| blocks_for_density(r, 64)), [18, 10, 6, 3, 1, 1]);
        assert_eq!(blocks_for_density(1.0, 64), 64);
    }
}
