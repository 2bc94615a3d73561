//! Planners: each turns the settings of a published method into a plan.

pub mod hyper;
pub mod s2;
pub mod seer;

pub use hyper::{BucketOrder, HyperConfig, HyperPlan, Sampling};
pub use s2::{S2Columns, S2Config, S2Variant};
