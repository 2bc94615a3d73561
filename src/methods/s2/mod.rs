//! S2-Attention: a local window and strided columns that slide from head to head, and a cache of what they reach.
//!
//! Source: "S2-Attention: Hardware-Aware Context Sharding Among Attention Heads" (arXiv 2407.17678) as its code states
//! it (DKernel, `get_sparse_attn_mask`), and the variant of Phi-3-small (vLLM's `blocksparse_attn`).

mod cache;
mod config;
mod layout;
mod piece;

pub use cache::Cache;
pub use config::{S2Columns, S2Config, S2Variant};
pub use layout::CacheLayout;
pub use piece::{HeadRange, Piece, PieceCall};
