//! What a gate is made of: block size, pools, rotation.

use super::rope::Rope;
use crate::error::{Error, Result};
use crate::kernels::bindings as abi;

/// Which statistics of a block's tokens a gate sees: any of maximum, minimum and average, joined in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pools {
    /// The largest value of each dimension.
    pub max: bool,
    /// The smallest value of each dimension.
    pub min: bool,
    /// The mean of each dimension.
    pub avg: bool,
}

impl Pools {
    /// The average alone: the published choice for queries.
    pub const AVG: Self = Self { max: false, min: false, avg: true };
    /// All three: the published choice for keys.
    pub const MAX_MIN_AVG: Self = Self { max: true, min: true, avg: true };

    /// How many.
    pub fn count(self) -> usize {
        [self.max, self.min, self.avg].into_iter().filter(|&on| on).count()
    }

    pub(super) fn check(self, what: &'static str) -> Result<()> {
        if self.count() > 0 {
            return Ok(());
        }
        Err(Error::Value { what, expected: "at least one of max, min and avg".into(), got: "none".into() })
    }

    pub(super) fn bits(self) -> i32 {
        let bit = |on, bit| if on { bit } else { 0 };
        bit(self.max, abi::LACUNA_POOL_MAX) | bit(self.min, abi::LACUNA_POOL_MIN) | bit(self.avg, abi::LACUNA_POOL_AVG)
    }
}

/// Settings of a prefill gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GateConfig {
    /// Tokens of a block, of queries and of keys: 16, 32, 64 or 128.
    pub block_size: usize,
    /// Pools of a query block.
    pub q_pool: Pools,
    /// Pools of a key block.
    pub k_pool: Pools,
    /// The rotation of gate vectors, at the first token of their blocks; `None`: none.
    pub rope: Option<Rope>,
}

impl GateConfig {
    /// The published settings (`Qavg_Kmaxminavg`, blocks of 64) for a model whose rotation has base `theta`.
    pub fn published(theta: f64, gate_dim: usize) -> Self {
        Self { block_size: 64, q_pool: Pools::AVG, k_pool: Pools::MAX_MIN_AVG, rope: Some(Rope::new(theta, gate_dim)) }
    }
}

/// Settings of a decode gate (SeerAttention-R).
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeGateConfig {
    /// Tokens of a key block: 16, 32, 64 or 128.
    pub block_size: usize,
    /// Pools of a key block.
    pub k_pool: Pools,
    /// The rotation of gate vectors: queries at their own position, key blocks at their first token.
    pub rope: Option<Rope>,
    /// Added to the mean square under the root of the RMS norms.
    pub norm_eps: f32,
    /// As the published code has it: a block that completes while decoding is rotated at its *last* token, and the open
    /// block takes part in the softmax and in the selection with a logit of 0. Training rotates at the first token
    /// and leaves the current block out.
    pub compat: bool,
}

pub(super) fn check_block_size(block_size: usize) -> Result<()> {
    if [16, 32, 64, 128].contains(&block_size) {
        return Ok(());
    }
    Err(Error::Value { what: "block_size", expected: "16, 32, 64 or 128".into(), got: block_size.to_string() })
}
