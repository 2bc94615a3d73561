//! The gate of one layer in candle: logits that can be differentiated, and the loss.

use super::examples::Batch;
use super::recipe::{Init, Kind, Pool, Recipe};
use crate::failure::Result;
use crate::training::{Parameter, Random};
use candle_core::{D, Device, Tensor};

/// Added to the mean square of an RMS norm.
const NORM_EPSILON: f64 = 1e-6;

/// Names of the weights in a file, `layers.{i}.` before them, in the order of [`LayerGate::parameters`].
pub const NAMES: [&str; 4] = ["w_k", "w_q", "q_norm", "k_norm"];

/// What is trained, by [`NAMES`].
#[derive(Clone)]
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

    /// `[windows, heads, rows, blocks]`, those of hidden blocks too.
    pub fn logits(&self, recipe: &Recipe, batch: &Batch) -> Result<Tensor> {
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

/// A first weight `[heads, parts * head_dim, gate_dim]`: random, or the sum of the input's parts, each as often as
/// `parts` says. An element goes where the rotary embedding of a wider gate vector has its frequency, and then `scale`
/// makes up for the divisor of the logits.
fn weight(recipe: &Recipe, layer: usize, which: u64, heads: usize, parts: &[f32]) -> Result<Tensor> {
    let (dim, gate_dim) = (recipe.head_dim, recipe.gate_dim);
    let width = parts.len() * dim;
    let mut random = Random::new(recipe.seed, &[2, layer as u64, which]);
    let bound = (6.0 / (width + gate_dim) as f32).sqrt();
    let scale = if which == 0 { 1.0 } else { (gate_dim as f32 / dim as f32).sqrt() };
    let place = |element: usize| {
        let (half, wider) = (dim / 2, gate_dim / dim);
        element / half * (gate_dim / 2) + element % half * wider
    };
    let mut values = vec![0.0; heads * width * gate_dim];
    for (index, row) in values.chunks_exact_mut(gate_dim).enumerate() {
        match recipe.init {
            Init::Random => row.iter_mut().for_each(|x| *x = bound * random.uniform()),
            Init::Mean => row[place(index % dim)] = scale * parts[index % width / dim],
        }
    }
    Ok(Tensor::from_vec(values, (heads, width, gate_dim), &Device::Cpu)?)
}

/// Rotate-half by (cos, sin) `[.., rows, gate_dim / 2]`.
fn rotated(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let low = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let high = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Ok(Tensor::cat(&[low, high], 3)?)
}

#[cfg(all(test, feature = "simt"))]
mod tests {
    use super::*;
    use crate::distill::examples::{Example, Window};
    use lacuna::bf16;

    fn recipe(gate_dim: usize, project_q: bool) -> Recipe {
        let json = serde_json::json!({
            "kind": "prefill", "block_size": 16, "q_pool": ["avg"], "k_pool": ["max", "avg"], "project_q": project_q,
            "per_kv_head": false, "norm": false, "gate_dim": gate_dim, "rope_theta": 100.0, "layers": 1, "q_heads": 2,
            "kv_heads": 1, "head_dim": 8, "window": 60, "windows": 1, "rows": 1, "skip": 0.0, "drop_current": false,
            "power": 1.0, "distance": 0.0, "init": "mean", "steps": 1, "warm_up": 0, "batch": 1, "lr": 0.1, "min_lr": 0.0, "seed": 1,
            "data": "",
        });
        serde_json::from_value(json).unwrap()
    }

    fn window(recipe: &Recipe, maxima: Vec<f32>) -> (Vec<bf16>, Vec<bf16>, Window) {
        let mut random = Random::new(5, &[]);
        let mut values = |n: usize| (0..n).map(|_| bf16::from_f32(random.uniform())).collect::<Vec<_>>();
        let (q, k) = (values(2 * 60 * 8), values(60 * 8));
        let rows = vec![0, 16, 32, 48];
        let stream = lacuna::Device::simt().unwrap().new_stream().unwrap();
        let example = Example::new(&stream, recipe, &q, &k, &rows, maxima).unwrap();
        (q, k, Window { rows, layers: vec![example] })
    }

    /// What `init: mean` promises, and the loss, in f64 and by definition.
    #[test]
    fn training_starts_at_the_rotated_means_whatever_the_gate_dim() {
        let maxima: Vec<f32> = (1..=2 * 4 * 4).map(|x| x as f32).collect();
        let (q, k, _) = window(&recipe(8, false), maxima.clone());
        let mean = |x: &[bf16], head: usize, block: usize| -> Vec<f64> {
            let tokens = block * 16..(block * 16 + 16).min(60);
            let count = tokens.len() as f64;
            let of = |e: usize| tokens.clone().map(|t| f64::from(x[(head * 60 + t) * 8 + e].to_f32())).sum::<f64>();
            let mean: Vec<f64> = (0..8).map(|e| of(e) / count).collect();
            let angle = |e: usize| (block * 16) as f64 * 100f64.powf(-(e as f64) / 4.0);
            let low = (0..4).map(|e| mean[e] * angle(e).cos() - mean[e + 4] * angle(e).sin());
            let high = (0..4).map(|e| mean[e + 4] * angle(e).cos() + mean[e] * angle(e).sin());
            low.chain(high).collect()
        };
        let mut expected = 0.0;
        for (head, row) in (0..2).flat_map(|head| (0..4).map(move |row| (head, row))) {
            let logit = |block: usize| {
                mean(&q, head, row).iter().zip(mean(&k, 0, block)).map(|(a, b)| a * b).sum::<f64>() / 8f64.sqrt()
            };
            let weights: Vec<f64> = (0..=row).map(|block| f64::from(maxima[(head * 4 + row) * 4 + block])).collect();
            let (sum, all) = (weights.iter().sum::<f64>(), (0..=row).map(|b| logit(b).exp()).sum::<f64>());
            let term = |block: usize| {
                let p = weights[block] / sum;
                p * (p / (logit(block).exp() / all)).ln()
            };
            expected += (0..=row).map(term).sum::<f64>() / 8.0;
        }
        for (gate_dim, project_q) in [(8, false), (8, true), (16, true), (32, true)] {
            let recipe = recipe(gate_dim, project_q);
            recipe.validate().unwrap();
            let window = window(&recipe, maxima.clone()).2;
            let batch = Batch::new(&recipe, &[&window, &window], 0).unwrap();
            let loss = LayerGate::new(&recipe, 0).unwrap().loss(&recipe, &batch).unwrap();
            let loss = f64::from(loss.to_scalar::<f32>().unwrap());
            assert!((loss - expected).abs() < 1e-5 * expected, "{gate_dim} {project_q}: {loss} {expected}");
        }
    }
}
