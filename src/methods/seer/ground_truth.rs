//! What a gate is trained to predict: the largest attention probability in each block of queries and keys.
//!
//! Source: SeerAttention (arXiv 2410.13276), whose kernel keeps each row's maxima over all key blocks,
//! `[heads, seq, blocks]` values, until the rows' denominators are known. Here attention runs first for its LSE alone,
//! and a second pass over Q K^T takes the maxima: only the map itself is stored, for sequences of any length.

use crate::attention::{self, ForwardOptions};
use crate::device::{Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::plan::BlockPlan;
use crate::schedule::Schedule;
use crate::shape::{AttentionShape, Mask};
use crate::tensor::{Half, Tensor, TensorView};

/// What the cells of a map are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockMaxOptions {
    /// Which token pairs are visible; a cell without any is 0.
    pub mask: Mask,
    /// Multiplies q · k; `None`: `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Query rows of a cell: 16, 32, 64 or 128, or 1 for a map with a row for each query.
    pub block_q: usize,
    /// Keys of a cell: 16, 32, 64 or 128.
    pub block_k: usize,
    /// Whether a cell is the maximum over the query heads that share a KV head.
    pub share_heads: bool,
    /// Whether query blocks count absolute positions, as the rows of a gate do, and not from the call's first query.
    pub absolute: bool,
}

impl BlockMaxOptions {
    /// The target of a prefill gate: square blocks of absolute positions, a map for each query head, causal.
    pub fn prefill(block_size: usize) -> Self {
        let (block_q, block_k) = (block_size, block_size);
        Self { mask: Mask::CAUSAL, scale: None, block_q, block_k, share_heads: false, absolute: true }
    }

    /// The target of a decode gate (SeerAttention-R): a row for each query, one map for the heads of a group, causal.
    /// The loss leaves out the block that holds the query itself.
    pub fn decode(block_size: usize) -> Self {
        Self { block_q: 1, share_heads: true, ..Self::prefill(block_size) }
    }

    /// Sizes of the map: `[batch, q_heads or kv_heads, query blocks, KV blocks]`.
    ///
    /// # Errors
    /// [`Error::Value`] names the setting that is out of range or does not fit the shape.
    pub fn dims(&self, shape: &AttentionShape) -> Result<[usize; 4]> {
        let shift = self.row_shift(shape)?;
        let heads = if self.share_heads { shape.kv_heads } else { shape.q_heads };
        let q_blocks = if shape.q_len == 0 { 0 } else { (shape.q_len + shift).div_ceil(self.block_q) };
        Ok([shape.batch, heads, q_blocks, shape.kv_len.div_ceil(self.block_k)])
    }

    /// Query rows of block 0 that lie before the first query. Checks everything on the way.
    fn row_shift(&self, shape: &AttentionShape) -> Result<usize> {
        shape.validate()?;
        self.mask.validate(shape)?;
        let value = |what, expected: &str, got: String| Err(Error::Value { what, expected: expected.into(), got });
        if ![1, 16, 32, 64, 128].contains(&self.block_q) {
            return value("block_q", "1, 16, 32, 64 or 128", self.block_q.to_string());
        }
        if ![16, 32, 64, 128].contains(&self.block_k) {
            return value("block_k", "16, 32, 64 or 128", self.block_k.to_string());
        }
        if let Some(scale) = self.scale.filter(|scale| !scale.is_finite()) {
            return value("scale", "finite", scale.to_string());
        }
        if !self.absolute {
            return Ok(0);
        }
        match shape.kv_len.checked_sub(shape.q_len) {
            Some(past) => Ok(past % self.block_q),
            None => value("q_len", "at most kv_len when blocks count absolute positions", shape.q_len.to_string()),
        }
    }

    /// As options of attention over the same pairs.
    fn forward(&self) -> ForwardOptions<'static> {
        ForwardOptions { mask: self.mask, scale: self.scale, ..ForwardOptions::default() }
    }
}

