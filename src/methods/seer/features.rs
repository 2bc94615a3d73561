//! The pooled features that a gate's weights are multiplied with, for whoever trains them.

use super::config::Pools;
use super::stages;
use crate::device::{Stream, ordered};
use crate::error::{Error, Result};
use crate::tensor::{Half, Tensor, TensorView};

/// The pools of each block of `block_size` tokens of `x [batch, heads, tokens, dim]`, before the rotary embedding:
/// `[batch, heads, blocks, pools * dim]`, joined in the order maximum, minimum, average; the last block over the tokens
/// that it has. These are the inputs of [`SeerGate`](super::SeerGate)'s weights.
///
/// # Errors
/// [`Error::Value`] for a block size other than 16, 32, 64 and 128, for no pool at all, or for a size of `x` that the
/// kernels do not serve (`dim` must be a multiple of 8, at most 256); [`Error::Device`]; [`Error::OutOfMemory`]; what
/// the launch reports.
pub fn pooled_features<T: Half>(
    stream: &Stream,
    block_size: usize,
    pools: Pools,
    x: TensorView<'_, T>,
) -> Result<Tensor<f32>> {
    let [batch, heads, len, dim] = x.dims();
    pools.check("pools")?;
    if ![16, 32, 64, 128].contains(&block_size) {
        let expected = "16, 32, 64 or 128".into();
        return Err(Error::Value { what: "block_size", expected, got: block_size.to_string() });
    }
    if dim == 0 || !dim.is_multiple_of(8) || dim > 256 || [batch, heads, len].iter().any(|&size| size > 1 << 30) {
        let expected = "sizes up to 2^30 and a dim that is a multiple of 8, at most 256".into();
        return Err(Error::Value { what: "sizes of x", expected, got: format!("{:?}", x.dims()) });
    }
    stream.device().check_memory("x", x.stream().device())?;
    let rows = len.div_ceil(block_size);
    let mut features = Tensor::uninit(stream, [batch, heads, rows, pools.count() * dim])?;
    if features.layout().is_empty() {
        return Ok(features);
    }
    let (span, to) = (stages::uniform(batch, len, block_size, 0), features.view_mut().as_mut_ptr());
    ordered(stream, &[x.stream()], || {
        // SAFETY: the features have a row for each block and are not shared yet; no array of the span is given, and no
        // state of open blocks.
        unsafe { stages::pool(stream, span, x, pools.bits(), rows, to, std::ptr::null_mut()) }
    })?;
    Ok(features)
}
