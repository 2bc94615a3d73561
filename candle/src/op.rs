//! The operation that candle calls.

use crate::attention::Attention;
use crate::backward;
use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use std::sync::{Arc, OnceLock};

/// How the tensors hold sequences.
#[derive(Debug, Clone)]
pub(crate) enum Sequences {
    /// `[batch, len, heads, head_dim]`
    Rectangular,
    /// `[rows, heads, head_dim]`
    Packed {
        /// `[batch + 1]`, u32
        q_starts: Tensor,
        k_starts: Tensor,
        longest: (usize, usize),
    },
}

impl Sequences {
    pub(crate) fn packed(q: &Tensor, k: &Tensor, longest_q: usize, longest_k: usize) -> Result<Self> {
        for (name, starts) in [("cu_seqlens_q", q), ("cu_seqlens_k", k)] {
            if starts.dtype() != DType::U32 || starts.rank() != 1 || starts.dim(0)? == 0 || !starts.is_contiguous() {
                bail!("{name} must be contiguous u32 [batch + 1], got {:?} {:?}", starts.dtype(), starts.dims());
            }
        }
        if q.dim(0)? != k.dim(0)? {
            bail!("cu_seqlens_q and cu_seqlens_k must have one length, got {} and {}", q.dim(0)?, k.dim(0)?);
        }
        Ok(Self::Packed { q_starts: q.clone(), k_starts: k.clone(), longest: (longest_q, longest_k) })
    }
}

/// Where forward leaves the LSE, f32 `[batch, heads, len]` (`[1, heads, rows]` where sequences are packed).
pub(crate) type Lse = Arc<OnceLock<Tensor>>;

/// Attention with everything but q, k and v.
pub(crate) struct AttentionOp {
    pub(crate) settings: Attention,
    pub(crate) sequences: Sequences,
    /// `None`: nobody asks for it.
    pub(crate) lse: Option<Lse>,
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "lacuna-attention"
    }

    #[cfg(feature = "simt")]
    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        crate::cpu::forward(self, [(q, q_layout), (k, k_layout), (v, v_layout)])
    }

    #[cfg(not(feature = "simt"))]
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("tensors on the CPU need the feature `simt` of lacuna-candle")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        k: &CudaStorage,
        k_layout: &Layout,
        v: &CudaStorage,
        v_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        crate::cuda::forward(self, [(q, q_layout), (k, k_layout), (v, v_layout)])
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        bail!("tensors on a GPU need the feature `cuda` of lacuna-candle")
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dq, dk, dv] = backward::gradients(self, [q, k, v, out, dout])?;
        Ok((Some(dq), Some(dk), Some(dv)))
    }
}
