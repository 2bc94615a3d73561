//! SeerAttention's gates in f64, written from the papers for the tests alone.

use half::bf16;

/// A value as the tool rounds it.
pub fn round(x: f32) -> f64 {
    bf16::from_f32(x).into()
}

/// Sizes and settings of a gate.
#[derive(Clone)]
pub struct Sizes {
    pub batch: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub dim: usize,
    pub gate_dim: usize,
    pub block: usize,
    pub theta: f64,
}

/// Maximum, minimum, mean of rows `[n][dim]`, those that `pools` names, joined in this order.
pub fn pool(rows: &[&[f64]], pools: &[&str]) -> Vec<f64> {
    let column = |d: usize| rows.iter().map(move |row| row[d]);
    let dims = 0..rows[0].len();
    let mut joined = Vec::new();
    for name in ["max", "min", "avg"].into_iter().filter(|name| pools.contains(name)) {
        joined.extend(dims.clone().map(|d| match name {
            "max" => column(d).fold(f64::NEG_INFINITY, f64::max),
            "min" => column(d).fold(f64::INFINITY, f64::min),
            _ => column(d).sum::<f64>() / rows.len() as f64,
        }));
    }
    joined
}

/// `x W` with `W [inputs, outputs]`.
pub fn project(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let outputs = weight.len() / x.len();
    (0..outputs).map(|o| x.iter().enumerate().map(|(i, x)| x * weight[i * outputs + o]).sum()).collect()
}

/// Rotates halves at a position.
pub fn rotate(x: &[f64], position: usize, theta: f64) -> Vec<f64> {
    let half = x.len() / 2;
    let angle = |i: usize| position as f64 * theta.powf(-((i % half) as f64) / half as f64);
    let turned = |i: usize| if i < half { -x[i + half] } else { x[i - half] };
    (0..x.len()).map(|i| x[i] * angle(i).cos() + turned(i) * angle(i).sin()).collect()
}

/// RMS norm.
pub fn norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x / (mean + eps).sqrt() * w).collect()
}

pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
    logits.iter().map(|x| (x - max).exp() / sum).collect()
}

/// A rule of `select` and its number.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    Threshold(f64),
    Count(usize),
    TopP(f64),
}

impl Rule {
    /// Marks the blocks that a rule picks out of `p`, and how far the rule was from picking others, relative to what it
    /// compares.
    pub fn pick(self, p: &[f64]) -> (Vec<bool>, f64) {
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        let best = |count: usize| {
            let count = count.min(p.len());
            let margin = if count == 0 || count == p.len() { 1.0 } else { 1.0 - p[order[count]] / p[order[count - 1]] };
            ((0..p.len()).map(|j| order[..count].contains(&j)).collect(), margin)
        };
        match self {
            Self::Threshold(t) => {
                let margin = p.iter().map(|p| (p / t - 1.0).abs()).fold(1.0, f64::min);
                (p.iter().map(|&p| p > t).collect(), margin)
            }
            Self::Count(count) => best(count),
            Self::TopP(mass) => {
                let mut sum = 0.0;
                let mut margin = 1.0f64;
                let mut count = 0;
                while sum < mass && count < p.len() {
                    sum += p[order[count]];
                    margin = margin.min((sum / mass - 1.0).abs());
                    count += 1;
                }
                let (picked, apart) = best(count);
                (picked, margin.min(apart))
            }
        }
    }
}
