//! The tensors of a call: checked against the shape, and as the kernels take them.

use super::merge::launch_merge;
use super::options::ForwardOptions;
use crate::device::{Buffer, Stream};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::plan::BlockPlan;
use crate::shape::AttentionShape;
use crate::tensor::{Half, TensorView, TensorViewMut};

/// What attention reads and writes.
pub(super) struct Tensors<'a, T: Half> {
    pub(super) q: TensorView<'a, T>,
    pub(super) k: TensorView<'a, T>,
    pub(super) v: TensorView<'a, T>,
    pub(super) out: TensorViewMut<'a, T>,
    pub(super) lse: Option<TensorViewMut<'a, f32>>,
}

/// The arguments whose memory a call uses, in the order of [`Tensors::owners`].
const NAMES: [&str; 12] =
    ["q", "k", "v", "out", "lse", "sink", "block_table", "cu_seqlens_q", "cu_seqlens_k", "kv_lens", "plan", "plan"];

/// As many streams as a call has owners of memory, the workspace and one more included.
pub(super) const OWNERS: usize = NAMES.len() + 2;

impl<'a, T: Half> Tensors<'a, T> {
    /// Checks sizes and types, and puts pointers, strides and pages into `params`.
    pub(super) fn fill(
        &mut self,
        shape: &AttentionShape,
        options: &ForwardOptions<'_>,
        params: &mut abi::lacuna_forward_params,
    ) -> Result<()> {
        let Self { q, k, v, out, lse } = self;
        if T::DTYPE != shape.dtype {
            return Err(Error::Value { what: "dtype", expected: T::DTYPE.to_string(), got: shape.dtype.to_string() });
        }
        let (sequences, q_rows) = match options.ragged.cu_seqlens_q {
            Some(_) => (1, packed_rows("q", q.dims())?),
            None => (shape.batch, shape.q_len),
        };
        let q_dims = [sequences, shape.q_heads, q_rows, shape.head_dim];
        let (batches, kv_rows) = match (&options.paged, options.ragged.cu_seqlens_k) {
            (Some(paged), _) => (k.dims()[0], paged.page_size),
            (None, Some(_)) => (1, packed_rows("k", k.dims())?),
            (None, None) => (shape.batch, shape.kv_len),
        };
        let kv_dims = [batches, shape.kv_heads, kv_rows, shape.head_dim];
        check_dims("q", q.dims(), q_dims)?;
        check_dims("k", k.dims(), kv_dims)?;
        check_dims("v", v.dims(), kv_dims)?;
        check_dims("out", out.dims(), q_dims)?;
        if let Some(lse) = lse {
            check_dims("lse", lse.dims(), [sequences, shape.q_heads, q_rows, 1])?;
        }
        if options.ragged.cu_seqlens_q.is_some() {
            params.shape.q_rows = q_rows as i32;
        }
        if options.ragged.cu_seqlens_k.is_some() {
            params.shape.k_rows = kv_rows as i32;
        }
        if let Some(paged) = &options.paged {
            // Repeated pages may be more than 32 bits count.
            if batches > 1 << 30 {
                return Err(Error::Value { what: "pages", expected: "at most 2^30".into(), got: batches.to_string() });
            }
            paged.fill(&mut params.shape, batches);
        }
        (params.q, params.q_stride) = (q.as_ptr().cast(), convert::strides(&q.layout()));
        (params.k, params.k_stride) = (k.as_ptr().cast(), convert::strides(&k.layout()));
        (params.v, params.v_stride) = (v.as_ptr().cast(), convert::strides(&v.layout()));
        (params.out, params.out_stride) = (out.as_mut_ptr().cast(), convert::strides(&out.layout()));
        if let Some(lse) = lse {
            (params.lse, params.lse_stride) = (lse.as_mut_ptr(), convert::strides(&lse.layout()));
        }
        params.sink = options.sink.map_or(std::ptr::null(), |sink| sink.view().as_ptr());
        Ok(())
    }

