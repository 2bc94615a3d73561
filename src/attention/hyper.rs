//! HyperAttention over its plan.

use super::forward::{forward, workspace_bytes};
use super::kernel::kernel;
use super::options::ForwardOptions;
use super::tensors::{check_dims, check_workspace};
use crate::device::{Buffer, Device, Stream, ordered};
use crate::error::Result;
use crate::kernels::table::KernelInfo;
use crate::kernels::{bindings as abi, convert};
use crate::methods::hyper::HyperPlan;
use crate::methods::hyper::plan::{Kind, check_dtype};
use crate::tensor::{Half, Layout, TensorView, TensorViewMut};

/// Bytes of workspace that [`hyper_forward`] needs. For a causal call f32 `[rounds, levels, batch, q_heads, q_len / 2]`
/// times `head_dim + 1`: what each level leaves for the leaves to merge. Otherwise nothing, or for several rounds
/// `[rounds, batch, q_heads, q_len]` times as much. Sizes beyond `usize` saturate, and no allocation of
/// them succeeds. The contents do not matter, before as well as after.
pub fn hyper_workspace_bytes(plan: &HyperPlan) -> usize {
    if let Kind::Exact(..) = plan.kind() {
        return workspace_bytes(plan.shape(), &options(plan, None));
    }
    partial_rows(plan).saturating_mul(plan.shape().head_dim + 1).saturating_mul(4)
}

/// Rows of the partial results; 0 for a call of one round that is not causal.
fn partial_rows(plan: &HyperPlan) -> usize {
    let (shape, rounds) = (plan.shape(), plan.config().rounds);
    let rows = match plan.mask().causal {
        true => shape.q_len / 2,
        false if rounds == 1 => return 0,
        false => shape.q_len,
    };
    [plan.levels(), shape.batch, shape.q_heads, rows].iter().fold(rounds, |n, &size| n.saturating_mul(size))
}

pub(super) fn options(plan: &HyperPlan, scale: Option<f32>) -> ForwardOptions<'static> {
    ForwardOptions { mask: *plan.mask(), scale, family: plan.family(), ..ForwardOptions::default() }
}

/// The kernel that [`hyper_forward`] runs for a plan, and its tile. The answer is for packed tensors and the default
/// scale.
///
/// # Errors
/// As [`kernel`].
pub fn hyper_kernel(device: &Device, plan: &HyperPlan) -> Result<KernelInfo> {
    if let Kind::Exact(exact) = plan.kind() {
        return kernel(device, plan.shape(), &options(plan, None), &exact.plan);
    }
    let shape = plan.shape();
    let packed =
        |heads, len| Layout::contiguous([shape.batch, heads, len, shape.head_dim]).map(|l| convert::strides(&l));
    let (q, kv) = (packed(shape.q_heads, shape.q_len)?, packed(shape.kv_heads, shape.kv_len)?);
    let params = abi::lacuna_gather_forward_params {
        shape: convert::shape(shape),
        plan: plan.to_abi(),
        q_stride: q,
        k_stride: kv,
        v_stride: kv,
        out_stride: q,
        scale: options(plan, None).scale_for(shape),
        family: plan.family().to_abi(),
        ..Default::default()
    };
    // SAFETY: the query reads no tensor.
    device.with_kernels(|kernels| unsafe { kernels.gather_config(&params) })
}

