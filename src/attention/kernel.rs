//! Which kernel serves a request.

use super::options::ForwardOptions;
use crate::device::Device;
use crate::error::Result;
use crate::kernels::table::KernelInfo;
use crate::kernels::{bindings as abi, convert};
use crate::plan::BlockPlan;
use crate::shape::AttentionShape;
use crate::tensor::Layout;

/// The kernel that [`forward`](super::forward()) runs for a request, and its tile.
///
/// The answer is for packed tensors. It does not depend on the contents of a block table, nor on the number of pages.
///
/// # Errors
/// [`Error::Value`](crate::Error::Value) or [`Error::Shape`](crate::Error::Shape) for a request that contradicts
/// itself, [`Error::Unsupported`](crate::Error::Unsupported) or [`Error::NoKernel`](crate::Error::NoKernel) when
/// nothing serves it.
pub fn kernel(
    device: &Device,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<KernelInfo> {
    let mut params = request(shape, options, plan)?;
    // An empty call is served by what serves one query.
    params.shape.batch = params.shape.batch.max(1);
    params.shape.q_len = params.shape.q_len.max(1);
    // SAFETY: the query reads no tensor.
    device.with_kernels(|kernels| unsafe { kernels.forward_config(&params) })
}

/// A request without its tensors: packed strides, null pointers.
pub(super) fn request(
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<abi::lacuna_forward_params> {
    options.validate(shape)?;
    let geometry = plan.geometry(shape)?;
    let packed = |heads, len, dim| Layout::contiguous([shape.batch, heads, len, dim]).map(|l| convert::strides(&l));
    let q = packed(shape.q_heads, shape.q_len, shape.head_dim)?;
    let kv_rows = options.paged.map_or(shape.kv_len, |paged| paged.page_size);
    let kv = packed(shape.kv_heads, kv_rows, shape.head_dim)?;
    let mut sizes = convert::shape(shape);
    options.ragged.fill(&mut sizes);
    if let Some(paged) = &options.paged {
        // How many pages there are is known where k and v are.
        paged.fill(&mut sizes, 0);
    }
    Ok(abi::lacuna_forward_params {
        shape: sizes,
        mask: convert::mask(&options.mask, shape),
        plan: plan.to_abi(&geometry),
        q_stride: q,
        k_stride: kv,
        v_stride: kv,
        out_stride: q,
        lse_stride: packed(shape.q_heads, shape.q_len, 1)?,
        scale: options.scale_for(shape),
        softcap: options.softcap.unwrap_or(0.0),
        splits: options.splits as i32,
        family: options.family.to_abi(),
        ..Default::default()
    })
}
