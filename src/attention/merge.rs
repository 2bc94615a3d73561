//! The merge of partial results over disjoint keys.

use super::tensors::check_dims;
use crate::device::{Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::tensor::{Half, TensorView, TensorViewMut};

/// Merges partial results over disjoint sets of keys, in f32 and in the order of the splits:
/// `lse = ln(sum_s exp(lse_s))`, `out = sum_s exp(lse_s - lse) * out_s`. Rows whose partial LSEs are all -inf give 0
/// and -inf.
///
/// The partial results are packed, with the splits stacked along the batch: `partial_out`
/// `[splits * batch, heads, len, dim]`, `partial_lse` `[splits * batch, heads, len, 1]`; `out` is
/// `[batch, heads, len, dim]`, `lse` `[batch, heads, len, 1]`.
///
/// # Errors
/// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit; else as
/// [`forward`](super::forward()).
pub fn merge<T: Half>(
    stream: &Stream,
    splits: usize,
    partial_out: TensorView<'_, f32>,
    partial_lse: TensorView<'_, f32>,
    mut out: TensorViewMut<'_, T>,
    mut lse: Option<TensorViewMut<'_, f32>>,
) -> Result<()> {
    if !(1..=abi::LACUNA_MAX_SPLITS as usize).contains(&splits) {
        let expected = format!("in 1..={}", abi::LACUNA_MAX_SPLITS);
        return Err(Error::Value { what: "splits", expected, got: splits.to_string() });
    }
    let [batch, heads, len, dim] = out.dims();
    // A view's memory holds fewer than 2^62 elements, but repeated or empty axes may be longer than 32 bits count.
    if [batch, heads, len, dim].iter().any(|&size| size > 1 << 30) {
        let got = format!("{:?}", out.dims());
        return Err(Error::Value { what: "sizes of out", expected: "at most 2^30".into(), got });
    }
    check_dims("partial_out", partial_out.dims(), [splits * batch, heads, len, dim])?;
    check_dims("partial_lse", partial_lse.dims(), [splits * batch, heads, len, 1])?;
    if let Some(lse) = &lse {
        check_dims("lse", lse.dims(), [batch, heads, len, 1])?;
    }
    for (what, layout) in [("partial_out", partial_out.layout()), ("partial_lse", partial_lse.layout())] {
        if !layout.is_contiguous() {
            return Err(Error::Shape { what, expected: "packed".into(), got: format!("{:?}", layout.strides()) });
        }
    }
    let owners =
        [partial_out.stream(), partial_lse.stream(), out.stream(), lse.as_ref().map_or(stream, |lse| lse.stream())];
    for (what, owner) in ["partial_out", "partial_lse", "out", "lse"].into_iter().zip(owners) {
        stream.device().check_memory(what, owner.device())?;
    }
    if out.layout().is_empty() {
        return Ok(());
    }
    let mut params = abi::lacuna_merge_params {
        splits: splits as i32,
        batch: batch as i32,
        heads: heads as i32,
        len: len as i32,
        head_dim: dim as i32,
        out_dtype: convert::dtype(T::DTYPE),
        partial_out: partial_out.as_ptr(),
        partial_lse: partial_lse.as_ptr(),
        out: out.as_mut_ptr().cast(),
        out_stride: convert::strides(&out.layout()),
        ..Default::default()
    };
    if let Some(lse) = &mut lse {
        (params.lse, params.lse_stride) = (lse.as_mut_ptr(), convert::strides(&lse.layout()));
    }
    // SAFETY: the sizes were compared above, and views hold memory for their layouts on this device.
    ordered(stream, &owners, || unsafe { launch_merge(stream, &params) })
}

/// # Safety
/// As [`raw::merge`](super::raw::merge).
pub(super) unsafe fn launch_merge(stream: &Stream, params: &abi::lacuna_merge_params) -> Result<()> {
    // SAFETY: passed on to the caller.
    stream.launch(|kernels, raw| unsafe { kernels.merge(params, raw) })
}
