//! Files of trained gates: those of `lacuna distill`, and the gate tensors of published checkpoints.

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
    /// Densities, and the threshold that gave each of them on the text that was learned from; empty if the file has none.
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
        if file.note("kind")?.is_some_and(|kind| kind != "prefill") {
            return Err(file.error("gates for decoding; these rows need gates for prefill"));
        }
        // Published checkpoints say none of these; their defaults hold then.
        let block_size = number(file, "block_size", 64)?;
        if ![16, 32, 64, 128].contains(&block_size) {
            return Err(file.error(format_args!("block_size must be one of [16, 32, 64, 128], got {block_size}")));
        }
        let rope_theta: f64 = number(file, "rope_theta", model.rope_theta)?;
        if !(rope_theta.is_finite() && rope_theta > 0.0) {
            return Err(file.error(format_args!("rope_theta must be positive and finite, got {rope_theta}")));
        }
        let (q_pool, k_pool) = (pools(file, "q_pool", "avg")?, pools(file, "k_pool", "max,min,avg")?);
        let tensors = file.tensors()?;
        let layers = (0..model.num_layers).map(|layer| {
            let heads = [model.num_attention_heads, model.num_key_value_heads];
            let k_inputs = k_pool.count() * model.head_dim;
            let w_k = weight(file, &tensors, layer, ["w_k", "mask_linear_k"], &heads, k_inputs)?;
            let Some(w_k) = w_k else {
                return Err(file.error(format_args!("tensor `layers.{layer}.w_k` is missing")));
            };
            let q_inputs = q_pool.count() * model.head_dim;
            let w_q = weight(file, &tensors, layer, ["w_q", "mask_linear_q"], &heads[..1], q_inputs)?;
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

/// A weight of a layer by lacuna's name or, if there is none, by the published one; `None` if there is neither.
fn weight(
    file: &TensorFile,
    tensors: &SafeTensors<'_>,
    layer: usize,
    [own, published]: [&str; 2],
    heads: &[usize],
    inputs: usize,
) -> Result<Option<Weight<bf16>>> {
    let own = format!("layers.{layer}.{own}");
    let published = format!("layers.{layer}.self_attn.attn_gate.{published}.weight");
    // A checkpoint's names may begin with `model.`.
    let ends = |name: &&str| name.strip_suffix(&published).is_some_and(|head| head.is_empty() || head.ends_with('.'));
    let names = tensors.names();
    let Some(name) = names.iter().copied().find(|&name| name == own).or_else(|| names.into_iter().find(ends)) else {
        return Ok(None);
    };
    let (view, dims) = file.float_tensor::<3>(tensors, name)?;
    let even = (2..=256).contains(&dims[2]) && dims[2].is_multiple_of(2);
    if !heads.contains(&dims[0]) || dims[1] != inputs || !even {
        return Err(file.error(format_args!(
            "tensor `{name}` must be [heads, {inputs}, gate dim] with one of {heads:?} heads and an even gate dim of at \
             most 256, got {dims:?}"
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
fn pools(file: &TensorFile, key: &str, default: &str) -> Result<Pools> {
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
