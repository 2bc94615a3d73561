//! The three kernels of a gate: pooled features, gate vectors, lists.

use super::rope::RopeTables;
use crate::device::Stream;
use crate::error::Result;
use crate::kernels::{bindings as abi, convert};
use crate::tensor::{Half, Tensor, TensorView};

/// Pools blocks of `x` to `features [batch, heads, rows, pools * dim]`.
///
/// # Safety
/// `features` has that size, `span` its arrays, `open` (unless null) `[batch, heads, 3, dim]`; all on the stream's
/// device, and nobody else uses what is written.
pub(super) unsafe fn pool<T: Half>(
    stream: &Stream,
    span: abi::lacuna_gate_span,
    x: TensorView<'_, T>,
    pools: i32,
    rows: usize,
    features: *mut f32,
    open: *mut f32,
) -> Result<()> {
    let [_, heads, _, dim] = x.dims();
    let params = abi::lacuna_gate_pool_params {
        span,
        heads: heads as i32,
        dim: dim as i32,
        dtype: convert::dtype(T::DTYPE),
        pools,
        rows: rows as i32,
        x: x.as_ptr().cast(),
        x_stride: convert::strides(&x.layout()),
        features,
        open,
        ..Default::default()
    };
    // SAFETY: passed on to the caller; the view has memory for its layout.
    stream.launch(|kernels, raw| unsafe { kernels.gate_pool(&params, raw) })
}

/// One side of a gate: how features become gate vectors.
pub(super) struct Projection<'a, T: Half> {
    /// Heads of the features.
    pub(super) in_heads: usize,
    /// Elements of a feature row.
    pub(super) width: usize,
    /// Heads of the gate vectors.
    pub(super) heads: usize,
    /// Whether the features of a group are joined.
    pub(super) join: bool,
    /// Elements of a gate vector.
    pub(super) gate_dim: usize,
    /// `[1, heads, inputs, gate_dim]`; `None`: the features as they are.
    pub(super) weight: Option<&'a Tensor<T>>,
    /// `[1, 1, 1, gate_dim]`
    pub(super) norm: Option<&'a Tensor<f32>>,
    pub(super) norm_eps: f32,
    pub(super) rope: Option<&'a RopeTables>,
    /// Tokens between rows of the rotation's table.
    pub(super) rope_block: usize,
    pub(super) rotate_last: bool,
}

impl<T: Half> Projection<'_, T> {
    /// The streams that weight, norm and rotation belong to; `stream` where there is none.
    pub(super) fn owners<'s>(&'s self, stream: &'s Stream) -> [&'s Stream; 3] {
        let of = |tensor: Option<&'s Tensor<f32>>| tensor.map_or(stream, |tensor| tensor.stream());
        let weight = self.weight.map_or(stream, |weight| weight.stream());
        [weight, of(self.norm), of(self.rope.map(|rope| &rope.starts))]
    }

    /// Projects `features [batch, in_heads, rows, width]` to `out [batch, heads, out_rows, gate_dim]`.
    ///
    /// # Safety
    /// Both have these sizes; otherwise as [`pool`].
    pub(super) unsafe fn run(
        &self,
        stream: &Stream,
        span: abi::lacuna_gate_span,
        rows: usize,
        features: *const f32,
        (out, out_rows, absolute): (*mut f32, usize, bool),
    ) -> Result<()> {
        let pointer = |tensor: Option<&Tensor<f32>>| tensor.map_or(std::ptr::null(), |tensor| tensor.view().as_ptr());
        let params = abi::lacuna_gate_project_params {
            span,
            in_heads: self.in_heads as i32,
            heads: self.heads as i32,
            join: i32::from(self.join),
            rows: rows as i32,
            width: self.width as i32,
            gate_dim: self.gate_dim as i32,
            dtype: convert::dtype(T::DTYPE),
            rope_rows: self.rope.map_or(0, |rope| rope.starts.dims()[2] as i32),
            features,
            weight: self.weight.map_or(std::ptr::null(), |weight| weight.view().as_ptr().cast()),
            norm: pointer(self.norm),
            rope: pointer(self.rope.map(|rope| &rope.starts)),
            rope_offset: pointer(self.rope.map(|rope| &rope.offsets)),
            rope_block: self.rope_block as i32,
            rotate_last: i32::from(self.rotate_last),
            norm_eps: self.norm_eps,
            absolute: i32::from(absolute),
            out_rows: out_rows as i32,
            out,
            ..Default::default()
        };
        // SAFETY: passed on to the caller; weights and tables have the sizes that the gate was made with.
        stream.launch(|kernels, raw| unsafe { kernels.gate_project(&params, raw) })
    }
}

/// The span of a call whose sequences all have `len` tokens from position `start` on.
pub(super) fn uniform(batch: usize, len: usize, block: usize, start: usize) -> abi::lacuna_gate_span {
    abi::lacuna_gate_span {
        batch: batch as i32,
        len: len as i32,
        block: block as i32,
        start: start as i32,
        ..Default::default()
    }
}

/// Blocks that `len` tokens from position `start` on touch.
pub(super) fn touched(start: usize, len: usize, block: usize) -> usize {
    if len == 0 { 0 } else { (start % block + len).div_ceil(block) }
}
