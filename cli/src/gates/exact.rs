//! The f64 reference of gates: its names for the settings, and lists of blocks held to it.

use lacuna::methods::seer::{Pools, Select};
use lacuna::reference::gate::{List, Pool, Rule};

/// The logits of a gate may be off by this, relative to the largest one or 1: what an LSE may be off by.
const LOGIT_ERROR: f64 = 1e-4;

/// The reference's names of pools, in the order in which they are joined.
pub fn reference_pools(pools: Pools) -> Vec<Pool> {
    let all = [(pools.max, Pool::Max), (pools.min, Pool::Min), (pools.avg, Pool::Avg)];
    all.into_iter().filter(|(on, _)| *on).map(|(_, pool)| pool).collect()
}

/// The reference's name of a rule.
pub fn reference_rule(select: Select, block_size: usize) -> Rule {
    match select {
        Select::Threshold(part) => Rule::Threshold(part),
        Select::Density(density) => Rule::Density(density),
        Select::Blocks(count) => Rule::Blocks(count),
        Select::TopP(mass) => Rule::TopP(mass),
        Select::TokenBudget(tokens) => Rule::Blocks((tokens / block_size).max(1)),
    }
}

/// Angles a token of the rotation of gate vectors.
pub fn frequencies(theta: f64, gate_dim: usize) -> Vec<f64> {
    (0..gate_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / gate_dim as f64)).collect()
}

/// How lists of a kernel compare with the reference.
#[derive(Default)]
pub struct Lists {
    blocks: usize,
    close: usize,
    wrong: Option<String>,
}

impl Lists {
    /// Compares one list, as a mark for each block. `largest` is the largest magnitude of a logit.
    pub fn add(&mut self, name: impl std::fmt::Display, list: &List, marks: &[u8], largest: f64) {
        let got: Vec<bool> = marks.iter().map(|&mark| mark != 0).collect();
        self.blocks += got.len();
        match list.check(&got, LOGIT_ERROR * largest.max(1.0)) {
            Ok(close) => self.close += close,
            Err(text) => {
                self.wrong.get_or_insert(format!("{name}: {text}"));
            }
        }
    }

    /// Whether all lists are what the reference says, or too close to tell.
    pub fn passed(&self) -> bool {
        self.wrong.is_none()
    }

    /// A line.
    pub fn text(&self, what: &str) -> String {
        match &self.wrong {
            None => format!("{what}: as in f64, {} of {} blocks are too close to tell\n", self.close, self.blocks),
            Some(wrong) => format!("{what}: {wrong}\n"),
        }
    }
}

/// The largest magnitude of the logits that count.
pub fn largest(logits: &[f64]) -> f64 {
    logits.iter().filter(|x| x.is_finite()).fold(0.0, |largest, x| x.abs().max(largest))
}
