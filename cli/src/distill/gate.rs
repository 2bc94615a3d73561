//! The gate of one layer in candle: logits that can be differentiated, and the loss.

use super::adamw::Parameter;
use super::examples::Batch;
use super::recipe::{Init, Kind, Pool, Random, Recipe};
use crate::failure::Result;
use candle_core::{D, Device, Tensor};

/// Added to the mean square of an RMS norm.
const NORM_EPSILON: f64 = 1e-6;

/// Names of the weights in a file, `layers.{i}.` before them, in the order of [`LayerGate::parameters`].
pub const NAMES: [&str; 4] = ["w_k", "w_q", "q_norm", "k_norm"];

/// What is trained, by [`NAMES`].
pub struct LayerGate {
    /// `w_k [q or KV heads, k pools * head_dim, gate_dim]`; `w_q`, for prefill `[q_heads, q pools * head_dim,
    /// gate_dim]`, for decode `[kv_heads, group * head_dim, gate_dim]`; norms `[gate_dim]`.
    pub parameters: [Option<Parameter>; 4],
}

impl LayerGate {
    /// The gate of layer `layer` before the first step.
    pub fn new(recipe: &Recipe, layer: usize) -> Result<Self> {
        let r = recipe;
        let decode = r.kind == Kind::Decode;
        let group = r.q_heads / r.kv_heads;
        let k_heads = if decode || r.per_kv_head { r.kv_heads } else { r.q_heads };
        let w_k = weight(r, layer, 0, k_heads, &means(&r.k_pool))?;
        let w_q = if decode {
            Some(weight(r, layer, 1, r.kv_heads, &vec![1.0 / group as f32; group])?)
        } else if r.project_q {
            Some(weight(r, layer, 1, r.q_heads, &means(&r.q_pool))?)
        } else {
            None
        };
        let norm = || Tensor::ones(r.gate_dim, candle_core::DType::F32, &Device::Cpu).and_then(Parameter::new);
        let norms = if r.norm { [Some(norm()?), Some(norm()?)] } else { [None, None] };
        let [q_norm, k_norm] = norms;
        let w_q = w_q.map(Parameter::new).transpose()?;
        Ok(Self { parameters: [Some(Parameter::new(w_k)?), w_q, q_norm, k_norm] })
    }

    fn value(&self, index: usize) -> Option<&Tensor> {
        self.parameters[index].as_ref().map(|parameter| parameter.value.as_tensor())
    }

    /// `[windows, heads, rows, blocks]`.
    fn logits(&self, recipe: &Recipe, batch: &Batch) -> Result<Tensor> {
        let repeated = |x: &Tensor, times: usize| -> Result<Tensor> {
            let (windows, heads, rows, width) = x.dims4()?;
            let x = x.unsqueeze(2)?.broadcast_as((windows, heads, times, rows, width))?;
            Ok(x.reshape((windows, heads * times, rows, width))?)
        };
        let projected = |x: &Tensor, index: usize| -> Result<Tensor> {
            match self.value(index) {
                Some(weight) => Ok(x.broadcast_matmul(&weight.unsqueeze(0)?)?),
                None => Ok(x.clone()),
            }
        };
        let normed = |x: Tensor, index: usize| -> Result<Tensor> {
            let Some(weight) = self.value(index) else { return Ok(x) };
            let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
            Ok(x.broadcast_div(&(mean + NORM_EPSILON)?.sqrt()?)?.broadcast_mul(weight)?)
        };
        let heads = recipe.heads();
        let repeats = heads / recipe.kv_heads;
        let mut k = batch.k.clone();
        if repeats > 1 && !recipe.per_kv_head {
            k = repeated(&k, repeats)?;
        }
        let mut k = rotated(&normed(projected(&k, 0)?, 3)?, &batch.k_angles)?;
        if repeats > 1 && recipe.per_kv_head {
            k = repeated(&k, repeats)?;
        }
        let q = rotated(&normed(projected(&batch.q, 1)?, 2)?, &batch.q_angles)?;
        let scale = 1.0 / (recipe.gate_dim as f64).sqrt();
        Ok((q.contiguous()?.matmul(&k.transpose(2, 3)?.contiguous()?)? * scale)?)
    }

    /// The mean over rows of KL(target || softmax(logits)), in nats.
    pub fn loss(&self, recipe: &Recipe, batch: &Batch) -> Result<Tensor> {
        let logits = self.logits(recipe, batch)?.broadcast_add(&batch.hidden)?;
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
        let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
        let (windows, heads, rows, _) = batch.target.dims4()?;
        let cross = (&batch.target * log_p)?.sum_all()?;
        Ok(((batch.negative_entropy - cross)? / (windows * heads * rows) as f64)?)
    }
}

/// 1 for the mean, 0 for the other pools.
fn means(pools: &[Pool]) -> Vec<f32> {
    pools.iter().map(|&pool| if pool == Pool::Avg { 1.0 } else { 0.0 }).collect()
}

/// A first weight `[heads, parts * head_dim, gate_dim]`: each part of the input as often as `parts` says, or random.
fn weight(recipe: &Recipe, layer: usize, which: u64, heads: usize, parts: &[f32]) -> Result<Tensor> {
    let (dim, width) = (recipe.head_dim, parts.len() * recipe.head_dim);
    let mut random = Random::new(recipe.seed, &[2, layer as u64, which]);
    let bound = (6.0 / (width + recipe.gate_dim) as f32).sqrt();
    let element = |i: usize| {
        let (row, column) = (i / recipe.gate_dim % width, i % recipe.gate_dim);
        match recipe.init {
            Init::Random => bound * random.uniform(),
            Init::Mean if row % dim == column => parts[row / dim],
            Init::Mean => 0.0,
        }
    };
    let values: Vec<f32> = (0..heads * width * recipe.gate_dim).map(element).collect();
    Ok(Tensor::from_vec(values, (heads, width, recipe.gate_dim), &Device::Cpu)?)
}

/// Rotate-half by (cos, sin) `[.., rows, gate_dim / 2]`.
fn rotated(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let low = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let high = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Ok(Tensor::cat(&[low, high], 3)?)
}
