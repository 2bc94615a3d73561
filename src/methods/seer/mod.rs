//! SeerAttention: a learned gate says which blocks a query attends.
//!
//! [`SeerGate`] plans a prompt or a chunk of one, [`DecodeGate`] (SeerAttention-R) the newest tokens; [`GateCache`]
//! keeps the gate vectors of keys between calls. Attention over their plans is
//! [`attention::forward`](crate::attention::forward()) and [`attention::decode`](crate::attention::decode()).
//! [`ground_truth`] is what gates are trained on.

mod cache;
mod config;
mod decode_gate;
mod features;
mod gate;
pub mod ground_truth;
mod rope;
mod scratch;
mod selection;
mod stages;

pub use cache::{GateCache, Span};
pub use config::{DecodeGateConfig, GateConfig, Pools};
pub use decode_gate::{DecodeGate, DecodeGateWeights};
pub use features::pooled_features;
pub use gate::{GateWeights, SeerGate};
pub use ground_truth::{BlockMaxOptions, block_max, block_max_map};
pub use rope::Rope;
pub use selection::{DecodeSelectOptions, Select, SelectOptions};
