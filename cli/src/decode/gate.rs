//! The tensors of SeerAttention-R's gate, checked.

use super::marks::GateMask;
use super::request::{Request, Tokens};
use super::run::kv_lens;
use crate::attend::check_gate_dim;
use crate::config::{SeerDecodeKeys, pool_set};
use crate::failure::Result;
use crate::files::{TensorFile, rounded};
use crate::gates::{Lists, Weight, frequencies, largest, reference_pools, reference_rule};
use lacuna::methods::seer::{Pools, Select};
use lacuna::reference::gate::{DecodeGate, Rotation, Selection};
use lacuna::reference::widen;
use lacuna::{AttentionShape, Half};
use safetensors::{Dtype, SafeTensors};

/// What the gate reads, rounded to the compute type, and its settings.
pub struct Gate<T> {
    /// `[batch, q_heads, q_len, head_dim]` before the rotary embedding.
    pub q: Vec<T>,
    /// `[batch, kv_heads, kv_len, head_dim]` likewise.
    pub k: Vec<T>,
    /// `[kv_heads, group * head_dim, gate_dim]`
    pub w_q: Weight<T>,
    /// `[kv_heads, pools * head_dim, gate_dim]`
    pub w_k: Weight<T>,
    /// `[gate_dim]`
    pub q_norm: Option<Vec<f32>>,
    /// `[gate_dim]`
    pub k_norm: Option<Vec<f32>>,
    /// Statistics of the keys of a block.
    pub k_pool: Pools,
    /// How scores become blocks.
    pub select: Select,
    /// The other settings.
    pub keys: SeerDecodeKeys,
}

impl<T: Half> Gate<T> {
    /// Reads and checks the gate's tensors of `decode`.
    pub fn read(file: &TensorFile, shape: &AttentionShape, keys: &SeerDecodeKeys) -> Result<Self> {
        let tensors = file.tensors()?;
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
        let q = file.float_tensor_of(&tensors, "gate_q", [batch, q_heads, q_len, head_dim], "as `q`")?;
        let k = file.float_tensor_of(&tensors, "gate_k", [batch, kv_heads, kv_len, head_dim], "as `k`")?;
        let k_pool = pool_set("k_pool", &keys.k_pool)?;
        let (w_k, dims) = file.float_tensor::<3>(&tensors, "w_k")?;
        let (k_inputs, gate_dim) = (k_pool.count() * head_dim, check_gate_dim(file, "w_k", dims)?);
        if dims[..2] != [kv_heads, k_inputs] {
            return Err(file.error(format_args!(
                "tensor `w_k` must be [{kv_heads}, {k_inputs}, gate dim] (KV heads, head_dim × pools of k, gate dim), got \
                 {dims:?}"
            )));
        }
        let q_dims = [kv_heads, shape.group() * head_dim, gate_dim];
        let apart = tensors.tensor("w_q").is_ok_and(|view| view.shape().len() == 4);
        let w_q = if apart {
            let expected = [kv_heads, shape.group(), head_dim, gate_dim];
            file.float_tensor_of(&tensors, "w_q", expected, "KV heads, heads of a group, head_dim, gate dim of `w_k`")?
        } else {
            let meaning = "KV heads, heads of a group × head_dim, gate dim of `w_k`";
            file.float_tensor_of(&tensors, "w_q", q_dims, meaning)?
        };
        Ok(Self {
            q: rounded(&q),
            k: rounded(&k),
            w_q: Weight { dims: q_dims, data: rounded(&w_q) },
            w_k: Weight { dims, data: rounded(&w_k) },
            q_norm: norm(file, &tensors, "q_norm", gate_dim)?,
            k_norm: norm(file, &tensors, "k_norm", gate_dim)?,
            k_pool,
            select: keys.rule()?,
            keys: keys.clone(),
        })
    }

    /// The gate dim.
    pub fn gate_dim(&self) -> usize {
        self.w_k.dims[2]
    }
}

impl<T: Half + Into<f64>> Gate<T> {
    /// Compares what the gate picked in each step with the f64 gate on the same values.
    pub fn check(&self, request: &Request<T>, steps: &[Vec<Tokens>], picked: &GateMask) -> Result<Lists> {
        let widened = |norm: &Option<Vec<f32>>| norm.as_ref().map(|norm| widen(norm));
        let (k, w_q, w_k) = (widen(&self.k), widen(&self.w_q.data), widen(&self.w_k.data));
        let (q_norm, k_norm) = (widened(&self.q_norm), widened(&self.k_norm));
        let (frequencies, pools) = (frequencies(self.keys.rope_theta, self.gate_dim()), reference_pools(self.k_pool));
        let selection = Selection {
            rule: reference_rule(self.select, self.keys.block_size),
            last_rows_dense: 0,
            force_diagonal: true,
            sink_blocks: self.keys.sink_blocks,
            share_heads: true,
        };
        let mut report = Lists::default();
        for tokens in steps {
            let q_len = tokens.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
            let lens = kv_lens(tokens);
            let gate = DecodeGate {
                shape: AttentionShape { q_len, ..request.qkv.shape },
                lens: &lens,
                block: self.keys.block_size,
                gate_dim: self.gate_dim(),
                q: &widen(&request.queries(&self.q, tokens, 0, q_len)),
                k: &k,
                k_pools: &pools,
                w_q: &w_q,
                w_k: &w_k,
                q_norm: q_norm.as_deref(),
                k_norm: k_norm.as_deref(),
                norm_eps: self.keys.norm_eps,
                rotation: Some(Rotation { frequencies: &frequencies, factor: 1.0 }),
                compat: self.keys.compat.then_some(&request.prompts[..]),
            };
            let largest = largest(&gate.logits()?);
            for (i, list) in gate.lists(&selection)?.iter().enumerate() {
                let (b, h) = (i / request.qkv.shape.kv_heads, i % request.qkv.shape.kv_heads);
                // Of a step the last token shows the whole list.
                let Some(token) = tokens[b].clone().next_back() else { continue };
                let marks = picked.row(b, h, token - request.prompts[b]);
                report.add(format_args!("sequence {b}, KV head {h}, token {token}"), list, marks, largest);
            }
        }
        Ok(report)
    }
}

/// The weight of a norm, if the file has it. It stays f32: it is no matrix of the compute type.
fn norm(file: &TensorFile, tensors: &SafeTensors<'_>, name: &str, gate_dim: usize) -> Result<Option<Vec<f32>>> {
    if tensors.tensor(name).is_err() {
        return Ok(None);
    }
    let view = file.float_tensor_of(tensors, name, [gate_dim], "gate dim of `w_k`")?;
    let data = view.data();
    Ok(Some(match view.dtype() {
        Dtype::F16 => data.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        _ => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }))
}
