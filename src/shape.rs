//! The sizes of an attention problem and which token pairs its mask lets through.

use crate::error::{Error, Result};

/// Element type of q, k, v and out. Accumulation and LSE are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

/// Sizes of one attention call over a rectangular batch.
///
/// Query head `h` reads KV head `h * kv_heads / q_heads`; K and V are never repeated. Query `t` of a sequence sits at
/// key position `t + kv_len - q_len`, so that the last query is aligned with the last key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Queries in a sequence.
    pub q_len: usize,
    /// Keys in a sequence.
    pub kv_len: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Element type of q, k, v and out.
    pub dtype: DType,
}

impl AttentionShape {
    /// Checks what every call needs: sizes that fit the kernels' 32-bit counts and whole groups of query heads.
    ///
    /// # Errors
    /// [`Error::Value`] names the size that breaks its range. Lengths may be zero; heads and `head_dim` may not.
    pub fn validate(&self) -> Result<()> {
        let range = |what, value: usize, low: usize| {
            if value < low || value > (1 << 30) {
                return Err(Error::Value { what, expected: format!("in {low}..=2^30"), got: value.to_string() });
            }
            Ok(())
        };
        range("batch", self.batch, 0)?;
        range("q_heads", self.q_heads, 1)?;
        range("kv_heads", self.kv_heads, 1)?;
        range("q_len", self.q_len, 0)?;
        range("kv_len", self.kv_len, 0)?;
        range("head_dim", self.head_dim, 1)?;
        if !self.q_heads.is_multiple_of(self.kv_heads) {
            return Err(Error::Value {
                what: "q_heads",
                expected: format!("a multiple of kv_heads ({})", self.kv_heads),
                got: self.q_heads.to_string(),
            });
        }
        Ok(())
    }

    /// Query heads that share one KV head.
    pub fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }
}

/// Token-exact mask: which keys a query may see, before any plan.
///
/// With `p = t + kv_len - q_len` the position of query `t`: `causal` keeps keys `<= p`, `window_left` keeps keys
/// `>= p - window_left`, `window_right` keeps keys `<= p + window_right` (both ends included, as in FlashAttention).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mask {
    /// No key after the query's position. Needs `q_len <= kv_len`.
    pub causal: bool,
    /// Keys before the query's position that stay visible; `None`: all.
    pub window_left: Option<usize>,
    /// Keys after the query's position that stay visible; `None`: all.
    pub window_right: Option<usize>,
}

impl Mask {
    /// No key after the query.
    pub const CAUSAL: Self = Self { causal: true, window_left: None, window_right: None };
    /// Every key.
    pub const FULL: Self = Self { causal: false, window_left: None, window_right: None };

    /// Checks the mask against a shape.
    ///
    /// # Errors
    /// [`Error::Value`] when `causal` meets `q_len > kv_len`.
    pub fn validate(&self, shape: &AttentionShape) -> Result<()> {
        if self.causal && shape.q_len > shape.kv_len {
            return Err(Error::Value {
                what: "q_len",
                expected: format!("at most kv_len ({}) when causal", shape.kv_len),
                got: shape.q_len.to_string(),
            });
        }
        Ok(())
    }

    /// The half-open range of keys that query `t` may see.
    pub fn visible(&self, shape: &AttentionShape, t: usize) -> std::ops::Range<usize> {
        // Wider windows than any sequence are all the same.
        let reach = |window: usize| window.min(1 << 32) as i64;
        let position = t as i64 + shape.kv_len as i64 - shape.q_len as i64;
        let mut low = 0;
        let mut high = shape.kv_len as i64;
        if let Some(left) = self.window_left {
            low = low.max(position - reach(left));
        }
        if let Some(right) = self.window_right {
            high = high.min(position + reach(right) + 1);
        }
        if self.causal {
            high = high.min(position + 1);
        }
        let low = low.clamp(0, shape.kv_len as i64);
        low as usize..high.clamp(low, shape.kv_len as i64) as usize
    }
}
