//! Gradients, on whichever machine the tensors are.

use crate::number::Number;
use crate::op::AttentionOp;
use candle_core::{DType, Device, Result, Tensor, bail};
use lacuna::{bf16, f16};

/// dq, dk and dv from q, k, v, out and dout.
pub(crate) fn gradients(op: &AttentionOp, [q, k, v, out, dout]: [&Tensor; 5]) -> Result<[Tensor; 3]> {
    let Some(lse) = op.lse.as_ref().and_then(|lse| lse.get()) else {
        bail!("lacuna-attention: forward left no LSE for the gradient");
    };
    // Gradients of sums come as one repeated number.
    let dout = if dout.stride().last() == Some(&1) { dout.clone() } else { dout.contiguous()? };
    let tensors = [q, k, v, out, &dout];
    match q.dtype() {
        DType::F16 => typed::<f16>(op, tensors, lse),
        DType::BF16 => typed::<bf16>(op, tensors, lse),
        dtype => bail!("q, k and v must be f16 or bf16, got {dtype:?}"),
    }
}

fn typed<T: Number>(op: &AttentionOp, tensors: [&Tensor; 5], lse: &Tensor) -> Result<[Tensor; 3]> {
    match tensors[0].device() {
        #[cfg(feature = "simt")]
        Device::Cpu => crate::cpu::backward::<T>(op, tensors, lse),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::backward::<T>(op, device, tensors, lse),
        device => bail!("lacuna-candle was built without what {:?} needs", device.location()),
    }
}
