//! SeerAttention's gates in f64: pooled tokens, gate vectors, logits, and the blocks that they select.
//!
//! [`PrefillGate`] and [`DecodeGate`] compute logits by definition, one pair of blocks after the other; [`lists`] makes
//! them lists. A kernel's list may differ where its rounded logits change the order of blocks, and nowhere else:
//! [`List::decide`] says which blocks those are.

mod decode;
pub mod lists;
mod prefill;
mod vectors;

pub use decode::DecodeGate;
pub use lists::{Decision, List, Rule, Selection};
pub use prefill::PrefillGate;
pub use vectors::{Pool, Rotation};
