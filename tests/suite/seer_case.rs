//! What the tests of SeerAttention share: random gates and inputs, on a device and in f64.

use crate::harness::uniform;
use lacuna::reference::gate::{self, List, Pool, Rotation, Rule, Selection};
use lacuna::seer::{
    DecodeGate, DecodeGateConfig, DecodeGateWeights, DecodeSelectOptions, GateConfig, GateWeights, Pools, Rope,
    SeerGate, Select, SelectOptions,
};
use lacuna::{AttentionShape, BlockPlan, Half, Stream, Tensor, bf16};

pub const THETA: f64 = 10000.0;
pub const ALL: Pools = Pools::MAX_MIN_AVG;
pub const AVG: Pools = Pools::AVG;

/// Values of deviation `scale` / sqrt(12), rounded to the type.
pub fn values<T: Half>(len: usize, scale: f32, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len).map(|_| T::from_f32(scale * uniform(&mut state))).collect()
}

pub fn wide<T: Half>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

pub fn pools(pools: Pools) -> Vec<Pool> {
    let all = [(pools.max, Pool::Max), (pools.min, Pool::Min), (pools.avg, Pool::Avg)];
    all.into_iter().filter(|(on, _)| *on).map(|(_, pool)| pool).collect()
}

fn rule(select: Select, block: usize) -> Rule {
    match select {
        Select::Threshold(threshold) => Rule::Threshold(threshold),
        Select::Density(density) => Rule::Density(density),
        Select::Blocks(count) => Rule::Blocks(count),
        Select::TopP(mass) => Rule::TopP(mass),
        Select::TokenBudget(tokens) => Rule::Blocks((tokens / block).max(1)),
    }
}

/// The options in the reference's words.
pub fn selection(options: &SelectOptions, block: usize) -> Selection {
    let SelectOptions { select, last_rows_dense, force_diagonal, sink_blocks, share_heads } = *options;
    Selection { rule: rule(select, block), last_rows_dense, force_diagonal, sink_blocks, share_heads }
}

/// The same for a decode gate.
pub fn decode_selection(options: &DecodeSelectOptions, block: usize) -> Selection {
    let DecodeSelectOptions { select, sink_blocks } = *options;
    let rule = rule(select, block);
    Selection { rule, last_rows_dense: 0, force_diagonal: true, sink_blocks, share_heads: true }
}

/// One prefill call on random inputs.
#[derive(Debug, Clone)]
pub struct Prefill {
    pub shape: AttentionShape,
    pub causal: bool,
    pub block: usize,
    pub q_pool: Pools,
    pub k_pool: Pools,
    /// Heads of w_k.
    pub k_heads: usize,
    pub project_q: bool,
    pub gate_dim: usize,
    pub rotate: bool,
    pub seed: u64,
}

/// Inputs and weights of a prefill call: `[q, k, w_q, w_k]`.
pub struct PrefillInputs<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub w_q: Vec<T>,
    pub w_k: Vec<T>,
}

impl Prefill {
    /// As published, with a gate dim of the head dim.
    pub fn new(shape: AttentionShape, block: usize) -> Self {
        let (k_heads, gate_dim) = (shape.q_heads, shape.head_dim);
        let (q_pool, k_pool, project_q) = (AVG, ALL, false);
        Self { shape, causal: true, block, q_pool, k_pool, k_heads, project_q, gate_dim, rotate: true, seed: 1 }
    }

    pub fn mask(&self) -> lacuna::Mask {
        if self.causal { lacuna::Mask::CAUSAL } else { lacuna::Mask::FULL }
    }

    pub fn inputs<T: Half>(&self) -> PrefillInputs<T> {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = self.shape;
        let (q_inputs, k_inputs) = (self.q_pool.count() * head_dim, self.k_pool.count() * head_dim);
        PrefillInputs {
            q: values(batch * q_heads * q_len * head_dim, 8.0, self.seed),
            k: values(batch * kv_heads * kv_len * head_dim, 4.0, self.seed + 100),
            w_q: values(q_heads * q_inputs * self.gate_dim, 1.0, self.seed + 200),
            w_k: values(self.k_heads * k_inputs * self.gate_dim, 1.0, self.seed + 300),
        }
    }

