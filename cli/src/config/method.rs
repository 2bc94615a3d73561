//! The methods and which of them this build runs.

use super::keys::{BlocksKeys, DenseKeys, HyperKeys, Options, S2Keys};
use crate::failure::{Result, request};

/// A method of the file contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// Every key.
    Dense,
    /// Blocks given as a tensor.
    Blocks,
    /// S2-Attention: local + strided blocks (DKernel, Phi-3-small).
    S2,
    /// SeerAttention: blocks picked by a learned gate.
    Seer,
    /// HyperAttention: blocks of rows sorted by hash, and sampled keys.
    Hyper,
}

impl Method {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Blocks => "blocks",
            Self::S2 => "s2",
            Self::Seer => "seer",
            Self::Hyper => "hyper",
        }
    }

    /// Whether the method is about blocks, so that the output holds a block mask.
    pub fn has_blocks(self) -> bool {
        matches!(self, Self::Blocks | Self::S2)
    }
}

/// A method with its checked config.
#[derive(Debug, Clone)]
pub enum MethodKeys {
    /// See [`DenseKeys`].
    Dense(DenseKeys),
    /// See [`BlocksKeys`].
    Blocks(BlocksKeys),
    /// See [`S2Keys`].
    S2(S2Keys),
    /// See [`HyperKeys`].
    Hyper(HyperKeys),
}

impl MethodKeys {
    /// Parses and range-checks the config text of a method.
    pub fn parse(method: Method, text: &str) -> Result<Self> {
        Ok(match method {
            Method::Dense => Self::Dense(DenseKeys::parse(text)?),
            Method::Blocks => Self::Blocks(BlocksKeys::parse(text)?),
            Method::S2 => Self::S2(S2Keys::parse(text)?),
            Method::Hyper => Self::Hyper(HyperKeys::parse(text)?),
            Method::Seer => {
                return request!(
                    "method {} is not built yet; this build runs dense, blocks, s2 and hyper",
                    method.name()
                );
            }
        })
    }

    /// The keys that every method has.
    pub fn options(&self) -> Options {
        match self {
            Self::Dense(keys) => keys.options(),
            Self::Blocks(keys) => keys.options(),
            Self::S2(keys) => keys.options(),
            Self::Hyper(keys) => keys.options(),
        }
    }
}
