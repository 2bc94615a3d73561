//! How many blocks a gate keeps.

use crate::error::{Error, Result};
use crate::kernels::bindings as abi;

/// The rule by which blocks are selected. Ties go to the lower block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Select {
    /// Blocks whose probability (softmax over the blocks that a row may see) is larger than this.
    Threshold(f64),
    /// The published rule for a density `r` of a causal call: the `max(1, floor((1 - sqrt(1 - r)) * kv_blocks))` best
    /// blocks, the same number in every row.
    Density(f64),
    /// So many best blocks.
    Blocks(usize),
    /// The fewest best blocks whose probabilities add up to at least this. Where a list serves several heads or
    /// queries, the largest of their probabilities are divided by their sum first.
    TopP(f64),
    /// `max(1, tokens / block_size)` best blocks.
    TokenBudget(usize),
}

impl Select {
    pub(super) fn check(self) -> Result<()> {
        let value = |what, expected: &str, got: String| Err(Error::Value { what, expected: expected.into(), got });
        match self {
            Self::Threshold(t) if !t.is_finite() => value("threshold", "finite", t.to_string()),
            Self::Density(r) if !(r > 0.0 && r <= 1.0) => value("density", "above 0 and at most 1", r.to_string()),
            Self::Blocks(0) => value("blocks", "at least 1", "0".into()),
            Self::TopP(p) if !(p > 0.0 && p <= 1.0) => value("top_p", "above 0 and at most 1", p.to_string()),
            Self::TokenBudget(0) => value("token_budget", "at least 1", "0".into()),
            _ => Ok(()),
        }
    }

    /// Blocks that the rule selects in a row at most.
    pub(super) fn most(self, block_size: usize, kv_blocks: usize) -> usize {
        match self {
            Self::Threshold(_) | Self::TopP(_) => kv_blocks,
            Self::Density(r) => ((fraction(r) * kv_blocks as f64) as usize).max(1),
            Self::Blocks(n) => n,
            Self::TokenBudget(tokens) => (tokens / block_size).max(1),
        }
        .min(kv_blocks)
    }

    /// `(rule, count, value)` of the ABI.
    pub(super) fn rule(self, block_size: usize) -> (i32, i32, f64) {
        let count = |n: usize| n.clamp(1, i32::MAX as usize) as i32;
        match self {
            Self::Threshold(t) => (abi::LACUNA_GATE_THRESHOLD, 1, t),
            Self::Density(r) => (abi::LACUNA_GATE_FRACTION, 1, fraction(r)),
            Self::Blocks(n) => (abi::LACUNA_GATE_COUNT, count(n), 0.0),
            Self::TopP(p) => (abi::LACUNA_GATE_TOP_P, 1, p),
            Self::TokenBudget(tokens) => (abi::LACUNA_GATE_COUNT, count(tokens / block_size), 0.0),
        }
    }
}

/// What a gate keeps. Forced blocks (diagonal, sinks, dense rows) are added to what the rule selects: they replace
/// nothing and are not counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelectOptions {
    /// The rule.
    pub select: Select,
    /// The last so many query blocks of a sequence attend every block that they may see (published: 2).
    pub last_rows_dense: usize,
    /// Every query block attends its own block.
    pub force_diagonal: bool,
    /// The first so many blocks are attended by all.
    pub sink_blocks: usize,
    /// One selection for the query heads that share a KV head, by the largest of their probabilities.
    pub share_heads: bool,
}

impl SelectOptions {
    /// A rule with the published rest: the last 2 query blocks dense, and the diagonal, which keeps rows from being
    /// empty.
    pub fn new(select: Select) -> Self {
        Self { select, last_rows_dense: 2, force_diagonal: true, sink_blocks: 0, share_heads: false }
    }
}

/// What a decode gate keeps. The blocks of the newest tokens are always attended, on top of what is selected, and all
/// query heads of a KV head share a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodeSelectOptions {
    /// The rule.
    pub select: Select,
    /// The first so many blocks are attended by all.
    pub sink_blocks: usize,
}

impl DecodeSelectOptions {
    /// A rule alone.
    pub fn new(select: Select) -> Self {
        Self { select, sink_blocks: 0 }
    }
}

/// The part of a row's blocks that gives the lower triangle density `r`: `k` of `n` in every row give `1 - (1 -
/// k/n)^2`.
fn fraction(r: f64) -> f64 {
    1.0 - (1.0 - r).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_density() {
        let most = |r| Select::Density(r).most(64, 64);
        assert_eq!([0.5, 0.3, 0.2, 0.1, 0.05, 0.001, 1.0].map(most), [18, 10, 6, 3, 1, 1, 64]);
        assert_eq!(Select::TokenBudget(4096).most(64, 1000), 64);
        assert_eq!(Select::TokenBudget(10).most(64, 1000), 1);
    }
}