/// HyperAttention of `q` over `k` and `v`, by the rows and samples that `plan` holds since its last
/// [`update`](HyperPlan::update), which was given the same q and k. `scale` multiplies q · k; `None`: `1 /
/// sqrt(head_dim)`.
///
/// Tensors are `[batch, heads, seq, dim]` as for [`forward`], any strides. `workspace` has
/// [`hyper_workspace_bytes`] and serves one call at a time; its contents do not matter.
///
/// Never allocates, waits or copies to the host; a CUDA graph may hold it when all memory belongs to `stream`. The same
/// inputs give the same bits.
///
/// # Errors
/// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit the others;
/// [`Error::Cuda`] or [`Error::Simt`] when the launch fails.
///
/// [`Error::Value`]: crate::Error::Value
/// [`Error::Shape`]: crate::Error::Shape
/// [`Error::Device`]: crate::Error::Device
/// [`Error::Cuda`]: crate::Error::Cuda
/// [`Error::Simt`]: crate::Error::Simt
#[expect(clippy::too_many_arguments, reason = "each is one tensor or one decision of the caller")]
pub fn hyper_forward<T: Half>(
    stream: &Stream,
    plan: &HyperPlan,
    scale: Option<f32>,
    q: TensorView<'_, T>,
    k: TensorView<'_, T>,
    v: TensorView<'_, T>,
    mut out: TensorViewMut<'_, T>,
    mut lse: Option<TensorViewMut<'_, f32>>,
    workspace: &mut Buffer,
) -> Result<()> {
    let (shape, options) = (plan.shape(), options(plan, scale));
    let hashed = match plan.kind() {
        Kind::Exact(exact) => {
            return forward(stream, shape, &options, &exact.plan, &exact.schedule, q, k, v, out, lse, workspace);
        }
        Kind::Hashed(hashed) => hashed,
    };
    options.validate(shape)?;
    hashed.check_filled()?;
    check_dtype::<T>(shape)?;
    let q_dims = [shape.batch, shape.q_heads, shape.q_len, shape.head_dim];
    let kv_dims = [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim];
    check_dims("q", q.dims(), q_dims)?;
    check_dims("k", k.dims(), kv_dims)?;
    check_dims("v", v.dims(), kv_dims)?;
    check_dims("out", out.dims(), q_dims)?;
    if let Some(lse) = &lse {
        check_dims("lse", lse.dims(), [shape.batch, shape.q_heads, shape.q_len, 1])?;
    }
    check_workspace(workspace, hyper_workspace_bytes(plan))?;
    let partial_out: *mut f32 = workspace.as_mut_ptr().cast();
    let [plan_owner, samples_owner] = hashed.owners();
    let owners = [
        q.stream(),
        k.stream(),
        v.stream(),
        out.stream(),
        lse.as_ref().map_or(stream, |lse| lse.stream()),
        workspace.stream(),
        plan_owner,
        samples_owner,
    ];
    for (what, owner) in ["q", "k", "v", "out", "lse", "workspace", "plan", "plan"].into_iter().zip(owners) {
        stream.device().check_memory(what, owner.device())?;
    }
    let mut params = abi::lacuna_gather_forward_params {
        shape: convert::shape(shape),
        plan: plan.to_abi(),
        q: q.as_ptr().cast(),
        k: k.as_ptr().cast(),
        v: v.as_ptr().cast(),
        out: out.as_mut_ptr().cast(),
        q_stride: convert::strides(&q.layout()),
        k_stride: convert::strides(&k.layout()),
        v_stride: convert::strides(&v.layout()),
        out_stride: convert::strides(&out.layout()),
        scale: options.scale_for(shape),
        family: plan.family().to_abi(),
        partial_out,
        ..Default::default()
    };
    if let Some(lse) = &mut lse {
        (params.lse, params.lse_stride) = (lse.as_mut_ptr(), convert::strides(&lse.layout()));
    }
    // SAFETY: the workspace holds head_dim floats for each partial row before the first LSE.
    params.partial_lse = unsafe { partial_out.add(partial_rows(plan) * shape.head_dim) };
    ordered(stream, &owners, || {
        // SAFETY: every tensor has the sizes of the shape and memory for its layout, on this device; `out`, `lse` and
        // the workspace are borrowed exclusively, so they overlap nothing; the plan has the sizes of the shape, and its
        // contents are data to the kernel.
        stream.launch(|kernels, raw| unsafe { kernels.gather_forward(&params, raw) })
    })
}
