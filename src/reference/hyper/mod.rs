//! HyperAttention's estimator in f64, written from its definition: `docs/hyper-attention.md`.

mod estimator;
mod hash;
mod round;
mod shares;

pub use estimator::{HyperEstimator, HyperRanks};
pub use hash::{HyperHash, hash};
pub use shares::value_shares;
