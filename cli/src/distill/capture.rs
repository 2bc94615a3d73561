//! Where windows come from: a model that reads text, or a file of captured tensors.

use super::examples::{Example, Window, block_maxima, rows, shape};
use super::recipe::Recipe;
use crate::failure::{Failure, Result, request};
use crate::files::TensorFile;
use crate::model::{Attention, Heads, Model};
use crate::training::Random;
use candle_core::Tensor;
use indicatif::ProgressBar;
use lacuna::{BlockPlan, ForwardOptions, Schedule, Stream, attention, bf16};
use safetensors::{Dtype, SafeTensors};

/// A name for data: FNV-1a over the parts and their lengths, 64 bits.
pub fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        let length = (part.len() as u64).to_le_bytes();
        for &byte in length.iter().chain(part.iter()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

/// Runs the model over windows of a text, drawn without repetition, with attention by lacuna's kernels.
pub fn from_model(
    stream: &Stream,
    recipe: &Recipe,
    model: &Model,
    text: &[u8],
    bar: &ProgressBar,
) -> Result<Vec<Window>> {
    let all = (text.len() - 1) / recipe.window;
    let mut order = Random::new(recipe.seed, &[0]).shuffled(all);
    order.truncate(recipe.windows);
    let window = |(number, place): (usize, usize)| {
        let rows = rows(recipe, number);
        let mut capture = Capture { stream, recipe, rows: &rows, layers: Vec::new() };
        model.bits_per_byte(&text[place * recipe.window..][..recipe.window + 1], &mut capture)?;
        bar.inc(1);
        let layers = capture.layers;
        Ok(Window { rows, layers })
    };
    order.into_iter().enumerate().map(window).collect()
}

/// Dense attention that keeps what the gates of each layer learn from.
struct Capture<'a> {
    stream: &'a Stream,
    recipe: &'a Recipe,
    rows: &'a [usize],
    layers: Vec<Example>,
}

impl Attention for Capture<'_> {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        let rounded = |x: &Tensor| -> Result<Vec<bf16>> {
            Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(bf16::from_f32).collect())
        };
        let sequence = Sequence {
            gate_q: rounded(heads.gate_q)?,
            gate_k: rounded(heads.gate_k)?,
            q: rounded(heads.q)?,
            k: rounded(heads.k)?,
        };
        let v = rounded(heads.v)?;
        let (example, out) = sequence.learn(self.stream, self.recipe, self.rows, Some(&v))?;
        self.layers.push(example);
        let out: Vec<f32> = out.into_iter().map(|x| x.to_f32()).collect();
        Ok(Tensor::from_vec(out, heads.q.dims3()?, heads.q.device())?)
    }
}

/// One layer of one window, packed.
struct Sequence {
    gate_q: Vec<bf16>,
    gate_k: Vec<bf16>,
    q: Vec<bf16>,
    k: Vec<bf16>,
}

impl Sequence {
    /// Dense attention for its LSE, then the maxima. Returns what it gives for `v` as well; without `v`, nothing.
    fn learn(
        &self,
        stream: &Stream,
        recipe: &Recipe,
        rows: &[usize],
        v: Option<&[bf16]>,
    ) -> Result<(Example, Vec<bf16>)> {
        let shape = shape(recipe);
        let q_dims = [1, shape.q_heads, shape.q_len, shape.head_dim];
        let kv_dims = [1, shape.kv_heads, shape.kv_len, shape.head_dim];
        let q = lacuna::Tensor::from_slice(stream, &self.q, q_dims)?;
        let k = lacuna::Tensor::from_slice(stream, &self.k, kv_dims)?;
        let values = v.map(|v| lacuna::Tensor::from_slice(stream, v, kv_dims)).transpose()?;
        let (options, plan) = (ForwardOptions::causal(), BlockPlan::dense());
        let schedule = Schedule::build(stream, &shape, &options, &plan)?;
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
        let mut out = lacuna::Tensor::<bf16>::uninit(stream, q_dims)?;
        let mut lse = lacuna::Tensor::<f32>::uninit(stream, [1, shape.q_heads, shape.q_len, 1])?;
        attention::forward(
            stream,
            &shape,
            &options,
            &plan,
            &schedule,
            q.view(),
            k.view(),
            values.as_ref().unwrap_or(&k).view(),
            out.view_mut(),
            Some(lse.view_mut()),
            &mut workspace,
        )?;
        let maxima = block_maxima(stream, recipe, &q, &k, &lse, rows)?;
        if maxima.iter().any(|p| !p.is_finite()) {
            return Err(Failure::Failed("distill: the attention map is not finite".into()));
        }
        let example = Example::new(stream, recipe, &self.gate_q, &self.gate_k, rows, maxima)?;
        Ok((example, if v.is_some() { out.to_vec(stream)? } else { Vec::new() }))
    }
}