    pub fn gate<T: Half>(&self, stream: &Stream, inputs: &PrefillInputs<T>, max_len: usize) -> SeerGate<T> {
        let AttentionShape { q_heads, kv_heads, head_dim, .. } = self.shape;
        let (q_inputs, k_inputs) = (self.q_pool.count() * head_dim, self.k_pool.count() * head_dim);
        let tensor = |values: &[T], dims| Tensor::from_slice(stream, values, dims).unwrap();
        let weights = GateWeights {
            w_k: tensor(&inputs.w_k, [1, self.k_heads, k_inputs, self.gate_dim]),
            w_q: self.project_q.then(|| tensor(&inputs.w_q, [1, q_heads, q_inputs, self.gate_dim])),
        };
        let config = GateConfig {
            block_size: self.block,
            q_pool: self.q_pool,
            k_pool: self.k_pool,
            rope: self.rotate.then(|| Rope::new(THETA, self.gate_dim)),
        };
        SeerGate::new(stream, (q_heads, kv_heads, head_dim), max_len, config, weights).unwrap()
    }

    /// gate_q and gate_k on a device.
    pub fn tensors<T: Half>(&self, stream: &Stream, inputs: &PrefillInputs<T>) -> [Tensor<T>; 2] {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = self.shape;
        let q = Tensor::from_slice(stream, &inputs.q, [batch, q_heads, q_len, head_dim]).unwrap();
        [q, Tensor::from_slice(stream, &inputs.k, [batch, kv_heads, kv_len, head_dim]).unwrap()]
    }

    /// Logits in f64, and for each of the options the lists.
    pub fn expected<T: Half>(
        &self,
        inputs: &PrefillInputs<T>,
        options: &[SelectOptions],
    ) -> (Vec<f64>, Vec<Vec<List>>) {
        let [q, k, w_q, w_k] = [&inputs.q, &inputs.k, &inputs.w_q, &inputs.w_k].map(|x| wide(x));
        let (q_pools, k_pools, frequencies) = (pools(self.q_pool), pools(self.k_pool), frequencies(self.gate_dim));
        let gate = gate::PrefillGate {
            shape: self.shape,
            causal: self.causal,
            block: self.block,
            gate_dim: self.gate_dim,
            q: &q,
            k: &k,
            q_pools: &q_pools,
            k_pools: &k_pools,
            w_q: self.project_q.then_some(&w_q[..]),
            w_k: &w_k,
            rotation: self.rotate.then_some(Rotation { frequencies: &frequencies, factor: 1.0 }),
        };
        let lists = options.iter().map(|options| gate.lists(&selection(options, self.block)).unwrap());
        (gate.logits().unwrap(), lists.collect())
    }
}

pub fn frequencies(gate_dim: usize) -> Vec<f64> {
    (0..gate_dim / 2).map(|i| 1.0 / THETA.powf(2.0 * i as f64 / gate_dim as f64)).collect()
}

/// The decode gate of a model on random weights.
#[derive(Debug, Clone)]
pub struct Decode {
    pub heads: (usize, usize),
    pub head_dim: usize,
    pub block: usize,
    pub k_pool: Pools,
    pub gate_dim: usize,
    pub norm: bool,
    pub rotate: bool,
    pub compat: bool,
    pub seed: u64,
}

/// Weights `[w_q, w_k]` and norms `[q, k]` on the host.
pub struct DecodeWeights {
    pub w: [Vec<bf16>; 2],
    pub norms: [Vec<f32>; 2],
}

impl Decode {
    pub fn new(heads: (usize, usize), head_dim: usize, block: usize, gate_dim: usize) -> Self {
        let (norm, rotate, compat) = (true, true, false);
        Self { heads, head_dim, block, k_pool: ALL, gate_dim, norm, rotate, compat, seed: 1 }
    }

    pub fn weights(&self) -> DecodeWeights {
        let ((q_heads, kv_heads), dim) = (self.heads, self.head_dim);
        // So small that logits without a norm are of the order of 1: no P is 1 but for rounding.
        let w_q = values(q_heads * dim * self.gate_dim, 0.3, self.seed + 10);
        let w_k = values(kv_heads * self.k_pool.count() * dim * self.gate_dim, 0.3, self.seed + 20);
        let norm = |seed| {
            let mut state = seed;
            (0..self.gate_dim).map(|_| 1.2 + uniform(&mut state)).collect()
        };
        DecodeWeights { w: [w_q, w_k], norms: [norm(self.seed + 30), norm(self.seed + 40)] }
    }

