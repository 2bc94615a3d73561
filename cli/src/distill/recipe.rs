//! How gates are trained: everything that decides the resulting weights, as the command line and the checkpoint name
//! it.

use crate::failure::{Failure, Result, request};
use crate::training::{Rates, batch_of};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What a gate selects for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Blocks of queries, a selection for each query head (SeerAttention)
    Prefill,
    /// Single queries, a selection for each KV head (SeerAttention-R)
    Decode,
}

/// How the tokens of a block become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    Max,
    Min,
    Avg,
}

/// Where training starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// At the product of the blocks' means
    Mean,
    /// Uniform numbers (Glorot)
    Random,
}

/// The settings and sizes of a training run. A checkpoint of other ones is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub kind: Kind,
    pub block_size: usize,
    /// Joined in the order max, min, avg.
    pub q_pool: Vec<Pool>,
    pub k_pool: Vec<Pool>,
    pub project_q: bool,
    pub per_kv_head: bool,
    pub norm: bool,
    pub gate_dim: usize,
    pub rope_theta: f64,
    pub layers: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Tokens of a window.
    pub window: usize,
    pub windows: usize,
    /// Decode: queries of a window that are learned from.
    pub rows: usize,
    /// Leading share of a window whose queries are not learned from.
    pub skip: f64,
    /// Prefill: whether a row's own block, which attention keeps anyway, is in neither target nor softmax.
    pub drop_current: bool,
    /// Exponent of the probabilities before rows are normalised.
    pub power: f64,
    /// Exponent of the distance in blocks, by which probabilities are multiplied.
    pub distance: f64,
    pub init: Init,
    pub steps: usize,
    pub warm_up: usize,
    pub batch: usize,
    pub lr: f64,
    pub min_lr: f64,
    pub seed: u64,
    /// Fingerprint of the text and model, or of the captured tensors.
    pub data: String,
}

impl Recipe {
    /// Checks the settings against each other and against the sizes.
    pub fn validate(&self) -> Result<()> {
        if ![16, 32, 64, 128].contains(&self.block_size) {
            return request!("--block-size must be 16, 32, 64 or 128, got {}", self.block_size);
        }
        for (option, value) in [("--steps", self.steps), ("--batch", self.batch), ("--windows", self.windows)] {
            if !(1..=1 << 30).contains(&value) {
                return request!("{option} must be in 1..=2^30, got {value}");
            }
        }
        if self.kind == Kind::Decode && !(1..=1 << 30).contains(&self.rows) {
            return request!("--rows must be in 1..=2^30, got {}", self.rows);
        }
        for (option, value) in [("--lr", self.lr), ("--min-lr", self.min_lr)] {
            if !(value >= 0.0 && value.is_finite()) {
                return request!("{option} must be at least 0 and finite, got {value}");
            }
        }
        if !(0.0..1.0).contains(&self.skip) {
            return request!("--skip must be at least 0 and below 1, got {}", self.skip);
        }
        if !(self.power > 0.0 && self.power.is_finite()) {
            return request!("--power must be positive and finite, got {}", self.power);
        }
        if !(0.0..=4.0).contains(&self.distance) {
            return request!("--distance must be in 0..=4, got {}", self.distance);
        }
        if self.gate_dim == 0 || !self.gate_dim.is_multiple_of(2) || self.gate_dim > 256 {
            return request!("--gate-dim must be even and in 2..=256, got {}", self.gate_dim);
        }
        if !(self.rope_theta >= 1.0 && self.rope_theta.is_finite()) {
            return request!("--rope-theta must be at least 1 and finite, got {}", self.rope_theta);
        }
        if self.kind == Kind::Decode && (self.project_q || self.per_kv_head || self.drop_current) {
            return request!("--project-q, --per-kv-head and --drop-current are for prefill gates");
        }
        if self.kind == Kind::Prefill && self.norm {
            return request!("--norm is for decode gates: prefill gates have none");
        }
        let direct = self.q_pool.len() * self.head_dim;
        if self.kind == Kind::Prefill && !self.project_q && direct != self.gate_dim {
            return request!(
                "without --project-q the pooled queries are the gate's vectors: --gate-dim must be {direct} \
                 (pools × head_dim), got {}",
                self.gate_dim
            );
        }
        let means = self.k_pool.contains(&Pool::Avg) && (self.kind == Kind::Decode || self.q_pool.contains(&Pool::Avg));
        if self.init == Init::Mean && !(means && self.gate_dim.is_multiple_of(self.head_dim)) {
            return request!("--init mean needs the pool avg on both sides and whole heads of --gate-dim");
        }
        Ok(())
    }

    /// Learning rate of a step, counted from 1.
    pub fn rate(&self, step: usize) -> f64 {
        Rates { highest: self.lr, last: self.min_lr, warm_up: self.warm_up, steps: self.steps }.of(step)
    }

    /// Blocks of a window.
    pub fn blocks(&self) -> usize {
        self.window.div_ceil(self.block_size)
    }

    /// Heads that select: those of the target.
    pub fn heads(&self) -> usize {
        if self.kind == Kind::Prefill { self.q_heads } else { self.kv_heads }
    }

    /// The windows of a step: a function of seed and step alone.
    pub fn batch_of(&self, step: usize) -> Vec<usize> {
        batch_of(self.seed, self.windows, self.batch, step)
    }

    /// The first setting in which two recipes differ, with both values.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let fields = |recipe: &Self| match serde_json::to_value(recipe) {
            Ok(serde_json::Value::Object(map)) => map,
            _ => serde_json::Map::new(),
        };
        let other = fields(other);
        let differs = |(key, value): (String, serde_json::Value)| {
            (other.get(&key) != Some(&value))
                .then(|| format!("{key} {value} against {}", other.get(&key).unwrap_or(&serde_json::Value::Null)))
        };
        fields(self).into_iter().find_map(differs)
    }

    /// As the checkpoint holds it.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Failure::Failed(format!("checkpoint: {e}")))
    }
}
