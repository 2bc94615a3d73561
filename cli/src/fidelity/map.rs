//! Exact attention of one head in f64, with its whole map, and what theory asks of it.

use super::layers::Layer;
use crate::failure::Result;
use crate::model::each_head;

/// Power iteration ends when the squared norm moves by less than this part of itself.
const SETTLED: f64 = 1e-7;

/// Steps of the power iteration at most.
const STEPS: usize = 1000;

/// The attention map of a head: D^-1 A.
pub struct Map {
    n: usize,
    causal: bool,
    /// `[n, n]`: the softmax of each query's row; 0 behind the query of a causal map.
    p: Vec<f32>,
    /// `[n]`: natural log of the row sums of A = exp(scale q k^T).
    pub lse: Vec<f64>,
    /// `[n, head_dim]`
    pub out: Vec<f64>,
}

impl Map {
    fn new([q, k, v]: &[Vec<f64>; 3], dim: usize, causal: bool) -> Self {
        let n = q.len() / dim;
        let mut map = Self { n, causal, p: vec![0.0; n * n], lse: Vec::with_capacity(n), out: vec![0.0; n * dim] };
        let scale = (dim as f64).sqrt().recip();
        let mut row = vec![0.0; n];
        for (t, query) in q.chunks_exact(dim).enumerate() {
            let seen = if causal { t + 1 } else { n };
            let row = &mut row[..seen];
            for (x, key) in row.iter_mut().zip(k.chunks_exact(dim)) {
                *x = scale * dot(query, key);
            }
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum: f64 = row.iter().sum();
            map.lse.push(max + sum.ln());
            let out = &mut map.out[t * dim..][..dim];
            for ((x, p), value) in row.iter().zip(&mut map.p[t * n..]).zip(v.chunks_exact(dim)) {
                let x = x / sum;
                *p = x as f32;
                out.iter_mut().zip(value).for_each(|(out, v)| *out += x * v);
            }
        }
        map
    }

    /// The maps of all query heads of a layer.
    pub fn of_layer(layer: &Layer, causal: bool) -> Result<Vec<Self>> {
        each_head(layer.shape.q_heads, &|h| Ok(Self::new(&layer.head(h), layer.shape.head_dim, causal)))
    }

    /// Softmax of query `t`, over the keys that it sees.
    pub fn row(&self, t: usize) -> &[f32] {
        &self.p[t * self.n..][..if self.causal { t + 1 } else { self.n }]
    }

    /// The largest singular value of the map.
    pub fn norm(&self) -> f64 {
        let mut y = vec![0.0; self.n];
        // The map has no negative element, so neither has its first singular vector: ones are not orthogonal to it.
        top_eigenvalue(vec![1.0; self.n], |x, to| {
            for (t, y) in y.iter_mut().enumerate() {
                *y = self.row(t).iter().zip(x).map(|(&p, x)| f64::from(p) * x).sum();
            }
            to.fill(0.0);
            for (t, y) in y.iter().enumerate() {
                self.row(t).iter().zip(to.iter_mut()).for_each(|(&p, to)| *to += f64::from(p) * y);
            }
        })
        .sqrt()
    }

    /// α of the HyperAttention paper: n times the largest squared norm of a column, from column `first` on.
    pub fn alpha(&self, first: usize) -> f64 {
        let mut columns = vec![0.0; self.n];
        for t in 0..self.n {
            self.row(t).iter().zip(&mut columns).for_each(|(&p, sum)| *sum += f64::from(p).powi(2));
        }
        self.n as f64 * columns[first.min(self.n)..].iter().copied().fold(0.0, f64::max)
    }

    /// log10 of the paper's κ: the largest over the smallest row sum of A without the entries whose query and key are
    /// in the same block.
    pub fn log_kappa(&self, q_blocks: &[usize], k_blocks: &[usize]) -> f64 {
        let outside = |t: usize| {
            let others = self.row(t).iter().zip(k_blocks).filter(|(_, block)| **block != q_blocks[t]);
            self.lse[t] + others.map(|(&p, _)| f64::from(p)).sum::<f64>().ln()
        };
        let (low, high) = (0..self.n)
            .map(outside)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        (high - low) / std::f64::consts::LN_10
    }
}

/// The largest singular value of a matrix with rows of `columns` elements.
pub fn spectral_norm(matrix: &[f64], columns: usize) -> f64 {
    let mut gram = vec![0.0; columns * columns];
    for row in matrix.chunks_exact(columns) {
        for (x, sums) in row.iter().zip(gram.chunks_exact_mut(columns)) {
            sums.iter_mut().zip(row).for_each(|(sum, y)| *sum += x * y);
        }
    }
    // A start of no symmetry.
    let start = (0..columns).map(|i| 1.0 + (i * i % 17) as f64 / 17.0).collect();
    top_eigenvalue(start, |x, to| {
        to.iter_mut().zip(gram.chunks_exact(columns)).for_each(|(to, row)| *to = dot(row, x));
    })
    .sqrt()
}

/// The largest eigenvalue of a positive semidefinite matrix, by power iteration from `x`.
fn top_eigenvalue(mut x: Vec<f64>, mut apply: impl FnMut(&[f64], &mut [f64])) -> f64 {
    let (mut next, mut value) = (vec![0.0; x.len()], 0.0);
    for _ in 0..STEPS {
        let size = dot(&x, &x).sqrt();
        if size == 0.0 {
            return 0.0;
        }
        x.iter_mut().for_each(|x| *x /= size);
        apply(&x, &mut next);
        let before = std::mem::replace(&mut value, dot(&x, &next));
        std::mem::swap(&mut x, &mut next);
        if (value - before).abs() <= SETTLED * value {
            break;
        }
    }
    value
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a.zip(b) {
        (0..8).for_each(|i| sums[i] += x[i] * y[i]);
    }
    tail + sums.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(got: f64, expected: f64) {
        assert!((got - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{got} is not {expected}");
    }

    #[test]
    fn singular_values_by_hand() {
        // diag(3, 2) turned; a single column; nothing.
        assert_close(spectral_norm(&[0.0, -2.0, 3.0, 0.0, 0.0, 0.0], 2), 3.0);
        assert_close(spectral_norm(&[3.0, 4.0], 1), 5.0);
        assert_close(spectral_norm(&[0.0; 6], 3), 0.0);
    }

    #[test]
    fn maps_by_hand() {
        // Equal logits: every query spreads evenly over the keys that it sees.
        let zeros = || vec![0.0; 4];
        let full = Map::new(&[zeros(), zeros(), vec![1.0, 2.0, 3.0, 6.0]], 1, false);
        assert_close(full.norm(), 1.0);
        assert_close(full.alpha(0), 1.0);
        assert_close(full.out[2], 3.0);
        assert_close(full.lse[3], 4f64.ln());
        // Block 0 holds queries 0 and 1 with key 0: 3 and 4 keys outside.
        assert_close(full.log_kappa(&[0, 0, 1, 1], &[0, 2, 2, 2]), (4f64 / 3.0).log10());
        let causal = Map::new(&[zeros(), zeros(), vec![1.0, 2.0, 3.0, 6.0]], 1, true);
        assert_close(causal.out[1], 1.5);
        assert_close(causal.alpha(0), 4.0 * (1.0 + 0.25 + 1.0 / 9.0 + 0.0625));
        assert_close(causal.alpha(1), 4.0 * (0.25 + 1.0 / 9.0 + 0.0625));
        // The squared norm is between the largest squared column and the sum of all.
        assert!(causal.norm() > 1.19 && causal.norm() < 1.45, "{}", causal.norm());
    }
}
