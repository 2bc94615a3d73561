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

/// Marks for each row its own block and the best-scoring ones before it, ties to the lower index, `number` in all:
/// where that is no whole number, in some rows one more than in others, evenly spread. Sizes as in [`best_blocks`].
pub fn same_number(scores: &[f32], blocks: usize, number: f64) -> Vec<u8> {
    let mut mask = vec![0; blocks * blocks];
    for (i, (row, marks)) in scores.chunks_exact(blocks).zip(mask.chunks_exact_mut(blocks)).enumerate() {
        let mut order: Vec<usize> = (0..i).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        for &j in order.iter().take(number_of_row(number, i) - 1) {
            marks[j] = 1;
        }
        marks[i] = 1;
    }
    mask
}

/// The number of row `i` where the mean is `number`, at least 1.
fn number_of_row(number: f64, i: usize) -> usize {
    let up_to = |rows: usize| (number * rows as f64) as usize;
    (up_to(i + 1) - up_to(i)).max(1)
}

/// The mean number of blocks a row, each row's own counted, with which a window of `tokens` has this density, or the
/// next larger one, in steps of a hundredth.
pub fn number_for_density(density: f64, tokens: usize, block: usize) -> f64 {
    let blocks = tokens.div_ceil(block);
    let pairs = |number: f64| -> f64 {
        let row = |i: usize| {
            let queries = block.min(tokens - i * block);
            (number_of_row(number, i) - 1).min(i) * queries * block + queries * (queries + 1) / 2
        };
        (0..blocks).map(row).sum::<usize>() as f64
    };
    let wanted = density * pairs(blocks as f64);
    let numbers = (100..100 * blocks).map(|hundredths| hundredths as f64 / 100.0);
    numbers.into_iter().find(|&number| pairs(number) >= wanted).unwrap_or(blocks as f64)
}

/// Marks the causal blocks with a larger share than `least`, and the diagonal besides. Sizes as in [`best_blocks`].
pub fn blocks_above(shares: &[f32], blocks: usize, least: f64) -> Vec<u8> {
    let mark = |(index, &share): (usize, &f32)| {
        let (i, j) = (index / blocks, index % blocks);
        u8::from(i == j || (j < i && f64::from(share) > least))
    };
    shares.iter().enumerate().map(mark).collect()
}

/// The softmax of the products of the mean query and the mean key of each pair of blocks, as a gate without weights
/// would have it: `[heads][blocks * blocks]`, 0 where a row sees nothing.
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
    fn numbers_count_the_own_block_and_give_the_density() {
        let scores = [1.0, 9.0, 9.0, 0.5, 0.1, 9.0, 0.3, 0.7, 0.9];
        assert_eq!(same_number(&scores, 3, 1.0), [1, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(same_number(&scores, 3, 2.0), [1, 0, 0, 1, 1, 0, 0, 1, 1]);
        // 1, 2, 1, 2: 1.5 in the mean.
        assert_eq!(same_number(&[0.5; 16], 4, 1.5), [1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1]);

        for (density, tokens, block) in
            [(0.1, 4096, 64), (0.5, 4096, 64), (0.2, 2048, 64), (0.3, 1000, 16), (1.0, 640, 64)]
        {
            let blocks = usize::div_ceil(tokens, block);
            let mask = same_number(&vec![0.0; blocks * blocks], blocks, number_for_density(density, tokens, block));
            let visible = |t: usize| -> usize { (0..=t).filter(|s| mask[t / block * blocks + s / block] != 0).count() };
            let pairs: usize = (0..tokens).map(visible).sum();
            let measured = pairs as f64 / (tokens * (tokens + 1) / 2) as f64;
            assert!((0.0..0.005).contains(&(measured - density)), "{measured} {density}");
        }
        assert_eq!(number_for_density(0.01, 640, 64), 1.0);
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
