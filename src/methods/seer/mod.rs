//! SeerAttention: a learned gate says which blocks a query attends.

pub mod ground_truth;

pub use ground_truth::{BlockMaxOptions, block_max, block_max_map};
