//! Forward attention over a plan.

use super::kernel::request;
use super::options::ForwardOptions;
use super::tensors::{OWNERS, Partials, Tensors, check_workspace, finish};
use crate::device::{Buffer, Stream, ordered};
use crate::error::Result;
use crate::plan::BlockPlan;
use crate::schedule::Schedule;
use crate::shape::AttentionShape;
use crate::tensor::{Half, TensorView, TensorViewMut};

/// Bytes of workspace that [`forward`] needs: 16 for the counter of persistent kernels, and with `splits > 1` f32
/// `[splits, batch, q_heads, q_len]` times `head_dim + 1` in whole 16 bytes. Sizes beyond `usize` saturate, and no
/// allocation of them succeeds. The contents do not matter, before as well as after.
pub fn workspace_bytes(shape: &AttentionShape, options: &ForwardOptions<'_>) -> usize {
    Partials::new(shape, options.splits).bytes().saturating_add(COUNTER_BYTES)
}

/// The counter is one i32 behind the partial results.
const COUNTER_BYTES: usize = 16;

/// Attention of `q` over the keys that plan and mask let each query see: `out = softmax(scale * q k^T) v`, and
/// `lse = ln(sum(exp(scale * q k^T)))`. A row with nothing to attend gives `out = 0` and `lse = -inf`.
///
/// Tensors are `[batch, heads, seq, dim]`: `q` and `out` `[batch, q_heads, q_len, head_dim]`, `k` and `v` `[batch,
/// kv_heads, kv_len, head_dim]` (with [`ForwardOptions::paged`]: `[pages, kv_heads, page_size, head_dim]`, see
/// [`PagedKv`](super::PagedKv); sequences of different lengths: [`Ragged`](super::Ragged)), `lse` `[batch, q_heads,
/// q_len, 1]`. Any strides; rows of q, k and v that start at multiples of 16 bytes load fastest. `workspace` has
/// [`workspace_bytes`] and serves one call at a time; its contents do not matter.
///
/// Never allocates, waits or copies to the host; a CUDA graph may hold it when all memory belongs to `stream`. The same
/// inputs give the same bits.
///
/// NaN and infinities in q and k stay in the rows that see them. One in v spreads further: a masked key of a tile that
/// is visited is multiplied with a probability of 0, and 0 times NaN is NaN. Only `out` is affected, not `lse`.
///
/// The algorithm is FlashAttention-2 (arXiv 2307.08691) over the tiles that the plan attends.
///
/// # Errors
/// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit the others;
/// [`Error::Unsupported`] and [`Error::NoKernel`] when nothing serves the request; [`Error::Cuda`] or [`Error::Simt`]
/// when the launch fails.
///
/// [`Error::Value`]: crate::Error::Value
/// [`Error::Shape`]: crate::Error::Shape
/// [`Error::Device`]: crate::Error::Device
/// [`Error::Unsupported`]: crate::Error::Unsupported
/// [`Error::NoKernel`]: crate::Error::NoKernel
/// [`Error::Cuda`]: crate::Error::Cuda
/// [`Error::Simt`]: crate::Error::Simt
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
    out: TensorViewMut<'_, T>,
    lse: Option<TensorViewMut<'_, f32>>,
    workspace: &mut Buffer,
) -> Result<()> {
    let mut params = request(shape, options, plan)?;
    schedule.check(shape, options, plan)?;
    let mut tensors = Tensors { q, k, v, out, lse };
    tensors.fill(shape, options, &mut params)?;
    check_workspace(workspace, workspace_bytes(shape, options))?;
    let memory = workspace.as_mut_ptr();
    let mut owners = tensors.owners(stream, options, plan)?;
    for (what, owner) in [("workspace", workspace.stream()), ("schedule", schedule.owner(stream))] {
        stream.device().check_memory(what, owner.device())?;
    }
    if tensors.out.layout().is_empty() {
        return Ok(());
    }
    owners[OWNERS - 2..].copy_from_slice(&[workspace.stream(), schedule.owner(stream)]);
    params.schedule = schedule.to_abi();
    let partials = Partials::new(shape, options.splits);
    // SAFETY: the workspace holds the counter behind the partial results.
    let merge = unsafe {
        params.counter = memory.add(partials.bytes()).cast();
        partials.place(memory, &mut params)
    };
    ordered(stream, &owners, || {
        // SAFETY: every tensor has the sizes of the shape and memory for its layout, on this device; `out`, `lse` and
        // the workspace are borrowed exclusively, so they overlap nothing; the schedule was built for this plan and
        // shape, and its contents are data to the kernel. The merge reads what forward wrote.
        unsafe {
            stream.launch(|kernels, raw| kernels.forward(&params, raw))?;
            finish(stream, merge.as_ref())
        }
    })
}
