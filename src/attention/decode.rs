//! Decode attention over a plan: a few queries at the end of long keys.

use super::kernel::request;
use super::options::ForwardOptions;
use super::tensors::{OWNERS, Partials, Tensors, check_dims, check_workspace, finish};
use crate::device::{Buffer, Device, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::bindings as abi;
use crate::kernels::table::KernelInfo;
use crate::plan::BlockPlan;
use crate::shape::AttentionShape;
use crate::tensor::{Half, Tensor, TensorView, TensorViewMut};

/// Keys of visited blocks that a split has at least: 64 splits of this size run at once for 16384 visited keys, and
/// longer lists get longer splits.
const SPLIT_KEYS: usize = 256;

/// Splits that a sequence of the largest length can need. Where the cuts are depends on a sequence's own blocks alone.
fn splits(shape: &AttentionShape, block_k: usize) -> usize {
    let blocks = shape.kv_len.div_ceil(block_k.max(1));
    blocks.div_ceil(SPLIT_KEYS.div_ceil(block_k.max(1))).clamp(1, abi::LACUNA_MAX_SPLITS as usize)
}

/// Bytes of workspace that [`decode`] needs: f32 `[splits, batch, q_heads, q_len]` times `head_dim + 1`, with a split
/// for every 256 keys, at most 64. The contents do not matter, before as well as after.
pub fn decode_workspace_bytes(shape: &AttentionShape, plan: &BlockPlan) -> usize {
    Partials::new(shape, splits(shape, plan.block_size().k)).bytes()
}

/// The kernel that [`decode`] runs for a request, and its tile: `heads` query heads are packed into `tile_q` rows.
///
/// # Errors
/// As [`kernel`](super::kernel()).
pub fn decode_kernel(
    device: &Device,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<KernelInfo> {
    let mut params = request(shape, options, plan)?;
    params.shape.batch = params.shape.batch.max(1);
    // SAFETY: the query reads no tensor.
    device.with_kernels(|kernels| unsafe { kernels.decode_config(&params) })
}

/// Attention of the newest 1 to 16 queries of each sequence (`shape.q_len`) over the blocks of any plan, split over the
/// blocks that are visited. The query heads that share a KV head (and a plan head) share every load of K and V.
///
/// Tensors, plan, options and results are as in [`forward`](super::forward()), with these differences. Lists are walked
/// as they are: there is no schedule. `kv_lens` `[1, 1, 1, batch]` are the keys of each sequence where they differ:
/// `shape.kv_len` is their maximum and the size of `k` and `v`; they are data, cut to `0..=kv_len`, and queries stand
/// at the end of their own sequence (a query before its first key sees nothing under a causal mask). `options.splits`
/// must be 1: the call splits by itself. `workspace` has [`decode_workspace_bytes`].
///
/// Never allocates, waits or copies to the host, and what it launches depends on sizes only: a CUDA graph may hold it
/// and replay it with other lengths and lists. The same sequence gives the same bits, whatever else is in the batch and
/// whatever the maximum.
///
/// # Errors
/// As [`forward`](super::forward()); [`Error::Value`] for more than 16 queries or for splits;
/// [`Error::Unsupported`] for `kv_lens` with lists whose rows count absolute positions.
#[expect(clippy::too_many_arguments, reason = "each is one tensor or one decision of the caller")]
pub fn decode<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
    kv_lens: Option<&Tensor<i32>>,
    q: TensorView<'_, T>,
    k: TensorView<'_, T>,
    v: TensorView<'_, T>,
    out: TensorViewMut<'_, T>,
    lse: Option<TensorViewMut<'_, f32>>,
    workspace: &mut Buffer,
) -> Result<()> {
    let mut params = request(shape, options, plan)?;
    let value =
        |what, expected: &str, got: usize| Err(Error::Value { what, expected: expected.into(), got: got.to_string() });
    if shape.q_len > 16 {
        return value("q_len", "at most 16 in decode", shape.q_len);
    }
    if options.splits != 1 {
        return value("splits", "1: decode splits by itself", options.splits);
    }
    if options.ragged.is_any() {
        let expected = "none in decode, which takes kv_lens as an argument".into();
        return Err(Error::Value { what: "ragged", expected, got: "lengths".into() });
    }
    let mut tensors = Tensors { q, k, v, out, lse };
    tensors.fill(shape, options, &mut params)?;
    kv_lens.map_or(Ok(()), |lens| check_dims("kv_lens", lens.dims(), [1, 1, 1, shape.batch]))?;
    check_workspace(workspace, decode_workspace_bytes(shape, plan))?;
    let memory = workspace.as_mut_ptr();
    let mut owners = tensors.owners(stream, options, plan)?;
    let lens = kv_lens.map_or(stream, |lens| lens.stream());
    for (what, owner) in [("workspace", workspace.stream()), ("kv_lens", lens)] {
        stream.device().check_memory(what, owner.device())?;
    }
    if tensors.out.layout().is_empty() {
        return Ok(());
    }
    owners[OWNERS - 2..].copy_from_slice(&[workspace.stream(), lens]);
    let splits = splits(shape, plan.block_size().k);
    (params.splits, params.split_keys) = (splits as i32, SPLIT_KEYS as i32);
    params.shape.kv_lens = kv_lens.map_or(std::ptr::null(), |lens| lens.view().as_ptr());
    // SAFETY: the workspace holds the partial results.
    let merge = unsafe { Partials::new(shape, splits).place(memory, &mut params) };
    ordered(stream, &owners, || {
        // SAFETY: every tensor has the sizes of the shape and memory for its layout, on this device; `out`, `lse` and
        // the workspace are borrowed exclusively, so they overlap nothing; lengths and lists are data to the kernel.
        // The merge reads what decode wrote.
        unsafe {
            stream.launch(|kernels, raw| kernels.decode(&params, raw))?;
            finish(stream, merge.as_ref())
        }
    })
}
