//! Files of trained gates: those of `lacuna distill`, and the gate tensors of published checkpoints.

use super::names::Kind;
use super::{GateInputs, GateMatrices, Weight, logits, plan, softmax};
use crate::config::{Pool, pool_set};
use crate::failure::{Failure, Result};
use crate::files::{TensorFile, rounded};
use crate::model::Config;
use lacuna::methods::seer::{GateConfig, Pools, Rope, Select, SelectOptions};
use lacuna::{AttentionShape, BlockPlan, Mask, Stream, bf16};
use safetensors::SafeTensors;
use std::path::Path;
use std::rc::Rc;

/// Prefill gates for every layer of a model.
pub struct Gates {
    /// Where they came from.
    pub name: String,
    /// Queries and keys of a block.
    pub block_size: usize,
    /// Pools of the queries of a block.
    pub q_pool: Pools,
    /// Pools of the keys of a block.
    pub k_pool: Pools,
    /// Base of the rotation.
    pub rope_theta: f64,
    /// One a layer.
    pub layers: Vec<GateMatrices<bf16>>,
    /// Densities, and the threshold that gave each of them on the text that was learned from; empty if the file has
    /// none.
    pub thresholds: Vec<(f64, f64)>,
}

/// The gates of the reference model, trained by `lacuna distill`.
const BUILT_IN: &[u8] = include_bytes!("../../../data/gates/prefill.safetensors");

impl Gates {
    /// Gates for a model from a file; no path means the built-in ones.
    pub fn open(path: Option<&Path>, model: &Config) -> Result<Rc<Self>> {
        let file = match path {
            Some(path) => TensorFile::open(path)?,
            None => TensorFile::from_bytes(Path::new("data/gates/prefill.safetensors"), BUILT_IN.to_vec())?,
        };
        Self::read(&file, model).map(Rc::new)
    }

    /// The blocks that the gate of a layer picks for a causal call; each row keeps its own block.
    pub fn plan(
        &self,
        layer: usize,
        select: Select,
        stream: &Stream,
        shape: &AttentionShape,
        inputs: &GateInputs<'_, bf16>,
    ) -> Result<BlockPlan> {
        let options =
            SelectOptions { select, last_rows_dense: 0, force_diagonal: true, sink_blocks: 0, share_heads: false };
        plan(stream, shape, &Mask::CAUSAL, self.config(layer), &self.layers[layer], inputs, &options)
    }

    /// What thresholds are compared with: `[q_heads, query blocks, key blocks]`, each row with sum 1 over the blocks
    /// that it sees.
    pub fn shares(
        &self,
        layer: usize,
        stream: &Stream,
        shape: &AttentionShape,
        inputs: &GateInputs<'_, bf16>,
    ) -> Result<Vec<f32>> {
        let mut values =
            logits(stream, shape, &Mask::CAUSAL, self.config(layer), &self.layers[layer], inputs)?.to_vec(stream)?;
        values.chunks_exact_mut(shape.kv_len.div_ceil(self.block_size)).for_each(softmax);
        Ok(values)
    }

    fn config(&self, layer: usize) -> GateConfig {
        GateConfig {
            block_size: self.block_size,
            q_pool: self.q_pool,
            k_pool: self.k_pool,
            rope: Some(Rope::new(self.rope_theta, self.layers[layer].w_k.dims[2])),
        }
    }

    fn read(file: &TensorFile, model: &Config) -> Result<Self> {
        let tensors = file.tensors()?;
        // Published checkpoints say none of these; their defaults hold then.
        if kind_of(file, &tensors)? != Kind::Prefill {
            return Err(file.error("gates for decoding; these rows need gates for prefill"));
        }
        let (block_size, rope_theta) = (block_size(file)?, rope_theta(file, model)?);
        let (q_pool, k_pool) = (pools(file, "q_pool", "avg")?, pools(file, "k_pool", "max,min,avg")?);
        let layers = (0..model.num_layers).map(|layer| {
            let heads = [model.num_attention_heads, model.num_key_value_heads];
            let k_inputs = k_pool.count() * model.head_dim;
            let w_k = weight(file, &tensors, Kind::Prefill, layer, "w_k", &heads, k_inputs)?;
            let w_k = w_k.ok_or_else(|| file.error(Kind::Prefill.missing(layer, "w_k")))?;
            let q_inputs = q_pool.count() * model.head_dim;
            let w_q = weight(file, &tensors, Kind::Prefill, layer, "w_q", &heads[..1], q_inputs)?;
            let gate_dim = w_k.dims[2];
            let fits = match &w_q {
                Some(w_q) => w_q.dims[2] == gate_dim,
                None => q_pool.count() == 1 && gate_dim == model.head_dim,
            };
            if !fits {
                return Err(file.error(format_args!(
                    "layer {layer}: the gate dim of the queries must be {gate_dim}, as that of `w_k`; without a weight they \
                     have one pool and a gate dim of {}",
                    model.head_dim
                )));
            }
            Ok(GateMatrices { w_k, w_q })
        });
        let layers = layers.collect::<Result<_>>()?;
        let thresholds = thresholds(file)?;
        Ok(Self { name: file.name(), block_size, q_pool, k_pool, rope_theta, layers, thresholds })
    }
}

