//! The config keys of SeerAttention: of `attend`, and of `decode` (SeerAttention-R).

use super::keys::{check_block_size, keys};
use super::select::SelectKeys;
use super::strict::config_error;
use crate::failure::Result;
use lacuna::methods::seer::{Pools, Select};
use serde::Deserialize;

/// A statistic over the tokens of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// Largest value.
    Max,
    /// Smallest value.
    Min,
    /// Mean.
    Avg,
}

/// All, in the order in which they are joined.
pub const POOLS: [(Pool, &str); 3] = [(Pool::Max, "max"), (Pool::Min, "min"), (Pool::Avg, "avg")];

keys! {
    /// `seer`: blocks that a learned gate picks.
    SeerKeys {
        /// Query rows and keys of a block.
        block_size: usize = 64,
        /// Statistics of the queries of a block.
        q_pool: Vec<Pool> = vec![Pool::Avg],
        /// Statistics of the keys of a block.
        k_pool: Vec<Pool> = POOLS.map(|(pool, _)| pool).to_vec(),
        /// How scores become blocks.
        select: SelectKeys = SelectKeys::default(),
        /// The last so many rows of blocks attend to everything.
        last_rows_dense: usize = 2,
        /// Every row keeps its own block.
        force_diagonal: bool = true,
        /// First blocks of the sequence that every row keeps.
        sink_blocks: usize = 0,
        /// One selection for all query heads of a KV head.
        share_heads: bool = false,
        /// Base of the rotation of the gate vectors.
        rope_theta: f64 = 10000.0,
    }
}

impl SeerKeys {
    fn check(&self) -> Result<()> {
        check_block_size("block_size", self.block_size)?;
        pool_set("q_pool", &self.q_pool)?;
        pool_set("k_pool", &self.k_pool)?;
        check_theta(self.rope_theta)?;
        self.rule().map(|_| ())
    }

    /// The checked rule.
    pub fn rule(&self) -> Result<Select> {
        self.select.rule(&["threshold", "density", "blocks", "top_p"])
    }
}

keys! {
    /// `seer` of `decode`: blocks that the gate of SeerAttention-R picks for each new token.
    SeerDecodeKeys {
        /// Keys of a block.
        block_size: usize = 64,
        /// Statistics of the keys of a block.
        k_pool: Vec<Pool> = POOLS.map(|(pool, _)| pool).to_vec(),
        /// How scores become blocks; `None`: the published budget of 4096 tokens.
        select: Option<SelectKeys> = None,
        /// First blocks of the sequence that every token keeps.
        sink_blocks: usize = 0,
        /// Base of the rotation of the gate vectors.
        rope_theta: f64 = 10000.0,
        /// Added to the mean square in the norms.
        norm_eps: f64 = 1e-6,
        /// As the published code does it where it differs from the paper.
        compat: bool = false,
    }
}

impl SeerDecodeKeys {
    fn check(&self) -> Result<()> {
        check_block_size("block_size", self.block_size)?;
        pool_set("k_pool", &self.k_pool)?;
        check_theta(self.rope_theta)?;
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(config_error(format_args!("norm_eps must be finite and at least 0, got {}", self.norm_eps)));
        }
        self.rule().map(|_| ())
    }

    /// The checked rule.
    pub fn rule(&self) -> Result<Select> {
        self.select.as_ref().map_or(Ok(Select::TokenBudget(4096)), |select| {
            select.rule(&["token_budget", "threshold", "top_p", "blocks"])
        })
    }
}

/// The library's set of pools: at least one, each once.
pub fn pool_set(key: &str, list: &[Pool]) -> Result<Pools> {
    let count = |wanted: Pool| list.iter().filter(|&&pool| pool == wanted).count();
    if list.is_empty() || POOLS.iter().any(|&(pool, _)| count(pool) > 1) {
        let name = |pool: &Pool| POOLS.iter().find(|(known, _)| known == pool).map_or("", |&(_, name)| name);
        let got =
            if list.is_empty() { "none".to_owned() } else { list.iter().map(name).collect::<Vec<_>>().join(", ") };
        return Err(config_error(format_args!("{key} must name at least one of max, min, avg, each once, got {got}")));
    }
    Ok(Pools { max: count(Pool::Max) > 0, min: count(Pool::Min) > 0, avg: count(Pool::Avg) > 0 })
}

fn check_theta(theta: f64) -> Result<()> {
    if theta.is_finite() && theta > 0.0 {
        return Ok(());
    }
    Err(config_error(format_args!("rope_theta must be positive and finite, got {theta}")))
}