/// Writes the largest probability `exp(scale * q · k - lse)` of each cell to `map`, which is packed and has
/// [`BlockMaxOptions::dims`]. `q` is `[batch, q_heads, q_len, head_dim]`, `k` `[batch, kv_heads, kv_len, head_dim]`,
/// `lse` `[batch, q_heads, q_len, 1]`, what [`attention::forward`] returns for the same mask and scale; any strides.
///
/// Rows whose LSE is -inf count as 0. A NaN reaches the cells whose visible pairs see it. Never allocates, waits or
/// copies to the host; the same inputs give the same bits.
///
/// # Errors
/// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit;
/// [`Error::Unsupported`] for a head dim without a kernel; [`Error::Cuda`] or [`Error::Simt`] when the launch fails.
pub fn block_max<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    options: &BlockMaxOptions,
    q: TensorView<'_, T>,
    k: TensorView<'_, T>,
    lse: TensorView<'_, f32>,
    map: &mut Tensor<f32>,
) -> Result<()> {
    let dims = options.dims(shape)?;
    check_dtype::<T>(shape)?;
    check_dims("q", q.dims(), [shape.batch, shape.q_heads, shape.q_len, shape.head_dim])?;
    check_dims("k", k.dims(), [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim])?;
    check_dims("lse", lse.dims(), [shape.batch, shape.q_heads, shape.q_len, 1])?;
    check_dims("map", map.dims(), dims)?;
    if !map.layout().is_contiguous() {
        let got = format!("strides {:?}", map.layout().strides());
        return Err(Error::Shape { what: "map", expected: "packed".into(), got });
    }
    for (what, owner) in [("q", q.stream()), ("k", k.stream()), ("lse", lse.stream()), ("map", map.stream())] {
        stream.device().check_memory(what, owner.device())?;
    }
    if dims.contains(&0) {
        return Ok(());
    }
    let params = abi::lacuna_block_max_params {
        shape: convert::shape(shape),
        mask: convert::mask(&options.mask, shape),
        block_q: options.block_q as i32,
        block_k: options.block_k as i32,
        heads: dims[1] as i32,
        row_shift: options.row_shift(shape)? as i32,
        q: q.as_ptr().cast(),
        k: k.as_ptr().cast(),
        lse: lse.as_ptr(),
        q_stride: convert::strides(&q.layout()),
        k_stride: convert::strides(&k.layout()),
        lse_stride: convert::strides(&lse.layout()),
        scale: options.forward().scale_for(shape),
        map: map.view_mut().as_mut_ptr(),
        ..Default::default()
    };
    ordered(stream, &[q.stream(), k.stream(), lse.stream(), map.stream()], || {
        // SAFETY: every tensor has the sizes of the shape and memory for its layout, on this device; the map is packed
        // and borrowed exclusively.
        stream.launch(|kernels, raw| unsafe { kernels.block_max(&params, raw) })
    })
}

/// Both passes: attention of `q` over `k` for its LSE, and the map. Allocates the map, the LSE and an output that is
/// thrown away, `[batch, q_heads, q_len, head_dim]`.
///
/// Long sequences go in chunks of queries, causal ones against the keys up to their end: a map for each query
/// ([`BlockMaxOptions::decode`]) is then never whole in memory.
///
/// # Errors
/// As [`block_max`] and [`attention::forward`], and [`Error::OutOfMemory`].
pub fn block_max_map<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    options: &BlockMaxOptions,
    q: TensorView<'_, T>,
    k: TensorView<'_, T>,
) -> Result<Tensor<f32>> {
    let mut map = Tensor::uninit(stream, options.dims(shape)?)?;
    check_dtype::<T>(shape)?;
    let (forward, plan) = (options.forward(), BlockPlan::dense());
    let schedule = Schedule::build(stream, shape, &forward, &plan)?;
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, &forward))?;
    let mut out = Tensor::<T>::uninit(stream, q.dims())?;
    let mut lse = Tensor::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1])?;
    let (written, rows) = (out.view_mut(), Some(lse.view_mut()));
    attention::forward(stream, shape, &forward, &plan, &schedule, q, k, k, written, rows, &mut workspace)?;
    block_max(stream, shape, options, q, k, lse.view(), &mut map)?;
    Ok(map)
}

fn check_dtype<T: Half>(shape: &AttentionShape) -> Result<()> {
    if T::DTYPE == shape.dtype {
        return Ok(());
    }
    Err(Error::Value { what: "dtype", expected: T::DTYPE.to_string(), got: shape.dtype.to_string() })
}

fn check_dims(what: &'static str, got: [usize; 4], expected: [usize; 4]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{expected:?}"), got: format!("{got:?}") })
}
