//! Softmax attention out of candle's own operations, in f64, with candle's gradients.

use candle_core::{D, DType, Device, Result, Shape, Tensor, Var};

/// Uniform numbers in -1.5..1.5, f64.
pub fn noise(seed: u64, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f64 / 2f64.powi(31) - 0.5) * 3.0
    };
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Which keys a position sees.
type Sees = Box<dyn Fn(i64, i64) -> bool>;

/// Attention under a mask on (position of the query, key).
pub struct Plain {
    pub sees: Sees,
    pub scale: Option<f64>,
    pub softcap: Option<f64>,
}

impl Default for Plain {
    fn default() -> Self {
        Self::new(|_, _| true)
    }
}

impl Plain {
    pub fn new(sees: impl Fn(i64, i64) -> bool + 'static) -> Self {
        Self { sees: Box::new(sees), scale: None, softcap: None }
    }

    pub fn causal() -> Self {
        Self::new(|p, key| key <= p)
    }

    /// out, dq, dk and dv of `[batch, len, heads, head_dim]`; `round`: with the roundings that a kernel with tensor
    /// cores can't avoid (P before its products, out, dS), the result of the ideal algorithm of that precision.
    pub fn run(&self, [q, k, v]: [&Tensor; 3], dout: &Tensor, round: bool) -> Result<[Tensor; 4]> {
        let dtype = q.dtype();
        let wide = |x: &Tensor| x.to_dtype(DType::F64)?.transpose(1, 2)?.contiguous();
        let narrow = |x: Tensor| if round { x.to_dtype(dtype)?.to_dtype(DType::F64) } else { Ok(x) };
        let (group, dim) = (q.dim(2)? / k.dim(2)?, q.dim(3)?);
        let repeat = |x: Tensor| -> Result<Tensor> {
            let (b, h, n, d) = x.dims4()?;
            x.unsqueeze(2)?.broadcast_as((b, h, group, n, d))?.reshape((b, h * group, n, d))
        };
        let (q, dout) = (wide(q)?, wide(dout)?);
        let (k, v) = (repeat(wide(k)?)?, repeat(wide(v)?)?);
        let (q_len, kv_len) = (q.dim(2)?, k.dim(2)?);
        let scale = self.scale.unwrap_or(1.0 / (dim as f64).sqrt());
        let hidden: Vec<f64> = (0..q_len * kv_len)
            .map(|i| {
                let (p, key) = ((i / kv_len + kv_len) as i64 - q_len as i64, (i % kv_len) as i64);
                if (self.sees)(p, key) { 0.0 } else { f64::NEG_INFINITY }
            })
            .collect();
        let hidden = Tensor::from_vec(hidden, (q_len, kv_len), &Device::Cpu)?;
        // The logits as a variable: candle's own softmax gives the gradient of what follows, rounded where asked.
        let raw = (q.matmul(&k.t()?)? * scale)?;
        let capped = match self.softcap {
            Some(cap) => ((&raw / cap)?.tanh()? * cap)?,
            None => raw.clone(),
        };
        let logits = Var::from_tensor(&capped.broadcast_add(&hidden)?)?;
        let max = logits.max_keepdim(D::Minus1)?.detach();
        let weights = logits.broadcast_sub(&max)?.exp()?;
        let p = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let rounded = narrow(p.detach())?;
        let out = narrow(rounded.matmul(&v)?)?;
        let dv = rounded.t()?.matmul(&dout)?;
        let dp = dout.matmul(&v.t()?)?;
        // Through softmax: dS = P (dP - rowsum(P dP)); kernels take the row sum from the rounded out.
        let delta = if round { (&dout * &out)?.sum_keepdim(D::Minus1)? } else { (&p * &dp)?.sum_keepdim(D::Minus1)? };
        let mut ds = (p.detach() * dp.broadcast_sub(&delta.detach())?)?;
        if !round {
            let loss = (&p * &dp)?.sum_all()?.backward()?;
            ds = loss.get(&logits).expect("logits are a variable").clone();
        }
        if let Some(cap) = self.softcap {
            let t = (capped / cap)?;
            ds = (ds * (1.0 - t.sqr()?)?)?;
        }
        let ds = narrow(ds)?;
        let dq = (ds.matmul(&k)? * scale)?;
        let dk = (ds.t()?.matmul(&q)? * scale)?;
        let sum = |x: Tensor| -> Result<Tensor> {
            let (b, h, n, d) = x.dims4()?;
            x.reshape((b, h / group, group, n, d))?.sum(2)
        };
        let back = |x: Tensor| x.transpose(1, 2)?.contiguous();
        Ok([back(out)?, back(narrow(dq)?)?, back(narrow(sum(dk)?)?)?, back(narrow(sum(dv)?)?)?])
    }
}

/// The error must be below twice that of the ideal algorithm, or one unit in the last place of the largest value.
pub fn check(what: &str, name: &str, got: &Tensor, expected: &Tensor, ideal: &Tensor, dtype: DType) -> Result<()> {
    assert_eq!((got.dims(), got.dtype()), (expected.dims(), dtype), "{name} of {what}");
    let norm = |x: &Tensor| -> Result<f64> { Ok(x.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt()) };
    let size = norm(expected)?;
    assert!(size > 0.0, "{name} of {what} is all zeros");
    let error = norm(&(got.to_dtype(DType::F64)? - expected)?)? / size;
    let floor = if dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
    let bound = (2.0 * norm(&(ideal - expected)?)? / size).max(floor);
    assert!(error <= bound, "{name} of {what}: relative error {error:.3e}, bound {bound:.3e}");
    Ok(())
}
