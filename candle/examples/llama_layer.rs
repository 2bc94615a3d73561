//! A layer of a Llama-style model, and what changes when lacuna computes its attention.
//!
//! `cargo run --release -p lacuna-candle --example llama_layer`

use candle_core::{D, DType, Device, Result, Tensor};
use lacuna_candle::{Attention, S2Config};

struct Layer {
    q_proj: Tensor,
    k_proj: Tensor,
    v_proj: Tensor,
    o_proj: Tensor,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Layer {
    fn new(hidden: usize, heads: usize, kv_heads: usize, head_dim: usize, device: &Device) -> Result<Self> {
        let weight = |rows: usize, columns: usize| {
            Tensor::randn(0f32, 1.0 / (columns as f32).sqrt(), (rows, columns), device)?.to_dtype(DType::F16)
        };
        Ok(Self {
            q_proj: weight(heads * head_dim, hidden)?,
            k_proj: weight(kv_heads * head_dim, hidden)?,
            v_proj: weight(kv_heads * head_dim, hidden)?,
            o_proj: weight(hidden, heads * head_dim)?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// `x` `[batch, len, hidden]` to the same.
    fn forward(&self, x: &Tensor, attend: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        let project = |weight: &Tensor, heads: usize| -> Result<Tensor> {
            x.broadcast_matmul(&weight.t()?)?.reshape((batch, len, heads, self.head_dim))
        };
        // (The rotary embedding of q and k would stand here.)
        let q = project(&self.q_proj, self.heads)?;
        let (k, v) = (project(&self.k_proj, self.kv_heads)?, project(&self.v_proj, self.kv_heads)?);
        let out = attend(&q, &k, &v)?;
        out.reshape((batch, len, self.heads * self.head_dim))?.broadcast_matmul(&self.o_proj.t()?)
    }
}

/// Before: keys and values repeated for each query head, and a mask and a map of `len * len` for each of them.
fn softmax_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (group, len, dim) = (q.dim(2)? / k.dim(2)?, q.dim(1)?, q.dim(3)?);
    let repeat = |x: &Tensor| -> Result<Tensor> {
        let (b, n, h, d) = x.dims4()?;
        x.unsqueeze(3)?.broadcast_as((b, n, h, group, d))?.reshape((b, n, h * group, d))?.transpose(1, 2)?.contiguous()
    };
    let (q, k, v) = (q.transpose(1, 2)?.contiguous()?, repeat(k)?, repeat(v)?);
    let mask: Vec<f32> = (0..len * len).map(|i| if i % len > i / len { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (len, len), q.device())?;
    let logits = (q.matmul(&k.t()?)?.to_dtype(DType::F32)? / (dim as f64).sqrt())?.broadcast_add(&mask)?;
    let weights = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(q.dtype())?;
    weights.matmul(&v)?.transpose(1, 2)?.contiguous()
}

pub fn main() -> Result<()> {
    let device = Device::cuda_if_available(0)?;
    let (len, hidden) = (512, 256);
    let layer = Layer::new(hidden, 8, 2, 64, &device)?;
    let x = Tensor::randn(0f32, 1.0, (1, len, hidden), &device)?.to_dtype(DType::F16)?;

    let before = layer.forward(&x, softmax_attention)?;
    // After: one line, no copies of K and V, no map.
    let after = layer.forward(&x, |q, k, v| lacuna_candle::flash_attn(q, k, v, 1.0 / 8.0, true))?;
    // And sparse: a local window, and columns that slide from head to head.
    let s2 = Attention::s2(S2Config { local_blocks: 2, vertical_stride: 4, ..S2Config::default() });
    let sparse = layer.forward(&x, |q, k, v| s2.apply(q, k, v))?;

    let wide = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all();
    let size = wide(&before)?.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    let distance = |x: &Tensor| -> Result<f32> {
        Ok((wide(x)? - wide(&before)?)?.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt() / size)
    };
    let (dense, sparse) = (distance(&after)?, distance(&sparse)?);
    println!("dense attention by lacuna: relative difference {dense:.1e}");
    println!("S2-Attention: {sparse:.2} (random weights look everywhere; trained ones do not)");
    assert!(dense < 2e-3, "f16 has 11 bits");
    Ok(())
}
