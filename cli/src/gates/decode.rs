//! Decode gates for every layer of a model: files of `lacuna distill --kind decode`, and the gate tensors of published
//! checkpoints of SeerAttention-R.

use super::file::{block_size, kind_of, pools, rope_theta, weight};
use super::names::Kind;
use super::{GateInputs, Weight};
use crate::failure::Result;
use crate::files::{TensorFile, floats};
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
        Self::read(&file, model)
    }

    fn read(file: &TensorFile, model: &Config) -> Result<Self> {
        let tensors = file.tensors()?;
        if kind_of(file, &tensors)? != Kind::Decode {
            return Err(file.error("gates for prefill; these rows need gates of `lacuna distill --kind decode`"));
        }
        let (block_size, rope_theta) = (block_size(file)?, rope_theta(file, model)?);
        let k_pool = pools(file, "k_pool", "max,min,avg")?;
        let layers = (0..model.num_layers).map(|layer| {
            let kv_heads = model.num_key_value_heads;
            let group = model.num_attention_heads / kv_heads;
            let matrix = |name: &str, inputs: usize| {
                let matrix = weight(file, &tensors, Kind::Decode, layer, name, &[kv_heads], inputs)?;
                matrix.ok_or_else(|| file.error(Kind::Decode.missing(layer, name)))
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
                [norm(file, &tensors, layer, "q_norm", gate_dim)?, norm(file, &tensors, layer, "k_norm", gate_dim)?];
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
    let Some(name) = Kind::Decode.find(tensors, layer, name) else { return Ok(None) };
    let view = file.float_tensor_of(tensors, name, [gate_dim], "gate dim")?;
    Ok(Some(floats(&view)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::{Dtype, serialize, tensor::TensorView};

    const HEADS: (usize, usize) = (4, 2);
    const DIM: usize = 8;
    const GATE_DIM: usize = 16;

    fn model() -> Config {
        Config {
            vocab_size: 256,
            hidden_size: 32,
            num_layers: 2,
            num_attention_heads: HEADS.0,
            num_key_value_heads: HEADS.1,
            head_dim: DIM,
            rope_theta: 10000.0,
            rms_norm_eps: 1e-6,
            max_position_embeddings: 64,
        }
    }

    /// Element `at` of a tensor: small, and exact in bf16.
    fn element(layer: usize, tensor: usize, at: usize) -> f32 {
        ((layer * 5 + tensor * 3 + at * 7) % 13) as f32 / 8.0 - 0.75
    }

    struct Stored {
        name: String,
        dims: Vec<usize>,
        bytes: Vec<u8>,
    }

    fn stored(layer: usize, tensor: usize, name: &str, dims: &[usize]) -> Stored {
        let values = (0..dims.iter().product()).map(|at| bf16::from_f32(element(layer, tensor, at)));
        Stored {
            name: format!("model.layers.{layer}.self_attn.attn_gate.{name}.weight"),
            dims: dims.to_vec(),
            bytes: values.flat_map(|x| x.to_bits().to_le_bytes()).collect(),
        }
    }

    /// The tensors of a layer as they are published, in bf16.
    fn layer(layer: usize) -> Vec<Stored> {
        vec![
            stored(layer, 0, "attngate_linear_q", &[HEADS.1, HEADS.0 / HEADS.1, DIM, GATE_DIM]),
            stored(layer, 1, "attngate_linear_k", &[HEADS.1, 3 * DIM, GATE_DIM]),
            stored(layer, 2, "attngate_qnorm", &[GATE_DIM]),
            stored(layer, 3, "attngate_knorm", &[GATE_DIM]),
        ]
    }

    fn read(tensors: &[Stored]) -> Result<DecodeGates> {
        let views = tensors.iter().map(|t| (&t.name, TensorView::new(Dtype::BF16, t.dims.clone(), &t.bytes).unwrap()));
        DecodeGates::read(&TensorFile::from_bytes(Path::new("published"), serialize(views, None).unwrap())?, &model())
    }

    #[test]
    fn published_checkpoints_by_their_names() {
        let gates = read(&layer(0).into_iter().chain(layer(1)).collect::<Vec<_>>()).unwrap();
        assert_eq!((gates.block_size, gates.k_pool, gates.layers.len()), (64, Pools::MAX_MIN_AVG, 2));
        for (index, Matrices { w_q, w_k, norms }) in gates.layers.iter().enumerate() {
            // The heads of a group are joined: input 8 g + d of KV head h is element d of its g-th query head.
            assert_eq!((w_q.dims, w_k.dims), ([2, 16, 16], [2, 24, 16]));
            let (h, g, d, o) = (1, 1, 3, 5);
            let at = ((h * 2 + g) * DIM + d) * GATE_DIM + o;
            assert_eq!(w_q.data[(h * 16 + g * DIM + d) * GATE_DIM + o].to_f32(), element(index, 0, at));
            let (h, i, o) = (1, 17, 9);
            assert_eq!(w_k.data[(h * 24 + i) * GATE_DIM + o].to_f32(), element(index, 1, (h * 24 + i) * GATE_DIM + o));
            let [q_norm, k_norm] = norms.each_ref().map(|norm| norm.as_ref().unwrap());
            assert_eq!((q_norm.len(), q_norm[7], k_norm[11]), (16, element(index, 2, 7), element(index, 3, 11)));
        }
        // Trained without norms.
        let bare = [0, 1].map(|index| layer(index).into_iter().take(2).collect::<Vec<_>>()).into_iter().flatten();
        let bare = read(&bare.collect::<Vec<_>>()).unwrap();
        assert!(bare.layers.iter().all(|layer| layer.norms.iter().all(Option::is_none)));
    }

    #[test]
    fn published_checkpoints_that_do_not_fit() {
        let refused = |tensors: Vec<Stored>| read(&tensors).err().unwrap().line();
        let with = |at: usize, other: Stored| {
            let mut tensors = layer(0);
            tensors[at] = other;
            refused(tensors.into_iter().chain(layer(1)).collect())
        };
        let missing = refused(layer(0));
        assert!(missing.contains("`layers.1.w_q` is missing, and so is `model.layers.1.self_attn"), "{missing}");
        // A query layer over the mean of a group (Qavgproj).
        let mean = with(0, stored(0, 0, "attngate_linear_q", &[HEADS.1, DIM, GATE_DIM]));
        assert!(mean.contains("attngate_linear_q.weight` must be [heads, 16, gate dim]"), "{mean}");
        let group = with(0, stored(0, 0, "attngate_linear_q", &[HEADS.1, 3, DIM, GATE_DIM]));
        assert!(group.contains("got [2, 3, 8, 16]"), "{group}");
        let norm = with(2, stored(0, 2, "attngate_qnorm", &[DIM]));
        assert!(norm.contains("attngate_qnorm.weight` must be [16] (gate dim), got [8]"), "{norm}");
        let prefill = refused(vec![stored(0, 0, "mask_linear_k", &[HEADS.0, 3 * DIM, DIM])]);
        assert!(prefill.contains("gates for prefill"), "{prefill}");
    }
}
