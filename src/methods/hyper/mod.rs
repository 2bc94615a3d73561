//! HyperAttention: exact attention inside hash blocks, uniform samples for the rest.
//!
//! Source: "HyperAttention: Long-context Attention in Near-Linear Time" (arXiv 2310.05869) as its published code means
//! it. `docs/hyper-attention.md` states the estimator, and where published codes depart from it.

mod config;
mod hashed;
pub(crate) mod plan;
mod random;
mod sampling;

pub use config::{BucketOrder, HyperConfig};
pub use plan::HyperPlan;
pub use random::{projections, samples};
pub use sampling::{Sampling, value_samples};
