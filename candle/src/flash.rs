//! The functions of `candle-flash-attn`, by their names and arguments.

use crate::attention::{Attention, Plan};
use candle_core::{Result, Tensor, bail};
use lacuna::Mask;

fn settings(
    alibi_slopes: Option<&Tensor>,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: Option<f32>,
) -> Result<Attention> {
    if alibi_slopes.is_some() {
        bail!("lacuna has no ALiBi; alibi_slopes must be None");
    }
    // As in FlashAttention: a right window of 0 is a causal mask, and of a left window without a right one all later
    // keys stay visible.
    let causal = window_size_right == Some(0);
    let mask = Mask { causal, window_left: window_size_left, window_right: window_size_right.filter(|_| !causal) };
    Ok(Attention { mask, scale: Some(softmax_scale), softcap: softcap.filter(|&cap| cap != 0.0), plan: Plan::Dense })
}

fn causal_window(causal: bool) -> Option<usize> {
    causal.then_some(0)
}

/// `softmax(scale * q k^T) v`; `q` `[batch, q_len, q_heads, head_dim]`, `k` and `v` `[batch, kv_len, kv_heads,
/// head_dim]`.
///
/// # Errors
/// As [`Attention::apply`].
pub fn flash_attn(q: &Tensor, k: &Tensor, v: &Tensor, softmax_scale: f32, causal: bool) -> Result<Tensor> {
    settings(None, softmax_scale, None, causal_window(causal), None)?.apply(q, k, v)
}

/// [`flash_attn`] where a query sees `window_size_left` keys before its position and `window_size_right` behind it.
///
/// # Errors
/// As [`Attention::apply`].
pub fn flash_attn_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    settings(None, softmax_scale, window_size_left, window_size_right, None)?.apply(q, k, v)
}

/// [`flash_attn_windowed`] with capped logits; `alibi_slopes` must be `None`.
///
/// # Errors
/// As [`Attention::apply`], and for slopes.
#[expect(clippy::too_many_arguments, reason = "those of candle-flash-attn")]
pub fn flash_attn_alibi_windowed_softcap(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: f32,
) -> Result<Tensor> {
    settings(alibi_slopes, softmax_scale, window_size_left, window_size_right, Some(softcap))?.apply(q, k, v)
}

/// [`flash_attn`] of packed sequences, see [`Attention::apply_varlen`].
///
/// # Errors
/// As [`Attention::apply`].
#[expect(clippy::too_many_arguments, reason = "those of candle-flash-attn")]
pub fn flash_attn_varlen(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
) -> Result<Tensor> {
    let attention = settings(None, softmax_scale, None, causal_window(causal), None)?;
    attention.apply_varlen(q, k, v, seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k)
}

/// [`flash_attn_windowed`] of packed sequences.
///
/// # Errors
/// As [`Attention::apply`].
#[expect(clippy::too_many_arguments, reason = "those of candle-flash-attn")]
pub fn flash_attn_varlen_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    let attention = settings(None, softmax_scale, window_size_left, window_size_right, None)?;
    attention.apply_varlen(q, k, v, seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k)
}

/// [`flash_attn_alibi_windowed_softcap`] of packed sequences; `alibi_slopes` must be `None`.
///
/// # Errors
/// As [`Attention::apply`], and for slopes.
#[expect(clippy::too_many_arguments, reason = "those of candle-flash-attn")]
pub fn flash_attn_varlen_alibi_windowed_softcap(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: f32,
) -> Result<Tensor> {
    let attention = settings(alibi_slopes, softmax_scale, window_size_left, window_size_right, Some(softcap))?;
    attention.apply_varlen(q, k, v, seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k)
}
