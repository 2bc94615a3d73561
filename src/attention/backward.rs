//! Gradients of attention over a plan.

use super::kernel::request;
use super::options::ForwardOptions;
use super::tensors::{check_dims, check_workspace};
use crate::device::{Buffer, Device, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::family::KernelFamily;
use crate::kernels::table::KernelInfo;
use crate::kernels::{bindings as abi, convert};
use crate::plan::BlockPlan;
use crate::schedule::{ColumnSchedule, Schedule};
use crate::shape::AttentionShape;
use crate::tensor::{Half, TensorView, TensorViewMut};

/// What [`backward`] reads.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInputs<'a, T: Half> {
    /// `[batch, q_heads, q_len, head_dim]`
    pub q: TensorView<'a, T>,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub k: TensorView<'a, T>,
    /// As `k`.
    pub v: TensorView<'a, T>,
    /// What [`forward`](super::forward()) gave, as `q`.
    pub out: TensorView<'a, T>,
    /// What it gave beside it, `[batch, q_heads, q_len, 1]`, natural logarithm.
    pub lse: TensorView<'a, f32>,
    /// The gradient of `out`, as `q`.
    pub dout: TensorView<'a, T>,
    /// The gradient of `lse`, as `lse`; `None`: zeros. What later merges parts by their LSE has one.
    pub dlse: Option<TensorView<'a, f32>>,
}

/// What [`backward`] writes.
#[derive(Debug)]
pub struct GradientsMut<'a, T: Half> {
    /// As `q`.
    pub dq: TensorViewMut<'a, T>,
    /// As `k`, summed over the query heads of each KV head.
    pub dk: TensorViewMut<'a, T>,
    /// As `k`.
    pub dv: TensorViewMut<'a, T>,
    /// `[1, 1, 1, q_heads]`, summed over the batch, of [`ForwardOptions::sink`]; `None`: not asked for.
    pub dsink: Option<TensorViewMut<'a, f32>>,
}

/// Bytes that a request needs.
pub(crate) struct BackwardSizes {
    pub(crate) schedule: usize,
    pub(crate) workspace: usize,
}