/// What the gates of a file are for: prompts, unless it says otherwise or has the published names of decode gates.
pub fn kind_of(file: &TensorFile, tensors: &SafeTensors<'_>) -> Result<Kind> {
    match file.note("kind")?.as_deref() {
        None => Ok(Kind::published_in(tensors).unwrap_or(Kind::Prefill)),
        Some("prefill") => Ok(Kind::Prefill),
        Some("decode") => Ok(Kind::Decode),
        Some(other) => Err(file.error(format_args!("kind must be prefill or decode, got `{other}`"))),
    }
}

/// Tokens of a block.
pub fn block_size(file: &TensorFile) -> Result<usize> {
    let block_size = number(file, "block_size", 64)?;
    if [16, 32, 64, 128].contains(&block_size) {
        return Ok(block_size);
    }
    Err(file.error(format_args!("block_size must be one of [16, 32, 64, 128], got {block_size}")))
}

/// Base of the rotation.
pub fn rope_theta(file: &TensorFile, model: &Config) -> Result<f64> {
    let rope_theta: f64 = number(file, "rope_theta", model.rope_theta)?;
    if rope_theta.is_finite() && rope_theta > 0.0 {
        return Ok(rope_theta);
    }
    Err(file.error(format_args!("rope_theta must be positive and finite, got {rope_theta}")))
}

/// A weight of a layer; `None`: the file has none of that name. Published weights lie as they are used here: a row of
/// outputs for each input, as in x W.
pub fn weight(
    file: &TensorFile,
    tensors: &SafeTensors<'_>,
    kind: Kind,
    layer: usize,
    name: &str,
    heads: &[usize],
    inputs: usize,
) -> Result<Option<Weight<bf16>>> {
    let Some(name) = kind.find(tensors, layer, name) else { return Ok(None) };
    let shape = tensors.tensor(name).map(|view| view.shape().to_vec()).unwrap_or_default();
    // Published query weights of decode gates keep the heads of a group and their elements apart.
    let (view, dims) = if kind == Kind::Decode && shape.len() == 4 {
        let (view, [heads, group, dim, gate_dim]) = file.float_tensor::<4>(tensors, name)?;
        (view, [heads, group.saturating_mul(dim), gate_dim])
    } else {
        file.float_tensor::<3>(tensors, name)?
    };
    let even = (2..=256).contains(&dims[2]) && dims[2].is_multiple_of(2);
    if !heads.contains(&dims[0]) || dims[1] != inputs || !even {
        return Err(file.error(format_args!(
            "tensor `{name}` must be [heads, {inputs}, gate dim] with one of {heads:?} heads and an even gate dim of at \
             most 256, got {shape:?}"
        )));
    }
    Ok(Some(Weight { dims, data: rounded(&view) }))
}

/// A number of the metadata.
fn number<T: std::str::FromStr>(file: &TensorFile, key: &str, default: T) -> Result<T> {
    match file.note(key)? {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| file.error(format_args!("{key} must be a number, got `{text}`"))),
    }
}

/// As [`Gates::thresholds`] is stored.
pub fn threshold_note(thresholds: &[(f64, f64)]) -> String {
    thresholds.iter().map(|(density, threshold)| format!("{density}:{threshold:e}")).collect::<Vec<_>>().join(",")
}

fn thresholds(file: &TensorFile) -> Result<Vec<(f64, f64)>> {
    let Some(text) = file.note("thresholds")? else { return Ok(Vec::new()) };
    let pair = |pair: &str| {
        let (density, threshold) = pair.split_once(':')?;
        let pair: (f64, f64) = (density.parse().ok()?, threshold.parse().ok()?);
        ((0.0..=1.0).contains(&pair.0) && (0.0..=1.0).contains(&pair.1)).then_some(pair)
    };
    let pairs: Option<Vec<_>> = text.split(',').map(pair).collect();
    pairs.ok_or_else(|| {
        file.error(format_args!("thresholds must be pairs density:threshold in 0..=1, joined by commas, got `{text}`"))
    })
}

