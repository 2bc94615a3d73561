//! Decode gates for every layer of a model: files of `lacuna distill --kind decode`.

use super::file::{block_size, pools, rope_theta, weight};
use super::{GateInputs, Weight};
use crate::failure::Result;
use crate::files::TensorFile;
use crate::model::Config;
use lacuna::methods::seer::{DecodeGate, DecodeGateConfig, DecodeGateWeights, Pools, Rope, Span};
use lacuna::{AttentionShape, Stream, Tensor, bf16};
use safetensors::SafeTensors;
use std::path::Path;

/// Queries of a call of the gate's kernel.
const QUERIES: usize = 16;

/// Added to the mean square of an RMS norm, as in training.
const NORM_EPSILON: f32 = 1e-6;

/// Decode gates of a model.
pub struct DecodeGates {
    /// Where they came from.
    pub name: String,
    /// Keys of a block.
    pub block_size: usize,
    k_pool: Pools,
    rope_theta: f64,
    layers: Vec<Matrices>,
}

struct Matrices {
    /// `[kv_heads, group * head_dim, gate_dim]`
    w_q: Weight<bf16>,
    /// `[kv_heads, pools * head_dim, gate_dim]`
    w_k: Weight<bf16>,
    /// Of queries and of keys, `[gate_dim]`.
    norms: [Option<Vec<f32>>; 2],
}

/// The decode gates of the reference model, trained by `lacuna distill`.
const BUILT_IN: &[u8] = include_bytes!("../../../data/gates/decode.safetensors");

impl DecodeGates {
    /// Gates for a model from a file; no path means the built-in ones.
    pub fn open(path: Option<&Path>, model: &Config) -> Result<Self> {
        let file = match path {
            Some(path) => TensorFile::open(path)?,
            None => TensorFile::from_bytes(Path::new("data/gates/decode.safetensors"), BUILT_IN.to_vec())?,
        };
        if file.note("kind")?.is_none_or(|kind| kind != "decode") {
            return Err(file.error("gates for prefill; these rows need gates of `lacuna distill --kind decode`"));
        }
        let (block_size, rope_theta) = (block_size(&file)?, rope_theta(&file, model)?);
        let k_pool = pools(&file, "k_pool", "max,min,avg")?;
        let tensors = file.tensors()?;
        let layers = (0..model.num_layers).map(|layer| {
            let kv_heads = model.num_key_value_heads;
            let group = model.num_attention_heads / kv_heads;
            let matrix = |name: &str, inputs: usize| {
                let matrix = weight(&file, &tensors, layer, name, None, &[kv_heads], inputs)?;
                matrix.ok_or_else(|| file.error(format_args!("tensor `layers.{layer}.{name}` is missing")))
            };
            let w_q = matrix("w_q", group * model.head_dim)?;
            let w_k = matrix("w_k", k_pool.count() * model.head_dim)?;
            let gate_dim = w_k.dims[2];
            if w_q.dims[2] != gate_dim {
                return Err(file.error(format_args!(
                    "layer {layer}: the gate dim of `w_q` must be that of `w_k`, {gate_dim}, got {}",
                    w_q.dims[2]
                )));
            }
            let norms =
                [norm(&file, &tensors, layer, "q_norm", gate_dim)?, norm(&file, &tensors, layer, "k_norm", gate_dim)?];
            Ok(Matrices { w_q, w_k, norms })
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self { name: file.name(), block_size, k_pool, rope_theta, layers })
    }

    /// The logits of every token of a sequence, each as the newest one: `[kv_heads, n, blocks]`. Those of a token's own
    /// block and of later ones mean nothing.
    pub fn logits(
        &self,
        layer: usize,
        stream: &Stream,
        shape: &AttentionShape,
        inputs: &GateInputs<'_, bf16>,
    ) -> Result<Vec<f32>> {
        let AttentionShape { q_heads, kv_heads, kv_len: n, head_dim, .. } = *shape;
        let Matrices { w_q, w_k, norms } = &self.layers[layer];
        let gate_dim = w_k.dims[2];
        let config = DecodeGateConfig {
            block_size: self.block_size,
            k_pool: self.k_pool,
            rope: Some(Rope::new(self.rope_theta, gate_dim)),
            norm_eps: NORM_EPSILON,
            compat: false,
        };
        let [q_norm, k_norm] = norms
            .each_ref()
            .map(|norm| norm.as_ref().map(|norm| Tensor::from_slice(stream, norm, [1, 1, 1, gate_dim])).transpose());
        let weights =
            DecodeGateWeights { w_q: w_q.upload(stream)?, w_k: w_k.upload(stream)?, q_norm: q_norm?, k_norm: k_norm? };
        let gate = DecodeGate::new(stream, (q_heads, kv_heads, head_dim), n, config, weights)?;
        let q = Tensor::from_slice(stream, inputs.q, [1, q_heads, n, head_dim])?;
        let k = Tensor::from_slice(stream, inputs.k, [1, kv_heads, n, head_dim])?;
        let mut cache = gate.cache(stream, 1, n)?;
        let mut workspace = stream.alloc_bytes(cache.workspace_bytes(n))?;
        gate.append(stream, &mut cache, k.view(), Span::From(0), false, &mut workspace)?;
        let blocks = n.div_ceil(self.block_size);
        let mut all = vec![0.0; kv_heads * n * blocks];
        for first in (0..n).step_by(QUERIES) {
            let len = QUERIES.min(n - first);
            let part = AttentionShape { q_len: len, kv_len: first + len, ..*shape };
            let logits = gate.logits(stream, &part, None, q.view().narrow(2, first, len)?, &cache)?;
            let columns = logits.dims()[3];
            for (index, row) in logits.to_vec(stream)?.chunks_exact(columns).enumerate() {
                let (head, token) = (index / len, first + index % len);
                all[(head * n + token) * blocks..][..columns].copy_from_slice(row);
            }
        }
        Ok(all)
    }
}

/// The weight of a norm, if the layer has one.
fn norm(
    file: &TensorFile,
    tensors: &SafeTensors<'_>,
    layer: usize,
    name: &str,
    gate_dim: usize,
) -> Result<Option<Vec<f32>>> {
    let name = format!("layers.{layer}.{name}");
    let Ok(view) = tensors.tensor(&name) else { return Ok(None) };
    if view.dtype() != safetensors::Dtype::F32 || view.shape() != [gate_dim] {
        let (dtype, dims) = (view.dtype(), view.shape());
        return Err(file.error(format_args!("tensor `{name}` must be F32 [{gate_dim}], got {dtype:?} {dims:?}")));
    }
    Ok(Some(view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
}