/// Bytes of workspace that [`backward`] needs: 8 for each query row and head, rows rounded up to 128, and the partial
/// sums of key tiles that are cut. The contents do not matter, before as well as after.
///
/// # Errors
/// As [`kernel`](super::kernel()).
pub fn backward_workspace_bytes(
    device: &Device,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<usize> {
    Ok(backward_sizes(device, shape, options, plan)?.workspace)
}

/// The kernels that [`backward`] runs: that of dq, and that of dk and dv. `tile_k` of the second is the keys of a tile;
/// its `tile_q` and `schedule_q` are those of the first.
///
/// # Errors
/// As [`kernel`](super::kernel()).
pub fn backward_kernels(
    device: &Device,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<[KernelInfo; 2]> {
    Ok(kernels_of(&backward_config(device, shape, options, plan)?))
}

pub(super) fn kernels_of(config: &abi::lacuna_backward_config) -> [KernelInfo; 2] {
    let name = |name: &[std::ffi::c_char]| name.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect();
    let size = |value: i32| usize::try_from(value).unwrap_or(0);
    let info = |name, threads, smem_bytes| KernelInfo {
        name,
        family: KernelFamily::Portable,
        tile_q: size(config.tile_q),
        tile_k: size(config.tile_k),
        heads: 1,
        schedule_q: size(config.tile_q),
        threads: size(threads),
        smem_bytes: size(smem_bytes),
    };
    [
        info(name(&config.query_kernel), config.query_threads, config.query_smem_bytes),
        info(name(&config.key_kernel), config.key_threads, config.key_smem_bytes),
    ]
}

pub(crate) fn backward_sizes(
    device: &Device,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<BackwardSizes> {
    let config = backward_config(device, shape, options, plan)?;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(BackwardSizes { schedule: bytes(config.schedule_bytes), workspace: bytes(config.workspace_bytes) })
}

fn backward_config(
    device: &Device,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<abi::lacuna_backward_config> {
    let mut params =
        abi::lacuna_backward_params { forward: backward_request(shape, options, plan)?, ..Default::default() };
    params.forward.shape.batch = params.forward.shape.batch.max(1);
    // SAFETY: the query reads no tensor.
    device.with_kernels(|kernels| unsafe { kernels.backward_config(&params) })
}

/// A request without its tensors.
fn backward_request(
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<abi::lacuna_forward_params> {
    if options.splits != 1 {
        let expected = "1: backward cuts long tiles of keys by itself".into();
        return Err(Error::Value { what: "splits", expected, got: options.splits.to_string() });
    }
    request(shape, options, plan)
}

/// The gradients of [`forward`](super::forward()) over a plan: of `sum(dout * out) + sum(dlse * lse)` with respect to
/// q, k, v and the sink logits. The plan is taken as given: whatever chose the blocks gets no gradient.
///
/// `schedule` is the one of the forward call, `columns` its counterpart for keys. Any strides; rows that start at
/// multiples of 16 bytes load fastest. Rows whose `lse` is -inf give nothing, and keys that nobody attends get zeros.
/// `workspace` has [`backward_workspace_bytes`] and serves one call at a time.
///
/// Never allocates, waits or copies to the host; a CUDA graph may hold it when all memory belongs to `stream`. Sums are
/// f32 in an order that a sequence's own sizes and blocks decide: the same inputs give the same bits, whatever else is
/// in the batch, and no float is added atomically.
///
/// Two passes, as FlashAttention-2 (arXiv 2307.08691) without its atomics: one walks each query tile's keys for dq, the
/// other each key tile's queries for dk and dv. Together they do 7 matrix products where forward does 2.
///
/// K and V in pages and sequences of different lengths have no gradient yet.
///
/// # Errors
/// As [`forward`](super::forward()).
#[expect(clippy::too_many_arguments, reason = "each is one decision of the caller")]
pub fn backward<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
    schedule: &Schedule,
    columns: &ColumnSchedule,
    inputs: &BackwardInputs<'_, T>,
    gradients: &mut GradientsMut<'_, T>,
    workspace: &mut Buffer,
) -> Result<()> {
    let sizes = backward_sizes(stream.device(), shape, options, plan)?;
    let mut params =
        abi::lacuna_backward_params { forward: backward_request(shape, options, plan)?, ..Default::default() };
    schedule.check(shape, options, plan)?;
    columns.check(shape, options, plan)?;
    check(shape, options, inputs, gradients)?;
    check_workspace(workspace, sizes.workspace)?;
    let [offsets, indices] = plan.owners(stream);
    let [q, k, v, out, lse, dout, dlse] = inputs.owners(stream);
    let [dq, dk, dv, dsink] = gradients.owners(stream);
    let owners = [
        q,
        k,
        v,
        out,
        lse,
        dout,
        dlse,
        dq,
        dk,
        dv,
        dsink,
        ("sink", options.sink.map_or(stream, |sink| sink.stream())),
        ("plan", offsets),
        ("plan", indices),
        ("schedule", schedule.owner(stream)),
        ("columns", columns.memory().stream()),
        ("workspace", workspace.stream()),
    ];
    for (what, owner) in owners {
        stream.device().check_memory(what, owner.device())?;
    }
    if shape.batch == 0 || (shape.q_len == 0 && shape.kv_len == 0) {
        return Ok(());
    }
    inputs.fill(options, &mut params);
    gradients.fill(&mut params);
    params.forward.schedule = schedule.to_abi();
    params.schedule = columns.memory().as_ptr().cast_mut().cast();
    params.schedule_bytes = columns.memory().len() as u64;
    let owners = owners.map(|(_, owner)| owner);
    // The workspace's own stream is among the owners.
    params.workspace = workspace.as_ptr().cast_mut().cast();
    params.workspace_bytes = workspace.len() as u64;
    ordered(stream, &owners, || {
        // SAFETY: every tensor has the sizes of the shape and memory for its layout, on this device; the gradients and
        // the workspace are borrowed exclusively, so they overlap nothing; both schedules were built for this plan and
        // shape, are only read, and their contents are data to the kernels.
        stream.launch(|kernels, raw| unsafe { kernels.backward(&params, raw) })
    })
}

pub(super) fn check<T: Half>(
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    inputs: &BackwardInputs<'_, T>,
    gradients: &GradientsMut<'_, T>,
) -> Result<()> {
    if T::DTYPE != shape.dtype {
        return Err(Error::Value { what: "dtype", expected: T::DTYPE.to_string(), got: shape.dtype.to_string() });
    }
    let q_dims = [shape.batch, shape.q_heads, shape.q_len, shape.head_dim];
    let kv_dims = [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim];
    let row_dims = [shape.batch, shape.q_heads, shape.q_len, 1];
    check_dims("q", inputs.q.dims(), q_dims)?;
    check_dims("k", inputs.k.dims(), kv_dims)?;
    check_dims("v", inputs.v.dims(), kv_dims)?;
    check_dims("out", inputs.out.dims(), q_dims)?;
    check_dims("lse", inputs.lse.dims(), row_dims)?;
    check_dims("dout", inputs.dout.dims(), q_dims)?;
    inputs.dlse.map_or(Ok(()), |dlse| check_dims("dlse", dlse.dims(), row_dims))?;
    check_dims("dq", gradients.dq.dims(), q_dims)?;
    check_dims("dk", gradients.dk.dims(), kv_dims)?;
    check_dims("dv", gradients.dv.dims(), kv_dims)?;
    let Some(dsink) = &gradients.dsink else { return Ok(()) };
    check_dims("dsink", dsink.dims(), [1, 1, 1, shape.q_heads])?;
    if options.sink.is_none() {
        return Err(Error::Value { what: "dsink", expected: "none where there is no sink".into(), got: "one".into() });
    }
    Ok(())
}

impl<'a, T: Half> BackwardInputs<'a, T> {
    /// The streams that the memory belongs to, by name.
    pub(super) fn owners<'s>(&self, stream: &'s Stream) -> [(&'static str, &'s Stream); 7]
    where
        'a: 's,
    {
        [
            ("q", self.q.stream()),
            ("k", self.k.stream()),
            ("v", self.v.stream()),
            ("out", self.out.stream()),
            ("lse", self.lse.stream()),
            ("dout", self.dout.stream()),
            ("dlse", self.dlse.map_or(stream, |dlse| dlse.stream())),
        ]
    }

    fn fill(&self, options: &ForwardOptions<'_>, params: &mut abi::lacuna_backward_params) {
        let forward = &mut params.forward;
        (forward.q, forward.q_stride) = (self.q.as_ptr().cast(), convert::strides(&self.q.layout()));
        (forward.k, forward.k_stride) = (self.k.as_ptr().cast(), convert::strides(&self.k.layout()));
        (forward.v, forward.v_stride) = (self.v.as_ptr().cast(), convert::strides(&self.v.layout()));
        // Read here, where forward writes.
        (forward.out, forward.out_stride) = (self.out.as_ptr().cast_mut().cast(), convert::strides(&self.out.layout()));
        (forward.lse, forward.lse_stride) = (self.lse.as_ptr().cast_mut(), convert::strides(&self.lse.layout()));
        forward.sink = options.sink.map_or(std::ptr::null(), |sink| sink.view().as_ptr());
        (params.dout, params.dout_stride) = (self.dout.as_ptr().cast(), convert::strides(&self.dout.layout()));
        if let Some(dlse) = self.dlse {
            (params.dlse, params.dlse_stride) = (dlse.as_ptr(), convert::strides(&dlse.layout()));
        }
    }
}

impl<'a, T: Half> GradientsMut<'a, T> {
    /// Of dq, dk and dv.
    pub(super) fn pointers(&mut self) -> [*mut T; 3] {
        [self.dq.as_mut_ptr(), self.dk.as_mut_ptr(), self.dv.as_mut_ptr()]
    }

    /// The streams that the memory belongs to, by name.
    pub(super) fn owners<'s>(&self, stream: &'s Stream) -> [(&'static str, &'s Stream); 4]
    where
        'a: 's,
    {
        [
            ("dq", self.dq.stream()),
            ("dk", self.dk.stream()),
            ("dv", self.dv.stream()),
            ("dsink", self.dsink.as_ref().map_or(stream, |dsink| dsink.stream())),
        ]
    }

    fn fill(&mut self, params: &mut abi::lacuna_backward_params) {
        (params.dq, params.dq_stride) = (self.dq.as_mut_ptr().cast(), convert::strides(&self.dq.layout()));
        (params.dk, params.dk_stride) = (self.dk.as_mut_ptr().cast(), convert::strides(&self.dk.layout()));
        (params.dv, params.dv_stride) = (self.dv.as_mut_ptr().cast(), convert::strides(&self.dv.layout()));
        params.dsink = self.dsink.as_mut().map_or(std::ptr::null_mut(), |dsink| dsink.as_mut_ptr());
    }
}
