//! SeerAttention's gate for prefill: weights on the host, and the plan that the gate makes on a device.

mod decode;
mod exact;
mod file;
mod names;
mod shares;

pub use decode::DecodeGates;
pub use exact::{Lists, frequencies, largest, reference_pools, reference_rule};
pub use file::{Gates, threshold_note};
pub use shares::{Shares, softmax};

use crate::failure::Result;
use lacuna::methods::seer::{GateConfig, GateWeights, SeerGate, SelectOptions};
use lacuna::{AttentionShape, BlockPlan, Half, Mask, Stream, Tensor};

/// Densities at which gates are compared, and for which thresholds are trained.
pub const DENSITIES: [f64; 4] = [0.5, 0.3, 0.2, 0.1];

/// A matrix for each head.
pub struct Weight<T> {
    /// Heads, inputs, gate dim.
    pub dims: [usize; 3],
    /// Its elements.
    pub data: Vec<T>,
}

impl<T: Half> Weight<T> {
    /// The weight on a device, as the gates take it.
    pub fn upload(&self, stream: &Stream) -> Result<Tensor<T>> {
        let [heads, inputs, gate_dim] = self.dims;
        Ok(Tensor::from_slice(stream, &self.data, [1, heads, inputs, gate_dim])?)
    }
}

/// What a gate reads of q and k, before the rotary embedding, packed.
pub struct GateInputs<'a, T> {
    /// `[batch, q_heads, q_len, head_dim]`
    pub q: &'a [T],
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub k: &'a [T],
}

/// Kernels of a gate and of its selection.
pub const KERNELS: [&str; 3] = ["gate_pool", "gate_project", "gate_select"];

/// The weights of a gate.
pub struct GateMatrices<T> {
    /// `[q_heads or kv_heads, inputs, gate_dim]`
    pub w_k: Weight<T>,
    /// `[q_heads, inputs, gate_dim]`
    pub w_q: Option<Weight<T>>,
}

/// The blocks that a gate picks, in lists with room for all that it can pick.
pub fn plan<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    mask: &Mask,
    config: GateConfig,
    matrices: &GateMatrices<T>,
    inputs: &GateInputs<'_, T>,
    options: &SelectOptions,
) -> Result<BlockPlan> {
    let (gate, [q, k]) = upload(stream, shape, config, matrices, inputs)?;
    Ok(gate.plan(stream, shape, mask, q.view(), k.view(), options)?)
}

/// The logits of a gate, `[batch, q_heads, query blocks, key blocks]`.
pub fn logits<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    mask: &Mask,
    config: GateConfig,
    matrices: &GateMatrices<T>,
    inputs: &GateInputs<'_, T>,
) -> Result<Tensor<f32>> {
    let (gate, [q, k]) = upload(stream, shape, config, matrices, inputs)?;
    Ok(gate.logits(stream, shape, mask, q.view(), k.view())?)
}

/// The gate on a device, and what it reads.
fn upload<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    config: GateConfig,
    matrices: &GateMatrices<T>,
    inputs: &GateInputs<'_, T>,
) -> Result<(SeerGate<T>, [Tensor<T>; 2])> {
    let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
    let w_q = matrices.w_q.as_ref().map(|w_q| w_q.upload(stream)).transpose()?;
    let weights = GateWeights { w_k: matrices.w_k.upload(stream)?, w_q };
    let gate = SeerGate::new(stream, (q_heads, kv_heads, head_dim), kv_len.max(1), config, weights)?;
    let q = Tensor::from_slice(stream, inputs.q, [batch, q_heads, q_len, head_dim])?;
    let k = Tensor::from_slice(stream, inputs.k, [batch, kv_heads, kv_len, head_dim])?;
    Ok((gate, [q, k]))
}
