//! Forward attention over a plan.

use super::kernel::request;
use super::merge::launch_merge;
use super::options::ForwardOptions;
use crate::device::{Buffer, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::plan::BlockPlan;
use crate::schedule::Schedule;
use crate::shape::AttentionShape;
use crate::tensor::{Half, TensorView, TensorViewMut};

/// Bytes of workspace that [`forward`] needs: 16 for the counter of persistent kernels, and with `splits > 1` f32
/// `[splits, batch, q_heads, q_len]` times `head_dim + 1` in whole 16 bytes. Sizes beyond `usize` saturate, and no
/// allocation of them succeeds. The contents do not matter, before as well as after.
pub fn workspace_bytes(shape: &AttentionShape, options: &ForwardOptions<'_>) -> usize {
    partial_bytes(shape, options.splits).saturating_add(COUNTER_BYTES)
}

/// The counter is one i32 behind the partial results.
const COUNTER_BYTES: usize = 16;

/// Bytes of the partial results, a multiple of 16.
fn partial_bytes(shape: &AttentionShape, splits: usize) -> usize {
    let bytes = partial_rows(shape, splits).saturating_mul(shape.head_dim.saturating_add(1)).saturating_mul(4);
    bytes.checked_next_multiple_of(16).unwrap_or(usize::MAX)
}

/// Rows of the partial results; 0 without splits.
fn partial_rows(shape: &AttentionShape, splits: usize) -> usize {
    if splits <= 1 {
        return 0;
    }
    [shape.batch, shape.q_heads, shape.q_len].iter().fold(splits, |n, &size| n.saturating_mul(size))
}

/// Attention of `q` over the keys that plan and mask let each query see: `out = softmax(scale * q k^T) v`, and
/// `lse = ln(sum(exp(scale * q k^T)))`. A row with nothing to attend gives `out = 0` and `lse = -inf`.
///
/// Tensors are `[batch, heads, seq, dim]`: `q` and `out` `[batch, q_heads, q_len, head_dim]`, `k` and `v`
/// `[batch, kv_heads, kv_len, head_dim]` (with [`ForwardOptions::paged`]: `[pages, kv_heads, page_size, head_dim]`, see
/// [`PagedKv`](super::PagedKv)), `lse` `[batch, q_heads, q_len, 1]`. Any strides; rows of q, k and v that start at
/// multiples of 16 bytes load fastest. `workspace` has [`workspace_bytes`] and serves one call at a time; its contents
/// do not matter.
///
/// Never allocates, waits or copies to the host; a CUDA graph may hold it when all memory belongs to `stream`. The same
/// inputs give the same bits.
///
/// NaN and infinities in q and k stay in the rows that see them. One in v spreads further: a masked key of a tile that is
/// visited is multiplied with a probability of 0, and 0 times NaN is NaN. Only `out` is affected, not `lse`.
///
/// The algorithm is FlashAttention-2 (arXiv 2307.08691) over the tiles that the plan attends.
///
/// # Errors
/// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit the others;
/// [`Error::Unsupported`] and [`Error::NoKernel`] when nothing serves the request; [`Error::Cuda`] or [`Error::Simt`]
/// when the launch fails.
#[expect(clippy::too_many_arguments, reason = "each is one tensor or one decision of the caller")]
pub fn forward<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
    schedule: &Schedule,
    q: TensorView<'_, T>,
    k: TensorView<'_, T>,
    v: TensorView<'_, T>,
    mut out: TensorViewMut<'_, T>,
    mut lse: Option<TensorViewMut<'_, f32>>,
    workspace: &mut Buffer,
) -> Result<()> {
    let mut params = request(shape, options, plan)?;
    schedule.check(shape, &options.mask, plan)?;
    if T::DTYPE != shape.dtype {
        return Err(Error::Value { what: "dtype", expected: T::DTYPE.to_string(), got: shape.dtype.to_string() });
    }
    let q_dims = [shape.batch, shape.q_heads, shape.q_len, shape.head_dim];
    let (batches, kv_rows) = match &options.paged {
        Some(paged) => (k.dims()[0], paged.page_size),
        None => (shape.batch, shape.kv_len),
    };
    let kv_dims = [batches, shape.kv_heads, kv_rows, shape.head_dim];
    check_dims("q", q.dims(), q_dims)?;
    check_dims("k", k.dims(), kv_dims)?;
    check_dims("v", v.dims(), kv_dims)?;
    check_dims("out", out.dims(), q_dims)?;
    if let Some(lse) = &lse {
        check_dims("lse", lse.dims(), [shape.batch, shape.q_heads, shape.q_len, 1])?;
    }
    if let Some(paged) = &options.paged {
        // Repeated pages may be more than 32 bits count.
        if batches > 1 << 30 {
            return Err(Error::Value { what: "pages", expected: "at most 2^30".into(), got: batches.to_string() });
        }
        paged.fill(&mut params.shape, batches);
    }
    let needed = workspace_bytes(shape, options);
    if workspace.len() < needed {
        return Err(Error::Shape {
            what: "workspace",
            expected: format!("at least {needed} bytes"),
            got: workspace.len().to_string(),
        });
    }

    let memory = workspace.as_mut_ptr();
    let partial_out: *mut f32 = memory.cast();
    let [offsets, indices] = plan.owners(stream);
    let owners = [
        q.stream(),
        k.stream(),
        v.stream(),
        out.stream(),
        lse.as_ref().map_or(stream, |lse| lse.stream()),
        options.sink.map_or(stream, |sink| sink.stream()),
        options.paged.map_or(stream, |paged| paged.block_table.stream()),
        workspace.stream(),
        schedule.owner(stream),
        offsets,
        indices,
    ];
    let names = ["q", "k", "v", "out", "lse", "sink", "block_table", "workspace", "schedule", "plan", "plan"];
    for (what, owner) in names.into_iter().zip(owners) {
        stream.device().check_memory(what, owner.device())?;
    }
    if out.layout().is_empty() {
        return Ok(());
    }

    params.schedule = schedule.to_abi();
    (params.q, params.q_stride) = (q.as_ptr().cast(), convert::strides(&q.layout()));
    (params.k, params.k_stride) = (k.as_ptr().cast(), convert::strides(&k.layout()));
    (params.v, params.v_stride) = (v.as_ptr().cast(), convert::strides(&v.layout()));
    (params.out, params.out_stride) = (out.as_mut_ptr().cast(), convert::strides(&out.layout()));
    if let Some(lse) = &mut lse {
        (params.lse, params.lse_stride) = (lse.as_mut_ptr(), convert::strides(&lse.layout()));
    }
    // SAFETY: the workspace holds the counter behind the partial results.
    params.counter = unsafe { memory.add(partial_bytes(shape, options.splits)) }.cast();
    params.sink = options.sink.map_or(std::ptr::null(), |sink| sink.view().as_ptr());
    let merge = (options.splits > 1).then(|| {
        params.partial_out = partial_out;
        // SAFETY: the workspace holds head_dim floats for each partial row before the first LSE.
        params.partial_lse = unsafe { partial_out.add(partial_rows(shape, options.splits) * shape.head_dim) };
        abi::lacuna_merge_params {
            splits: params.splits,
            batch: params.shape.batch,
            heads: params.shape.q_heads,
            len: params.shape.q_len,
            head_dim: params.shape.head_dim,
            out_dtype: params.shape.dtype,
            partial_out: params.partial_out,
            partial_lse: params.partial_lse,
            out: params.out,
            lse: params.lse,
            out_stride: params.out_stride,
            lse_stride: params.lse_stride,
        }
    });
    ordered(stream, &owners, || {
        // SAFETY: every tensor has the sizes of the shape and memory for its layout, on this device; `out`, `lse` and
        // the workspace are borrowed exclusively, so they overlap nothing; the schedule was built for this plan and
        // shape, and its contents are data to the kernel.
        stream.launch(|kernels, raw| unsafe { kernels.forward(&params, raw) })?;
        // SAFETY: as above; the partial results are what forward just wrote.
        merge.as_ref().map_or(Ok(()), |merge| unsafe { launch_merge(stream, merge) })
    })
}

pub(super) fn check_dims(what: &'static str, got: [usize; 4], expected: [usize; 4]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{expected:?}"), got: format!("{got:?}") })
}