    pub fn gate(&self, stream: &Stream, weights: &DecodeWeights, max_len: usize) -> DecodeGate<bf16> {
        let ((q_heads, kv_heads), dim) = (self.heads, self.head_dim);
        let tensor =
            |values: &[bf16], inputs| Tensor::from_slice(stream, values, [1, kv_heads, inputs, self.gate_dim]).unwrap();
        let norm = |values: &[f32]| self.norm.then(|| Tensor::vector(stream, values).unwrap());
        let config = DecodeGateConfig {
            block_size: self.block,
            k_pool: self.k_pool,
            rope: self.rotate.then(|| Rope::new(THETA, self.gate_dim)),
            norm_eps: 1e-6,
            compat: self.compat,
        };
        let weights = DecodeGateWeights {
            w_q: tensor(&weights.w[0], q_heads / kv_heads * dim),
            w_k: tensor(&weights.w[1], self.k_pool.count() * dim),
            q_norm: norm(&weights.norms[0]),
            k_norm: norm(&weights.norms[1]),
        };
        DecodeGate::new(stream, (q_heads, kv_heads, dim), max_len, config, weights).unwrap()
    }
}

/// The lists of a plan as flags, `[rows][blocks]`. They must ascend inside `kv_blocks`.
pub fn flags(stream: &Stream, plan: &BlockPlan, kv_blocks: usize) -> Vec<Vec<bool>> {
    let (offsets, indices) = plan.lists(stream).unwrap().unwrap();
    let row = |range: &[i32]| {
        let list = &indices[range[0] as usize..range[1] as usize];
        assert!(list.windows(2).all(|pair| pair[0] < pair[1]), "{list:?}");
        let mut flags = vec![false; kv_blocks];
        list.iter().for_each(|&block| flags[block as usize] = true);
        flags
    };
    offsets.windows(2).map(row).collect()
}

/// The largest difference of finite logits; where the reference has -inf and `all` is set, so must the kernel.
pub fn logit_error(got: &[f32], expected: &[f64], all: bool) -> f64 {
    assert_eq!(got.len(), expected.len());
    let mut most = 0.0f64;
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        if expected == f64::NEG_INFINITY {
            assert!(!all || got == f32::NEG_INFINITY, "logit {index}: {got}");
            continue;
        }
        // Written so that NaN is not passed over.
        let error = (f64::from(got) - expected).abs();
        assert!(error <= 1e-3, "logit {index}: {got}, expected {expected}");
        most = most.max(error);
    }
    most
}

/// The error that selection starts from: that of the logits, and what f32 adds to a score.
pub fn score_error(logit_error: f64, logits: &[f64]) -> f64 {
    let largest = logits.iter().filter(|x| x.is_finite()).fold(1.0f64, |most, x| most.max(x.abs()));
    logit_error + 8.0 * f64::from(f32::EPSILON) * largest
}

/// Lists compared, block by block: how many there were and how many lay too close to a cut to tell.
#[derive(Debug, Default)]
pub struct Tally {
    pub blocks: usize,
    pub close: usize,
    pub worst: f64,
}

impl Tally {
    pub fn compare(&mut self, got: &[Vec<bool>], expected: &[List], error: f64, what: &dyn std::fmt::Debug) {
        assert_eq!(got.len(), expected.len(), "{what:?}");
        for (row, (got, list)) in got.iter().zip(expected).enumerate() {
            self.close += list.check(got, error).unwrap_or_else(|text| panic!("list {row}: {text}\n{what:?}"));
            self.blocks += got.len();
        }
        self.worst = self.worst.max(error);
    }

    /// Ties are rare, or the comparison would say nothing.
    pub fn finish(&self, what: &str) {
        println!("{what}: {} of {} blocks within {:.1e} of a cut", self.close, self.blocks, self.worst);
        assert!(self.blocks > 0 && self.close * 200 <= self.blocks, "{what}: {self:?}");
    }
}
