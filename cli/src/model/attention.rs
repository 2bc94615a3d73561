//! The place in the model where attention is plugged in.

use crate::failure::Result;
use candle_core::Tensor;

/// What one layer asks attention for. All f32.
pub struct Heads<'a> {
    /// Index of the layer.
    pub layer: usize,
    /// `[q_heads, n, head_dim]`, after the rotary embedding.
    pub q: &'a Tensor,
    /// `[kv_heads, n, head_dim]`, after it as well; query head `h` reads head `h * kv_heads / q_heads`.
    pub k: &'a Tensor,
    /// `[kv_heads, n, head_dim]`.
    pub v: &'a Tensor,
    /// `q` before the rotary embedding: what learned gates read.
    pub gate_q: &'a Tensor,
    /// `k` before it.
    pub gate_k: &'a Tensor,
}

/// Causal attention over one window, scaled by `1 / sqrt(head_dim)`.
pub trait Attention {
    /// Returns `[q_heads, n, head_dim]`, f32.
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor>;
}
