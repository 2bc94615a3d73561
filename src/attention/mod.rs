//! Attention over a plan: forward, decode, the merge of partial results, and the raw entry points below them.

mod backward;
mod decode;
mod forward;
mod hyper;
mod hyper_backward;
mod kernel;
mod merge;
mod options;
mod page_lists;
mod paged;
mod ragged;
pub mod raw;
mod tensors;

pub(crate) use backward::backward_sizes;
pub use backward::{BackwardInputs, GradientsMut, backward, backward_kernels, backward_workspace_bytes};
pub use decode::{decode, decode_kernel, decode_workspace_bytes};
pub use forward::{forward, workspace_bytes};
pub use hyper::{hyper_forward, hyper_kernel, hyper_workspace_bytes};
pub use hyper_backward::{hyper_backward, hyper_backward_kernels, hyper_backward_workspace_bytes};
pub use kernel::kernel;
pub use merge::merge;
pub use options::ForwardOptions;
pub use page_lists::PageLists;
pub use paged::PagedKv;
pub use ragged::Ragged;

pub use crate::kernels::family::KernelFamily;
pub use crate::kernels::table::KernelInfo;
