//! Attention over a plan: forward, decode, the merge of partial results, and the raw entry points below them.

mod decode;
mod forward;
mod kernel;
mod merge;
mod options;
mod paged;
pub mod raw;
mod tensors;

pub use decode::{decode, decode_kernel, decode_workspace_bytes};
pub use forward::{forward, workspace_bytes};
pub use kernel::kernel;
pub use merge::merge;
pub use options::ForwardOptions;
pub use paged::PagedKv;

pub use crate::kernels::family::KernelFamily;
pub use crate::kernels::table::KernelInfo;
