//! Gradients of HyperAttention.

use super::backward::{
    BackwardInputs, GradientsMut, backward, backward_kernels, backward_workspace_bytes, check, kernels_of,
};
use super::hyper::options;
use super::tensors::check_workspace;
use crate::device::{Buffer, Device, Stream, ordered};
use crate::error::Result;
use crate::kernels::table::KernelInfo;
use crate::kernels::{bindings as abi, convert};
use crate::methods::hyper::HyperPlan;
use crate::methods::hyper::plan::Kind;
use crate::tensor::Half;

/// Bytes of workspace that [`hyper_backward`] needs: 8 for each query row and head, f32 sums of dk and dv, for a causal
/// call of dq too, and those of each part of 4096 queries for its samples. The contents do not matter, before as well
/// as after.
///
/// # Errors
/// As [`hyper_kernel`](super::hyper_kernel).
pub fn hyper_backward_workspace_bytes(device: &Device, plan: &HyperPlan) -> Result<usize> {
    if let Kind::Exact(exact) = plan.kind() {
        return backward_workspace_bytes(device, plan.shape(), &options(plan, None), &exact.plan);
    }
    Ok(usize::try_from(config(device, plan)?.workspace_bytes).unwrap_or(usize::MAX))
}

/// The kernels that [`hyper_backward`] runs for dq, and for dk and dv of hash blocks; samples and the leaves of a
/// causal call have one each with the same tiles.
///
/// # Errors
/// As [`hyper_kernel`](super::hyper_kernel).
pub fn hyper_backward_kernels(device: &Device, plan: &HyperPlan) -> Result<[KernelInfo; 2]> {
    if let Kind::Exact(exact) = plan.kind() {
        return backward_kernels(device, plan.shape(), &options(plan, None), &exact.plan);
    }
    Ok(kernels_of(&config(device, plan)?))
}

fn config(device: &Device, plan: &HyperPlan) -> Result<abi::lacuna_backward_config> {
    let forward = abi::lacuna_gather_forward_params {
        shape: convert::shape(plan.shape()),
        plan: plan.to_abi(),
        ..Default::default()
    };
    let params = abi::lacuna_gather_backward_params { forward, ..Default::default() };
    // SAFETY: the query reads no tensor.
    device.with_kernels(|kernels| unsafe { kernels.gather_backward_config(&params) })
}

/// The gradients of [`hyper_forward`](super::hyper_forward()) over the rows and samples that `plan` holds: of
/// `sum(dout * out) + sum(dlse * lse)` with respect to q, k and v, exact for the estimator. Hash and samples are taken
/// as given.
///
/// `inputs` holds what forward read and gave, `scale` is forward's. Any strides. `workspace` has
/// [`hyper_backward_workspace_bytes`] and serves one call at a time.
///
/// Never allocates, waits or copies to the host; a CUDA graph may hold it when all memory belongs to `stream`. Sums are
/// f32, level after level, in an order that the sizes of the call alone decide: the same inputs give the same bits, and
/// no float is added atomically.
///
/// # Errors
/// As [`hyper_forward`](super::hyper_forward()); [`Error::Value`](crate::Error::Value) where `dsink` is asked for.
pub fn hyper_backward<T: Half>(
    stream: &Stream,
    plan: &HyperPlan,
    scale: Option<f32>,
    inputs: &BackwardInputs<'_, T>,
    gradients: &mut GradientsMut<'_, T>,
    workspace: &mut Buffer,
) -> Result<()> {
    let (shape, options) = (plan.shape(), options(plan, scale));
    let hashed = match plan.kind() {
        Kind::Exact(exact) => {
            let (dense, schedule, columns) = (&exact.plan, &exact.schedule, &exact.columns);
            return backward(stream, shape, &options, dense, schedule, columns, inputs, gradients, workspace);
        }
        Kind::Hashed(hashed) => hashed,
    };
    options.validate(shape)?;
    hashed.check_filled()?;
    check(shape, &options, inputs, gradients)?;
    check_workspace(workspace, hyper_backward_workspace_bytes(stream.device(), plan)?)?;
    let [plan_owner, samples_owner] = hashed.owners();
    let [q, k, v, out, lse, dout, dlse] = inputs.owners(stream);
    let [dq, dk, dv, dsink] = gradients.owners(stream);
    let own = [("workspace", workspace.stream()), ("plan", plan_owner), ("plan", samples_owner)];
    let owners = [q, k, v, out, lse, dout, dlse, dq, dk, dv, dsink, own[0], own[1], own[2]];
    for (what, owner) in owners {
        stream.device().check_memory(what, owner.device())?;
    }
    let owners = owners.map(|(_, owner)| owner);
    let mut params = abi::lacuna_gather_backward_params {
        forward: abi::lacuna_gather_forward_params {
            shape: convert::shape(shape),
            plan: plan.to_abi(),
            q: inputs.q.as_ptr().cast(),
            k: inputs.k.as_ptr().cast(),
            v: inputs.v.as_ptr().cast(),
            // Read here, where forward writes.
            out: inputs.out.as_ptr().cast_mut().cast(),
            lse: inputs.lse.as_ptr().cast_mut(),
            q_stride: convert::strides(&inputs.q.layout()),
            k_stride: convert::strides(&inputs.k.layout()),
            v_stride: convert::strides(&inputs.v.layout()),
            out_stride: convert::strides(&inputs.out.layout()),
            lse_stride: convert::strides(&inputs.lse.layout()),
            scale: options.scale_for(shape),
            ..Default::default()
        },
        dout: inputs.dout.as_ptr().cast(),
        dout_stride: convert::strides(&inputs.dout.layout()),
        dq_stride: convert::strides(&gradients.dq.layout()),
        dk_stride: convert::strides(&gradients.dk.layout()),
        dv_stride: convert::strides(&gradients.dv.layout()),
        workspace: workspace.as_ptr().cast_mut().cast(),
        workspace_bytes: workspace.len() as u64,
        ..Default::default()
    };
    if let Some(dlse) = inputs.dlse {
        (params.dlse, params.dlse_stride) = (dlse.as_ptr(), convert::strides(&dlse.layout()));
    }
    let pointers = gradients.pointers();
    [params.dq, params.dk, params.dv] = pointers.map(|pointer| pointer.cast());
    ordered(stream, &owners, || {
        // SAFETY: every tensor has the sizes of the shape and memory for its layout, on this device; the gradients and
        // the workspace are borrowed exclusively, so they overlap nothing; the plan has the sizes of the shape, and its
        // contents are data to the kernels.
        stream.launch(|kernels, raw| unsafe { kernels.gather_backward(&params, raw) })
    })
}
