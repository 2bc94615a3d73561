//! Attention over a plan: forward, decode, the merge of partial results, and the raw entry points below them.

mod decode;
mod forward;
mod hyper;
mod kernel;
mod merge;
mod options;
mod page_lists;
mod paged;
mod ragged;
pub mod raw;
mod tensors;

pub use decode::{decode, decode_kernel, decode_workspace_bytes};
pub use forward::{forward, workspace_bytes};
pub use hyper::{hyper_forward, hyper_kernel, hyper_workspace_bytes};
pub use kernel::kernel;
pub use merge::merge;
pub use options::ForwardOptions;
pub use page_lists::PageLists;
pub use paged::PagedKv;
pub use ragged::Ragged;

pub use crate::kernels::family::KernelFamily;
pub use crate::kernels::table::KernelInfo;