/// Pools of the metadata, joined by commas.
pub fn pools(file: &TensorFile, key: &str, default: &str) -> Result<Pools> {
    let text = file.note(key)?.unwrap_or_else(|| default.to_owned());
    let pool = |name: &str| match name {
        "max" => Ok(Pool::Max),
        "min" => Ok(Pool::Min),
        "avg" => Ok(Pool::Avg),
        _ => Err(file.error(format_args!("{key} must be some of max, min, avg, joined by commas, got `{text}`"))),
    };
    let list = text.split(',').map(pool).collect::<Result<Vec<_>, Failure>>()?;
    pool_set(key, &list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::methods::seer::{GateWeights, SeerGate};
    use lacuna::{DType, Device, Tensor};
    use safetensors::{Dtype, serialize, tensor::TensorView};

    const HEADS: (usize, usize) = (4, 2);
    const DIM: usize = 8;

    fn model() -> Config {
        Config {
            vocab_size: 256,
            hidden_size: 32,
            num_layers: 3,
            num_attention_heads: HEADS.0,
            num_key_value_heads: HEADS.1,
            head_dim: DIM,
            rope_theta: 10000.0,
            rms_norm_eps: 1e-6,
            max_position_embeddings: 64,
        }
    }

    /// What stands at (head, input, output) of a layer's weight: small, and exact in bf16.
    fn element(layer: usize, h: usize, i: usize, o: usize) -> f32 {
        ((layer * 5 + h * 11 + i * 3 + o * 7) % 13) as f32 / 8.0 - 0.75
    }

    struct Stored {
        name: String,
        dtype: Dtype,
        dims: Vec<usize>,
        bytes: Vec<u8>,
    }

    /// `[heads, inputs, outputs]` as a published checkpoint has it, in bf16.
    fn stored(layer: usize, name: &str, [heads, inputs, outputs]: [usize; 3]) -> Stored {
        let all = (0..heads).flat_map(|h| (0..inputs).flat_map(move |i| (0..outputs).map(move |o| (h, i, o))));
        let bytes = all.flat_map(|(h, i, o)| bf16::from_f32(element(layer, h, i, o)).to_bits().to_le_bytes()).collect();
        let name = format!("model.layers.{layer}.self_attn.attn_gate.{name}.weight");
        Stored { name, dtype: Dtype::BF16, dims: vec![heads, inputs, outputs], bytes }
    }

    fn file(tensors: &[Stored]) -> TensorFile {
        let views = tensors.iter().map(|t| (&t.name, TensorView::new(t.dtype, t.dims.clone(), &t.bytes).unwrap()));
        TensorFile::from_bytes(Path::new("published"), serialize(views, None).unwrap()).unwrap()
    }

    fn refused(tensors: &[Stored]) -> String {
        Gates::read(&file(tensors), &model()).err().unwrap().line()
    }

    #[test]
    fn published_checkpoints_by_their_names() {
        // One linear layer, for each query head; and two, the second for each KV head.
        let single: Vec<Stored> = (0..3).map(|l| stored(l, "mask_linear_k", [HEADS.0, 3 * DIM, DIM])).collect();
        let double =
            |l| [stored(l, "mask_linear_k", [HEADS.1, 3 * DIM, 16]), stored(l, "mask_linear_q", [HEADS.0, DIM, 16])];
        let double: Vec<Stored> = (0..3).flat_map(double).collect();
        for (tensors, k_heads, gate_dim, with_q) in [(single, HEADS.0, DIM, false), (double, HEADS.1, 16, true)] {
            let gates = Gates::read(&file(&tensors), &model()).unwrap();
            assert_eq!((gates.block_size, gates.layers.len()), (64, 3));
            assert_eq!((gates.q_pool, gates.k_pool), (Pools::AVG, Pools::MAX_MIN_AVG));
            for (layer, GateMatrices { w_k, w_q }) in gates.layers.iter().enumerate() {
                assert_eq!(w_k.dims, [k_heads, 3 * DIM, gate_dim]);
                assert_eq!(w_k.data[(3 * DIM + 2) * gate_dim + 5].to_f32(), element(layer, 1, 2, 5));
                assert_eq!(w_q.is_some(), with_q);
                check_logits(layer, w_k, w_q.as_ref());
            }
        }
    }

    /// The logit of one block of 16 tokens, as the published code multiplies: features in row vectors, x W.
    fn check_logits(layer: usize, w_k: &Weight<bf16>, w_q: Option<&Weight<bf16>>) {
        let stream = Device::simt().unwrap().new_stream().unwrap();
        let value = |seed: usize, at: usize| ((at * 7 + seed * 3 + at / 8 * 5) % 17) as f32 / 8.0 - 1.0;
        let tensor = |seed, heads| {
            let values: Vec<bf16> = (0..heads * 16 * DIM).map(|at| bf16::from_f32(value(seed, at))).collect();
            Tensor::from_slice(&stream, &values, [1, heads, 16, DIM]).unwrap()
        };
        let (q, k) = (tensor(1, HEADS.0), tensor(2, HEADS.1));
        let config = GateConfig { block_size: 16, q_pool: Pools::AVG, k_pool: Pools::MAX_MIN_AVG, rope: None };
        let uploaded = w_q.map(|w_q| w_q.upload(&stream).unwrap());
        let weights = GateWeights { w_k: w_k.upload(&stream).unwrap(), w_q: uploaded };
        let gate = SeerGate::new(&stream, (HEADS.0, HEADS.1, DIM), 16, config, weights).unwrap();
        let shape = AttentionShape {
            batch: 1,
            q_heads: HEADS.0,
            kv_heads: HEADS.1,
            q_len: 16,
            kv_len: 16,
            head_dim: DIM,
            dtype: DType::BF16,
        };
        let logits = gate.logits(&stream, &shape, &Mask::CAUSAL, q.view(), k.view()).unwrap().to_vec(&stream).unwrap();

        let column = |seed, head: usize, d: usize| (0..16).map(move |t| value(seed, (head * 16 + t) * DIM + d));
        let [heads, _, gate_dim] = w_k.dims;
        for (h, logit) in logits.into_iter().enumerate() {
            let kv_head = h / 2;
            let mean = |seed, head, d| column(seed, head, d).sum::<f32>() / 16.0;
            let most = (0..DIM).map(|d| column(2, kv_head, d).fold(f32::MIN, f32::max));
            let least = (0..DIM).map(|d| column(2, kv_head, d).fold(f32::MAX, f32::min));
            let features: Vec<f32> = most.chain(least).chain((0..DIM).map(|d| mean(2, kv_head, d))).collect();
            let of_weight = if heads == HEADS.0 { h } else { kv_head };
            let mut expected = 0.0;
            for o in 0..gate_dim {
                let key: f32 = features.iter().enumerate().map(|(i, x)| x * element(layer, of_weight, i, o)).sum();
                let query = match w_q {
                    None => mean(1, h, o),
                    Some(_) => (0..DIM).map(|i| mean(1, h, i) * element(layer, h, i, o)).sum(),
                };
                expected += query * key / (gate_dim as f32).sqrt();
            }
            assert!(
                (logit - expected).abs() <= 1e-4 * expected.abs().max(1.0),
                "head {h}: {logit}, expected {expected}"
            );
        }
    }

    #[test]
    fn published_checkpoints_that_do_not_fit() {
        let k = |layer| stored(layer, "mask_linear_k", [HEADS.0, 3 * DIM, DIM]);
        let missing = refused(&[k(0), k(2)]);
        assert!(missing.contains("`layers.1.w_k` is missing"), "{missing}");
        assert!(missing.contains("`model.layers.1.self_attn.attn_gate.mask_linear_k.weight`"), "{missing}");
        let wide = refused(&[stored(0, "mask_linear_k", [HEADS.0, 2 * DIM, DIM])]);
        assert!(wide.contains("mask_linear_k.weight` must be [heads, 24, gate dim]"), "{wide}");
        let flat = refused(&[Stored { dims: vec![HEADS.0 * 3 * DIM, DIM], ..k(0) }]);
        assert!(flat.contains("must have 3 dimensions"), "{flat}");
        let bytes = vec![0; HEADS.0 * 3 * DIM * DIM];
        let small = refused(&[Stored { dtype: Dtype::I8, bytes, ..k(0) }]);
        assert!(small.contains("must be F16, BF16 or F32, got I8"), "{small}");
        let other_dim = refused(&[k(0), stored(0, "mask_linear_q", [HEADS.0, DIM, 16])]);
        assert!(other_dim.contains("the gate dim of the queries must be 8"), "{other_dim}");
        let of_decoding = refused(&[stored(0, "attngate_linear_k", [HEADS.1, 3 * DIM, DIM])]);
        assert!(of_decoding.contains("gates for decoding"), "{of_decoding}");
    }
}
