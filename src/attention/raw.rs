//! Entry points for serving stacks that bring their own memory and stream: the C structs of `cuda/lacuna_kernels.h`.
//!
//! A foreign stream becomes a [`Stream`] with [`Stream::from_raw`]; null pointers stand for what is absent. Nothing
//! here allocates, waits or orders streams: memory must be ready in the order of the stream.

use crate::device::{Device, Stream};
use crate::error::Result;
use crate::kernels::table::KernelInfo;

pub use crate::kernels::bindings::{
    lacuna_block_formula, lacuna_block_max_params, lacuna_block_plan, lacuna_cache_append_params,
    lacuna_forward_params, lacuna_gate_pool_params, lacuna_gate_project_params, lacuna_gate_select_params,
    lacuna_gate_span, lacuna_gather_forward_params, lacuna_gather_plan, lacuna_hyper_plan_params, lacuna_hyper_sizes,
    lacuna_mask, lacuna_mask_to_lists_params, lacuna_merge_params, lacuna_page_table_params,
    lacuna_plan_to_mask_params, lacuna_schedule, lacuna_schedule_params, lacuna_shape, lacuna_strides,
};

/// Which kernel serves a request; no tensor is read.
///
/// # Safety
/// Pointers of `params` that the header calls host memory are valid; there are none at present.
///
/// # Errors
/// [`Error::Value`](crate::Error::Value) for parameters outside their ranges,
/// [`Error::Unsupported`](crate::Error::Unsupported) or [`Error::NoKernel`](crate::Error::NoKernel) when nothing
/// serves them.
pub unsafe fn forward_config(device: &Device, params: &lacuna_forward_params) -> Result<KernelInfo> {
    // SAFETY: passed on to the caller.
    device.with_kernels(|kernels| unsafe { kernels.forward_config(params) })
}

/// Which kernel serves a decode request; no tensor is read.
///
/// # Safety
/// As [`forward_config`].
///
/// # Errors
/// As [`forward_config`].
pub unsafe fn decode_config(device: &Device, params: &lacuna_forward_params) -> Result<KernelInfo> {
    // SAFETY: passed on to the caller.
    device.with_kernels(|kernels| unsafe { kernels.decode_config(params) })
}

/// Which kernel serves attention over a gather plan; no tensor is read.
///
/// # Safety
/// As [`forward_config`].
///
/// # Errors
/// As [`forward_config`].
pub unsafe fn gather_config(device: &Device, params: &lacuna_gather_forward_params) -> Result<KernelInfo> {
    // SAFETY: passed on to the caller.
    device.with_kernels(|kernels| unsafe { kernels.gather_config(params) })
}

/// The levels of a gather plan and the memory that [`hyper_plan`] needs; no tensor is read.
///
/// # Safety
/// As [`forward_config`].
///
/// # Errors
/// As [`forward_config`].
pub unsafe fn hyper_sizes(device: &Device, params: &lacuna_hyper_plan_params) -> Result<lacuna_hyper_sizes> {
    // SAFETY: passed on to the caller.
    device.with_kernels(|kernels| unsafe { kernels.hyper_sizes(params) })
}

macro_rules! entry_points {
    ($($(#[$doc:meta])* $name:ident($params:ty);)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// Every pointer of `params` is null where the header allows that, or points to memory of the stream's device
        /// with the extent that shape and strides say, that nobody else writes (or, for outputs, uses) before the
        /// stream has done this work.
        ///
        /// # Errors
        /// [`Error::Value`](crate::Error::Value) for parameters outside their ranges,
        /// [`Error::Unsupported`](crate::Error::Unsupported) or [`Error::NoKernel`](crate::Error::NoKernel) when
        /// nothing serves them, [`Error::Cuda`](crate::Error::Cuda) or [`Error::Simt`](crate::Error::Simt) when the
        /// launch fails.
        pub unsafe fn $name(stream: &Stream, params: &$params) -> Result<()> {
            // SAFETY: passed on to the caller.
            stream.launch(|kernels, raw| unsafe { kernels.$name(params, raw) })
        }
    )*};
}

entry_points! {
    /// Attention over a plan, to `out` and `lse`, or with `splits > 1` to the partial buffers.
    forward(lacuna_forward_params);
    /// Merges partial results in the order of the splits.
    merge(lacuna_merge_params);
    /// Builds a schedule from block lists.
    schedule_build(lacuna_schedule_params);
    /// Builds block lists from a dense mask.
    mask_to_lists(lacuna_mask_to_lists_params);
    /// Draws the blocks of a plan into a dense mask.
    plan_to_mask(lacuna_plan_to_mask_params);
    /// Attention of 1 to 16 queries a sequence over a plan.
    decode(lacuna_forward_params);
    /// Builds a block table and lengths from page lists.
    page_table(lacuna_page_table_params);
    /// Copies new keys and values into a cache that keeps what its pattern still reaches.
    cache_append(lacuna_cache_append_params);
    /// Pools blocks of a gate's inputs.
    gate_pool(lacuna_gate_pool_params);
    /// Projects pooled features to gate vectors.
    gate_project(lacuna_gate_project_params);
    /// Selects blocks by gate vectors, into lists.
    gate_select(lacuna_gate_select_params);
    /// The largest attention probability in each block.
    block_max(lacuna_block_max_params);
    /// Hashes and sorts the rows of q and k and samples keys, into a gather plan.
    hyper_plan(lacuna_hyper_plan_params);
    /// Attention over a gather plan.
    gather_forward(lacuna_gather_forward_params);
}