/// Sizes of a file of captured tensors.
pub struct Sizes {
    pub layers: usize,
    pub windows: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub window: usize,
    pub head_dim: usize,
}

/// The tensors of a layer, in this order.
const CAPTURED: [&str; 4] = ["gate_q", "gate_k", "q", "k"];

/// `layers.{i}.` as long as there are such layers; the names alone where there are none.
fn prefixes(tensors: &SafeTensors<'_>) -> Vec<String> {
    let layers = |i: &usize| tensors.tensor(&format!("layers.{i}.q")).is_ok();
    let found: Vec<String> = (0..).take_while(layers).map(|i| format!("layers.{i}.")).collect();
    if found.is_empty() { vec![String::new()] } else { found }
}

/// Checks the tensors of a file against each other.
pub fn sizes(file: &TensorFile) -> Result<Sizes> {
    let tensors = file.tensors()?;
    let prefixes = prefixes(&tensors);
    let (_, [windows, q_heads, window, head_dim]) = file.float_tensor::<4>(&tensors, &format!("{}q", prefixes[0]))?;
    let (_, [_, kv_heads, ..]) = file.float_tensor::<4>(&tensors, &format!("{}k", prefixes[0]))?;
    if [windows, q_heads, window, head_dim, kv_heads].contains(&0) || !q_heads.is_multiple_of(kv_heads) {
        return Err(file.error(format_args!(
            "tensors q {:?} and k with {kv_heads} heads: expected no size of 0 and whole groups of query heads",
            [windows, q_heads, window, head_dim]
        )));
    }
    for prefix in &prefixes {
        for (name, heads) in CAPTURED.into_iter().zip([q_heads, kv_heads, q_heads, kv_heads]) {
            let name = format!("{prefix}{name}");
            let (_, dims) = file.float_tensor::<4>(&tensors, &name)?;
            let expected = [windows, heads, window, head_dim];
            if dims != expected {
                return Err(file.error(format_args!("tensor `{name}` must be {expected:?}, got {dims:?}")));
            }
        }
    }
    Ok(Sizes { layers: prefixes.len(), windows, q_heads, kv_heads, window, head_dim })
}

/// The windows of a file.
pub fn from_file(stream: &Stream, recipe: &Recipe, file: &TensorFile, bar: &ProgressBar) -> Result<Vec<Window>> {
    let tensors = file.tensors()?;
    let prefixes = prefixes(&tensors);
    let window = |number: usize| {
        let rows = rows(recipe, number);
        let mut layers = Vec::new();
        for prefix in &prefixes {
            let part = |name: &str| -> Result<Vec<bf16>> {
                let (view, dims): (_, [usize; 4]) = file.float_tensor(&tensors, &format!("{prefix}{name}"))?;
                let size = dims[1] * dims[2] * dims[3];
                let values = numbers(view.dtype(), view.data(), number * size, size);
                if values.iter().any(|x| !x.is_finite()) {
                    return request!("tensor `{prefix}{name}` holds a value that is not finite as bf16");
                }
                Ok(values)
            };
            let [gate_q, gate_k, q, k] = CAPTURED.map(part);
            let sequence = Sequence { gate_q: gate_q?, gate_k: gate_k?, q: q?, k: k? };
            layers.push(sequence.learn(stream, recipe, &rows, None)?.0);
        }
        bar.inc(1);
        Ok(Window { rows, layers })
    };
    (0..recipe.windows).map(window).collect()
}

/// `len` elements from `first` on, rounded to bf16.
fn numbers(dtype: Dtype, bytes: &[u8], first: usize, len: usize) -> Vec<bf16> {
    let pairs = || bytes[2 * first..][..2 * len].chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        Dtype::BF16 => pairs().map(bf16::from_le_bytes).collect(),
        Dtype::F16 => pairs().map(|b| bf16::from_f32(lacuna::f16::from_le_bytes(b).to_f32())).collect(),
        _ => {
            let words = bytes[4 * first..][..4 * len].chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            words.map(|b| bf16::from_f32(f32::from_le_bytes(b))).collect()
        }
    }
}
