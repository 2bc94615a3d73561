//! What to attend, and how.

use crate::op::{AttentionOp, Lse, Sequences};
use candle_core::{Result, Tensor, bail};
use lacuna::{Mask, S2Config};

/// Which key blocks each query block attends, under the token mask.
#[derive(Debug, Clone, Default)]
pub enum Plan {
    /// All of them.
    #[default]
    Dense,
    /// A local window and strided columns, see [`S2Config`]. Its `causal` must be that of the mask.
    S2(S2Config),
    /// Those where a mask is not zero.
    Blocks {
        /// u8 `[1 or batch, 1 or kv_heads or q_heads, ceil(q_len / block_q), ceil(kv_len / block_k)]`, contiguous, on
        /// the device of q; rows count from the first query of each sequence.
        mask: Tensor,
        /// Queries of a block: 16, 32, 64 or 128.
        block_q: usize,
        /// Keys of a block: 16, 32, 64 or 128.
        block_k: usize,
    },
}

/// Attention as an operation of candle.
///
/// Query `t` stands at key position `t + kv_len - q_len`: the last query is aligned with the last key.
#[derive(Debug, Clone, Default)]
pub struct Attention {
    /// Which token pairs are visible at all.
    pub mask: Mask,
    /// Multiplies q · k; `None`: `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Logits become `softcap * tanh(logit / softcap)`.
    pub softcap: Option<f32>,
    /// Which blocks are attended.
    pub plan: Plan,
}

impl Attention {
    /// Dense attention under a causal mask.
    pub fn causal() -> Self {
        Self { mask: Mask::CAUSAL, ..Self::default() }
    }

    /// S2-Attention; causal where the pattern is.
    pub fn s2(config: S2Config) -> Self {
        Self { mask: config.mask(), plan: Plan::S2(config), ..Self::default() }
    }

    /// Attention of `q` `[batch, q_len, q_heads, head_dim]` over `k` and `v` `[batch, kv_len, kv_heads, head_dim]`; the
    /// result has the shape of `q`. f16 or bf16, any strides with contiguous heads (so that views of `[batch, heads,
    /// len, head_dim]` need no copy); K and V are never repeated.
    ///
    /// Differentiable in q, k and v; the plan is taken as given.
    ///
    /// # Errors
    /// Shapes, types or devices that do not fit each other, settings outside their ranges, and what the kernels report.
    pub fn apply(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.run([q, k, v], Sequences::Rectangular, tracked([q, k, v]).then(Lse::default))
    }

    /// [`Attention::apply`], with the logarithm of each row's sum: f32 `[batch, q_heads, q_len]`, natural, -inf where a
    /// row attends nothing. It merges what parts of the keys gave. No gradient flows through it.
    ///
    /// # Errors
    /// As [`Attention::apply`].
    pub fn apply_with_lse(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let lse = Lse::default();
        let out = self.run([q, k, v], Sequences::Rectangular, Some(lse.clone()))?;
        match lse.get() {
            Some(lse) => Ok((out, lse.clone())),
            None => bail!("lacuna-attention: forward left no LSE"),
        }
    }

    /// Attention of packed sequences: `q` `[total queries, q_heads, head_dim]`, `k` and `v` `[total keys, kv_heads,
    /// head_dim]`. Sequence `b` has the queries `cu_seqlens_q[b] .. cu_seqlens_q[b + 1]` and the keys `cu_seqlens_k[b]
    /// .. cu_seqlens_k[b + 1]`, u32 `[batch + 1]` on the device of `q`. No sequence is longer than `max_seqlen_q` and
    /// `max_seqlen_k`; the result has the shape of `q`, rows of no sequence are zeros. It has no gradient yet.
    ///
    /// # Errors
    /// As [`Attention::apply`], and for tensors that a gradient is asked of.
    #[expect(clippy::too_many_arguments, reason = "those of candle-flash-attn")]
    pub fn apply_varlen(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        cu_seqlens_q: &Tensor,
        cu_seqlens_k: &Tensor,
        max_seqlen_q: usize,
        max_seqlen_k: usize,
    ) -> Result<Tensor> {
        if tracked([q, k, v]) {
            bail!("packed sequences have no gradient yet: detach q, k and v, or use apply on sequences of one length");
        }
        let packed = Sequences::packed(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)?;
        self.run([q, k, v], packed, None)
    }

    fn run(&self, [q, k, v]: [&Tensor; 3], sequences: Sequences, lse: Option<Lse>) -> Result<Tensor> {
        for (name, tensor) in [("k", k), ("v", v)] {
            if tensor.dtype() != q.dtype() {
                bail!("{name} must be {:?} as q is, got {:?}", q.dtype(), tensor.dtype());
            }
            if !tensor.device().same_device(q.device()) {
                bail!(
                    "{name} must be on the device of q, {:?}, got {:?}",
                    q.device().location(),
                    tensor.device().location()
                );
            }
        }
        q.apply_op3(k, v, AttentionOp { settings: self.clone(), sequences, lse })
    }
}

/// Whether a gradient may be asked for.
fn tracked(tensors: [&Tensor; 3]) -> bool {
    tensors.iter().any(|tensor| tensor.track_op())
}
