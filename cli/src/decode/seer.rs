//! SeerAttention-R: the gate's cache grows with the keys, and picks blocks for each step.

use super::gate::Gate;
use super::request::{Request, Tokens};
use crate::failure::Result;
use lacuna::methods::seer::{
    DecodeGate, DecodeGateConfig, DecodeGateWeights, DecodeSelectOptions, GateCache, Rope, Span,
};
use lacuna::{AttentionShape, BlockPlan, Half, Stream, Tensor};

/// The gate of a request and what it has seen so far.
pub struct SeerSteps<'a, T: Half> {
    request: &'a Request<T>,
    tensors: &'a Gate<T>,
    gate: DecodeGate<T>,
    cache: GateCache,
    options: DecodeSelectOptions,
}

impl<'a, T: Half> SeerSteps<'a, T> {
    /// A gate whose cache holds the prompts.
    pub fn new(stream: &Stream, request: &'a Request<T>, tensors: &'a Gate<T>) -> Result<Self> {
        let AttentionShape { batch, q_heads, kv_heads, kv_len, head_dim, .. } = request.qkv.shape;
        let keys = &tensors.keys;
        let norm = |values: &Option<Vec<f32>>| values.as_ref().map(|values| Tensor::vector(stream, values)).transpose();
        let config = DecodeGateConfig {
            block_size: keys.block_size,
            k_pool: tensors.k_pool,
            rope: Some(Rope::new(keys.rope_theta, tensors.gate_dim())),
            compat: keys.compat,
            norm_eps: keys.norm_eps as f32,
        };
        let weights = DecodeGateWeights {
            w_q: tensors.w_q.upload(stream)?,
            w_k: tensors.w_k.upload(stream)?,
            q_norm: norm(&tensors.q_norm)?,
            k_norm: norm(&tensors.k_norm)?,
        };
        // A sequence without a key still has a gate.
        let longest = kv_len.max(1);
        let gate = DecodeGate::new(stream, (q_heads, kv_heads, head_dim), longest, config, weights)?;
        let cache = gate.cache(stream, batch, longest)?;
        let options = DecodeSelectOptions { select: tensors.select, sink_blocks: keys.sink_blocks };
        let mut steps = Self { request, tensors, gate, cache, options };
        let prompts: Vec<Tokens> = request.prompts.iter().map(|&prompt| 0..prompt).collect();
        steps.append(stream, &prompts, false)?;
        Ok(steps)
    }

    /// Adds the new tokens to the gate's cache, and picks blocks for them.
    pub fn plan(
        &mut self,
        stream: &Stream,
        shape: &AttentionShape,
        kv_lens: &Tensor<i32>,
        tokens: &[Tokens],
    ) -> Result<BlockPlan> {
        self.append(stream, tokens, true)?;
        let q = self.request.queries(&self.tensors.q, tokens, 0, shape.q_len);
        let q = Tensor::from_slice(stream, &q, [shape.batch, shape.q_heads, shape.q_len, shape.head_dim])?;
        let mut plan = self.gate.empty_plan(stream, shape, &self.options, None)?;
        let mut workspace = stream.alloc_bytes(self.gate.workspace_bytes(shape))?;
        self.gate.select_into(
            stream,
            shape,
            Some(kv_lens),
            q.view(),
            &self.cache,
            &self.options,
            &mut plan,
            &mut workspace,
        )?;
        Ok(plan)
    }

    /// Pools these tokens of each sequence, which follow those before.
    fn append(&mut self, stream: &Stream, tokens: &[Tokens], decoded: bool) -> Result<()> {
        let AttentionShape { batch, kv_heads, kv_len, head_dim, .. } = self.request.qkv.shape;
        let longest = tokens.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        if longest == 0 {
            return Ok(());
        }
        // Sequences with fewer tokens end in rows that nothing reads.
        let mut k = vec![T::from_f32(f32::NAN); batch * kv_heads * longest * head_dim];
        for (b, h) in (0..batch).flat_map(|b| (0..kv_heads).map(move |h| (b, h))) {
            let row = b * kv_heads + h;
            let from = (row * kv_len + tokens[b].start) * head_dim;
            let len = tokens[b].len() * head_dim;
            k[row * longest * head_dim..][..len].copy_from_slice(&self.tensors.k[from..from + len]);
        }
        let k = Tensor::from_slice(stream, &k, [batch, kv_heads, longest, head_dim])?;
        let vector = |value: &dyn Fn(&Tokens) -> usize| {
            Tensor::vector(stream, &tokens.iter().map(|tokens| value(tokens) as i32).collect::<Vec<_>>())
        };
        let (starts, lens) = (vector(&|tokens| tokens.start)?, vector(&|tokens| tokens.len())?);
        let mut workspace = stream.alloc_bytes(self.cache.workspace_bytes(longest))?;
        let span = Span::Ragged { starts: &starts, lens: &lens };
        self.gate.append(stream, &mut self.cache, k.view(), span, decoded, &mut workspace)?;
        Ok(())
    }
}