    /// The streams that the memory of tensors, options and plan belongs to, all of them on the stream's device; at the
    /// end room for two more.
    pub(super) fn owners<'s>(
        &'s self,
        stream: &'s Stream,
        options: &'s ForwardOptions<'_>,
        plan: &'s BlockPlan,
    ) -> Result<[&'s Stream; OWNERS]> {
        let [offsets, indices] = plan.owners(stream);
        let [q_starts, k_starts, kv_lens] =
            options.ragged.vectors().map(|(_, vector)| vector.map_or(stream, |vector| vector.stream()));
        let owners = [
            self.q.stream(),
            self.k.stream(),
            self.v.stream(),
            self.out.stream(),
            self.lse.as_ref().map_or(stream, |lse| lse.stream()),
            options.sink.map_or(stream, |sink| sink.stream()),
            options.paged.as_ref().map_or(stream, |paged| paged.block_table.stream()),
            q_starts,
            k_starts,
            kv_lens,
            offsets,
            indices,
            stream,
            stream,
        ];
        for (what, owner) in NAMES.into_iter().zip(owners) {
            stream.device().check_memory(what, owner.device())?;
        }
        Ok(owners)
    }
}

/// Room for the partial results of splits at the start of a workspace.
#[derive(Clone, Copy)]
pub(super) struct Partials {
    rows: usize,
    head_dim: usize,
}

impl Partials {
    /// None are needed without splits. Sizes beyond `usize` saturate, and no allocation of them succeeds.
    pub(super) fn new(shape: &AttentionShape, splits: usize) -> Self {
        let sizes = [shape.batch, shape.q_heads, shape.q_len];
        let rows = if splits <= 1 { 0 } else { sizes.iter().fold(splits, |n, &size| n.saturating_mul(size)) };
        Self { rows, head_dim: shape.head_dim }
    }

    /// A multiple of 16.
    pub(super) fn bytes(self) -> usize {
        let bytes = self.rows.saturating_mul(self.head_dim.saturating_add(1)).saturating_mul(4);
        bytes.checked_next_multiple_of(16).unwrap_or(usize::MAX)
    }

    /// Hands the room to a call with splits; the merge that must follow it.
    ///
    /// # Safety
    /// `memory` has [`bytes`](Self::bytes).
    pub(super) unsafe fn place(
        self,
        memory: *mut u8,
        params: &mut abi::lacuna_forward_params,
    ) -> Option<abi::lacuna_merge_params> {
        if params.splits <= 1 {
            return None;
        }
        params.partial_out = memory.cast();
        // SAFETY: the room holds head_dim floats for each row before the first LSE.
        params.partial_lse = unsafe { params.partial_out.add(self.rows * self.head_dim) };
        Some(abi::lacuna_merge_params {
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
        })
    }
}

/// # Safety
/// As [`raw::merge`](super::raw::merge).
pub(super) unsafe fn finish(stream: &Stream, merge: Option<&abi::lacuna_merge_params>) -> Result<()> {
    // SAFETY: passed on to the caller.
    merge.map_or(Ok(()), |merge| unsafe { launch_merge(stream, merge) })
}

pub(super) fn check_workspace(workspace: &Buffer, needed: usize) -> Result<()> {
    if workspace.len() >= needed {
        return Ok(());
    }
    let expected = format!("at least {needed} bytes");
    Err(Error::Shape { what: "workspace", expected, got: workspace.len().to_string() })
}

/// Rows of packed sequences, which the kernels count in 31 bits.
fn packed_rows(what: &'static str, dims: [usize; 4]) -> Result<usize> {
    let rows = dims[2];
    if rows <= 1 << 30 {
        return Ok(rows);
    }
    Err(Error::Shape { what, expected: "at most 2^30 rows".into(), got: rows.to_string() })
}

pub(super) fn check_dims(what: &'static str, got: [usize; 4], expected: [usize; 4]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{expected:?}"), got: format!("{got:?}") })
}
