//! The reference language model of `data/reference-model`, run with candle on the CPU.
//!
//! Bytes in, logits over bytes out; four blocks of grouped-query attention with rotary embedding and a gated MLP.
//! Everything is f32 on the stored bf16 weights. Attention itself is not here: it is an [`Attention`] given by the
//! caller, which is how the demo puts lacuna's kernels in its place.

mod attention;
mod exact;
mod weights;

pub use attention::{Attention, Heads};
pub use exact::{Exact, TokenBlocks, attend_token_blocks, block_maps, each_head, token_maps};
pub use weights::{Config, Files};

use crate::failure::{Failure, Result};
use crate::training::{Parameter, Random};
use candle_core::{D, Tensor};
use lacuna::bf16;
use weights::{Block, Weights};

/// The model, ready to run.
pub struct Model {
    config: Config,
    weights: Weights,
}

impl Model {
    /// Loads the model from its two files.
    pub fn load(files: &Files) -> Result<Self> {
        let config = Config::parse(&files.config)?;
        let weights = Weights::load(&files.weights, &config)?;
        Ok(Self { config, weights })
    }

    /// Sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Cross entropy of one window in bits per byte: reads `text[..n]`, predicts `text[1..=n]`, `n = text.len() - 1`.
    pub fn bits_per_byte(&self, text: &[u8], attention: &mut dyn Attention) -> Result<f64> {
        let logits = self.logits(&text[..text.len() - 1], attention)?;
        let logits: Vec<Vec<f32>> = logits.to_vec2()?;
        let mut bits = 0.0;
        for (row, &next) in logits.iter().zip(&text[1..]) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
            let sum: f64 = row.iter().map(|&x| (x as f64 - max).exp()).sum();
            bits += (max + sum.ln() - row[next as usize] as f64) / std::f64::consts::LN_2;
        }
        let bits = bits / logits.len() as f64;
        if bits.is_finite() { Ok(bits) } else { Err(Failure::Failed("model: the logits are not finite".into())) }
    }

    /// The weights by their names in the file, as variables that gradients are taken of. Setting one changes the model.
    pub fn parameters(&mut self) -> Result<Vec<(String, Parameter)>> {
        let parameter = |(name, tensor): (String, &mut Tensor)| {
            let parameter = Parameter::new(tensor.clone())?;
            *tensor = parameter.value.as_tensor().clone();
            Ok((name, parameter))
        };
        self.weights.named().into_iter().map(parameter).collect()
    }

    /// Random weights: matrices uniform with a standard deviation of 0.02, norms at 1.
    pub fn randomize(&mut self, seed: u64) -> Result<()> {
        for (i, (_, tensor)) in self.weights.named().into_iter().enumerate() {
            let mut random = Random::new(seed, &[3, i as u64]);
            let value = |_| if tensor.rank() == 1 { 1.0 } else { 0.02 * 3f32.sqrt() * random.uniform() };
            let values: Vec<f32> = (0..tensor.elem_count()).map(value).collect();
            *tensor = Tensor::from_vec(values, tensor.shape(), tensor.device())?;
        }
        Ok(())
    }

    /// Logits `[n, vocab]` of one window.
    pub fn logits(&self, tokens: &[u8], attention: &mut dyn Attention) -> Result<Tensor> {
        let device = candle_core::Device::Cpu;
        let ids: Vec<u32> = tokens.iter().map(|&t| u32::from(t)).collect();
        let ids = Tensor::from_vec(ids, tokens.len(), &device)?;
        let (cos, sin) = self.rotary_tables(tokens.len())?;
        let mut x = self.weights.embedding.index_select(&ids, 0)?;
        for (layer, block) in self.weights.blocks.iter().enumerate() {
            let h = self.rms_norm(&x, &block.norm1)?;
            let o = self.attention(layer, block, &h, &cos, &sin, attention)?;
            x = (x + linear(&o, &block.o)?)?;
            let h = self.rms_norm(&x, &block.norm2)?;
            let gated = (linear(&h, &block.gate)?.silu()? * linear(&h, &block.up)?)?;
            x = (x + linear(&gated, &block.down)?)?;
        }
        let x = self.rms_norm(&x, &self.weights.norm)?;
        linear(&x, &self.weights.head)
    }

    /// Projects `h [n, hidden]`, rotates q and k, attends, and joins the heads again: `[n, heads * head_dim]`.
    fn attention(
        &self,
        layer: usize,
        block: &Block,
        h: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let c = &self.config;
        let n = h.dim(0)?;
        let split = |x: Tensor, heads: usize| -> Result<Tensor> {
            Ok(x.reshape((n, heads, c.head_dim))?.transpose(0, 1)?.contiguous()?)
        };
        let gate_q = split(linear(h, &block.q)?, c.num_attention_heads)?;
        let gate_k = split(linear(h, &block.k)?, c.num_key_value_heads)?;
        let (q, k) = (rotate(&gate_q, cos, sin)?, rotate(&gate_k, cos, sin)?);
        let v = split(linear(h, &block.v)?, c.num_key_value_heads)?;
        let heads = Heads { layer, q: &q, k: &k, v: &v, gate_q: &gate_q, gate_k: &gate_k };
        let out = attention.attend(&heads)?;
        Ok(out.transpose(0, 1)?.reshape((n, c.num_attention_heads * c.head_dim))?)
    }

    /// `x / sqrt(mean(x^2) + eps) * w` over the last dimension.
    fn rms_norm(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean + self.config.rms_norm_eps)?.sqrt()?)?;
        Ok(x.broadcast_mul(w)?)
    }

    /// cos and sin `[n, head_dim / 2]` of the rotary embedding; position = index in the window.
    fn rotary_tables(&self, n: usize) -> Result<(Tensor, Tensor)> {
        let half = self.config.head_dim / 2;
        let angle = |i: usize| {
            let frequency = self.config.rope_theta.powf(-((i % half) as f64) / half as f64);
            (i / half) as f64 * frequency
        };
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..n * half).map(|i| f(angle(i)) as f32).collect();
            Tensor::from_vec(values, (n, half), &candle_core::Device::Cpu)
        };
        Ok((table(f64::cos)?, table(f64::sin)?))
    }
}

/// `x Wᵀ` with `W [out, in]`.
fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    Ok(x.matmul(&w.t()?)?)
}

/// Rotate-half over the whole head: the pair of element `i` is `i + head_dim / 2`. `x [heads, n, head_dim]`.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let low = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let high = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Ok(Tensor::cat(&[low, high], 2)?)
}

/// A tensor of the model as the kernels read it.
pub fn rounded(x: &Tensor) -> Result<Vec<bf16>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(bf16::from_f32).collect())
}
