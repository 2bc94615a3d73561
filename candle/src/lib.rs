//! lacuna's attention as operations of candle.
//!
//! [`Attention`] is dense, windowed or block-sparse attention over candle tensors, where they lie: no copies, candle's
//! stream on a GPU, the SIMT host for tensors on the CPU (a correctness machine, not a fast one). It has a gradient.
//! The functions beside it have the names and arguments of `candle-flash-attn`, so that a program changes one import:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use lacuna_candle::{Attention, S2Config, flash_attn};
//!
//! # fn main() -> candle_core::Result<()> {
//! let q = Tensor::randn(0f32, 1.0, (1, 256, 4, 64), &Device::Cpu)?.to_dtype(DType::BF16)?; // batch, tokens, heads, head_dim
//! let (k, v) = (q.narrow(2, 0, 2)?, q.narrow(2, 2, 2)?); // two KV heads, views of the same memory
//! let dense = flash_attn(&q, &k, &v, 0.125, true)?;
//! let s2 = Attention::s2(S2Config::default()); // local blocks and strided columns
//! assert_eq!(s2.apply(&q, &k, &v)?.dims(), dense.dims());
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod attention;
mod backward;
#[cfg(feature = "simt")]
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod flash;
mod held;
mod number;
mod op;
mod problem;

pub use attention::{Attention, Plan};
pub use flash::{
    flash_attn, flash_attn_alibi_windowed_softcap, flash_attn_varlen, flash_attn_varlen_alibi_windowed_softcap,
    flash_attn_varlen_windowed, flash_attn_windowed,
};
pub use lacuna::{Mask, S2Columns, S2Config, S2Variant};
