//! The methods and which of them this build runs.

use super::keys::{BlocksKeys, DenseKeys, HyperKeys, Options, S2Keys};
use super::seer::SeerKeys;
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
    /// HyperAttention: keys picked by hashing.
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
        matches!(self, Self::Blocks | Self::S2 | Self::Seer)
    }
}

/// A method with its checked config.
#[derive(Debug, Clone)]
pub enum MethodKeys {
    /// A pattern that is known without looking at q and k.
    Pattern(PatternKeys),
    /// See [`SeerKeys`].
    Seer(SeerKeys),
    /// See [`HyperKeys`].
    Hyper(HyperKeys),
}

/// The config of a method whose pattern is known without looking at q and k.
#[derive(Debug, Clone)]
pub enum PatternKeys {
    /// See [`DenseKeys`].
    Dense(DenseKeys),
    /// See [`BlocksKeys`].
    Blocks(BlocksKeys),
    /// See [`S2Keys`].
    S2(S2Keys),
}

impl MethodKeys {
    /// Parses and range-checks the config text of a method.
    pub fn parse(method: Method, text: &str) -> Result<Self> {
        Ok(match method {
            Method::Seer => Self::Seer(SeerKeys::parse(text)?),
            Method::Hyper => Self::Hyper(HyperKeys::parse(text)?),
            other => Self::Pattern(PatternKeys::parse(other, text)?),
        })
    }

    /// The keys that every method has.
    pub fn options(&self) -> Options {
        match self {
            Self::Pattern(keys) => keys.options(),
            Self::Seer(keys) => keys.options(),
            Self::Hyper(keys) => keys.options(),
        }
    }
}

impl PatternKeys {
    /// Parses and range-checks the config text of a method.
    pub fn parse(method: Method, text: &str) -> Result<Self> {
        Ok(match method {
            Method::Dense => Self::Dense(DenseKeys::parse(text)?),
            Method::Blocks => Self::Blocks(BlocksKeys::parse(text)?),
            Method::S2 => Self::S2(S2Keys::parse(text)?),
            Method::Seer | Method::Hyper => {
                return request!("method {} has no pattern that is known without looking at q and k", method.name());
            }
        })
    }

    /// The keys that every method has.
    pub fn options(&self) -> Options {
        match self {
            Self::Dense(keys) => keys.options(),
            Self::Blocks(keys) => keys.options(),
            Self::S2(keys) => keys.options(),
        }
    }
}
