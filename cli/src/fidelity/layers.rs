//! What estimates are measured on: q, k and v of the model's layers, and of made-up ones.

use crate::attention_call::Inputs;
use crate::failure::Result;
use crate::model::{Attention, Exact, Heads, Model, rounded};
use candle_core::Tensor;
use lacuna::methods::hyper;
use lacuna::reference::widen;
use lacuna::{AttentionShape, DType, bf16};

/// Query and KV heads and the head dim of made-up layers.
const MADE_UP: (usize, usize, usize) = (4, 2, 64);

/// Centres of the clusters, and how far from one a row lies: standard deviation of each element; centres have 1.
const CLUSTERS: (usize, f32) = (64, 0.6);

/// What is added to every key: standard deviation of its elements.
const OFFSET: f32 = 2.0;

/// Seeds of the rows begin here; those of the estimates are small.
const SEEDS: u64 = 1 << 32;

/// One attention call: `[1, heads, n, head_dim]`, packed.
pub struct Layer {
    /// Sizes.
    pub shape: AttentionShape,
    q: Vec<bf16>,
    k: Vec<bf16>,
    v: Vec<bf16>,
}

impl Layer {
    /// As a call takes them.
    pub fn inputs(&self) -> Inputs<'_, bf16> {
        Inputs { q: &self.q, k: &self.k, v: &self.v }
    }

    /// q, k and v `[n, head_dim]` of a query head.
    pub fn head(&self, h: usize) -> [Vec<f64>; 3] {
        let size = self.shape.q_len * self.shape.head_dim;
        let head = |values: &[bf16], h: usize| widen(&values[h * size..][..size]);
        let kv_head = h / self.shape.group();
        [head(&self.q, h), head(&self.k, kv_head), head(&self.v, kv_head)]
    }
}

/// Layers of one origin.
pub struct Source {
    /// For the tables.
    pub name: &'static str,
    /// At least one, all of one shape.
    pub layers: Vec<Layer>,
}

/// All layers of the model over windows of `len` bytes from the start of the text.
pub fn of_model(model: &Model, text: &[u8], len: usize, windows: usize) -> Result<Source> {
    let mut capture = Capture(Vec::new());
    for window in 0..windows {
        model.bits_per_byte(&text[window * len..][..=len], &mut capture)?;
    }
    Ok(Source { name: "model", layers: capture.0 })
}

struct Capture(Vec<Layer>);

impl Attention for Capture {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        let (q_heads, len, head_dim) = heads.q.dims3()?;
        let shape = shape((q_heads, heads.k.dim(0)?, head_dim), len);
        self.0.push(Layer { shape, q: rounded(heads.q)?, k: rounded(heads.k)?, v: rounded(heads.v)? });
        Exact.attend(heads)
    }
}

fn shape((q_heads, kv_heads, head_dim): (usize, usize, usize), len: usize) -> AttentionShape {
    AttentionShape { batch: 1, q_heads, kv_heads, q_len: len, kv_len: len, head_dim, dtype: DType::BF16 }
}

/// Made-up layers of `len` tokens: independent rows; rows around common centres; the same with an offset of all keys,
/// which changes no softmax.
pub fn made_up(len: usize) -> Vec<Source> {
    let layer = |name, clusters, offset| Source { name, layers: vec![normal_layer(len, clusters, offset)] };
    vec![layer("gaussian", false, false), layer("clusters", true, false), layer("clusters, keys offset", true, true)]
}

fn normal_layer(len: usize, clusters: bool, offset: bool) -> Layer {
    let (q_heads, kv_heads, dim) = MADE_UP;
    let normal = |stream: u64, rows: usize| hyper::projections(SEEDS + stream, 0, rows, dim);
    let (count, spread) = CLUSTERS;
    // All heads share the centres, so that queries and keys have the same ones.
    let centres = normal(0, count);
    let rows = |stream: u64, heads: usize| {
        let mut rows = normal(stream, heads * len);
        if clusters {
            let drawn = hyper::samples(SEEDS + stream, 0, 0, heads * len, count);
            for (row, centre) in rows.chunks_exact_mut(dim).zip(drawn) {
                row.iter_mut().zip(&centres[centre * dim..]).for_each(|(x, centre)| *x = centre + spread * *x);
            }
        }
        rows
    };
    let (q, mut k, v) = (rows(1, q_heads), rows(2, kv_heads), normal(3, kv_heads * len));
    if offset {
        let added = normal(4, 1);
        k.iter_mut().enumerate().for_each(|(i, x)| *x += OFFSET * added[i % dim]);
    }
    let narrow = |values: Vec<f32>| values.into_iter().map(bf16::from_f32).collect();
    Layer { shape: shape(MADE_UP, len), q: narrow(q), k: narrow(k), v: narrow(v) }
}
