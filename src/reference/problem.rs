//! The inputs of the reference and the logits it starts from.

use super::visibility::Visibility;
use crate::error::{Error, Result};
use crate::shape::AttentionShape;

/// One attention problem in f64. Tensors are contiguous; give them the values the kernel was given, that is, rounded
/// to the kernel's element type.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// Sizes; `dtype` is the type that the ideal low-precision algorithm rounds to.
    pub shape: AttentionShape,
    /// `[batch, q_heads, q_len, head_dim]`
    pub q: &'a [f64],
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub k: &'a [f64],
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub v: &'a [f64],
    /// Multiplies q . k; `None`: `1 / sqrt(head_dim)`.
    pub scale: Option<f64>,
    /// Logits become `cap * tanh(logit / cap)`; `None`: off.
    pub softcap: Option<f64>,
    /// `[q_heads]`: a logit that joins the denominator of every row of its head, with no value.
    pub sink: Option<&'a [f64]>,
}

/// A visible key of one query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub key: usize,
    /// The logit: scaled, capped, with the log-weight.
    pub logit: f64,
    /// d logit / d (scaled q . k): 1, or less where the cap bends it.
    pub slope: f64,
    /// Its softmax, once the row is known.
    pub p: f64,
}

impl<'a> Problem<'a> {
    /// A problem with the default scale, no cap and no sink.
    pub fn new(shape: AttentionShape, q: &'a [f64], k: &'a [f64], v: &'a [f64]) -> Self {
        Self { shape, q, k, v, scale: None, softcap: None, sink: None }
    }

    /// Elements of q and out, and of k and v.
    ///
    /// # Errors
    /// [`Error::Value`] for a bad shape or softcap, [`Error::Shape`] for a slice of another size.
    pub(super) fn validate(&self) -> Result<()> {
        let shape = &self.shape;
        shape.validate()?;
        if let Some(cap) = self.softcap.filter(|cap| !(*cap > 0.0 && cap.is_finite())) {
            return Err(Error::Value { what: "softcap", expected: "positive and finite".into(), got: cap.to_string() });
        }
        let query = [shape.batch, shape.q_heads, shape.q_len, shape.head_dim];
        let key = [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim];
        check_len("q", self.q, &query)?;
        check_len("k", self.k, &key)?;
        check_len("v", self.v, &key)?;
        self.sink.map_or(Ok(()), |sink| check_len("sink", sink, &[shape.q_heads]))
    }

    pub(super) fn scale(&self) -> f64 {
        self.scale.unwrap_or(1.0 / (self.shape.head_dim as f64).sqrt())
    }

    /// The sink logit of a query head; negative infinity when there is none.
    pub(super) fn sink_logit(&self, h: usize) -> f64 {
        self.sink.map_or(f64::NEG_INFINITY, |sink| sink[h])
    }

    /// Query `t` of query head `h`.
    pub(super) fn query(&self, b: usize, h: usize, t: usize) -> &'a [f64] {
        row(self.q, (b * self.shape.q_heads + h) * self.shape.q_len + t, self.shape.head_dim)
    }

    /// The keys or values `[kv_len, head_dim]` that query head `h` reads.
    pub(super) fn head<'t>(&self, tensor: &'t [f64], b: usize, h: usize) -> &'t [f64] {
        let size = self.shape.kv_len * self.shape.head_dim;
        &tensor[(b * self.shape.kv_heads + h / self.shape.group()) * size..][..size]
    }

    /// Fills `entries` with the visible keys of a query and their logits.
    pub(super) fn logits(&self, visible: &impl Visibility, [b, h, t]: [usize; 3], entries: &mut Vec<Entry>) {
        entries.clear();
        let (query, keys, scale) = (self.query(b, h, t), self.head(self.k, b, h), self.scale());
        visible.runs(b, h, t, &mut |run, log_weight| {
            if log_weight == f64::NEG_INFINITY {
                return;
            }
            for key in run {
                let scaled = scale * dot(query, row(keys, key, self.shape.head_dim));
                let (logit, slope) = match self.softcap {
                    None => (scaled, 1.0),
                    Some(cap) => {
                        let bent = (scaled / cap).tanh();
                        (cap * bent, 1.0 - bent * bent)
                    }
                };
                entries.push(Entry { key, logit: logit + log_weight, slope, p: 0.0 });
            }
        });
    }
}

/// f64 copies of f32, f16 or bf16 values.
pub fn widen<T: Copy + Into<f64>>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// Row `index` of a matrix with rows of `len` elements.
pub(super) fn row(matrix: &[f64], index: usize, len: usize) -> &[f64] {
    &matrix[index * len..][..len]
}

/// Checks the size of a contiguous tensor.
pub(super) fn check_len(what: &'static str, values: &[f64], dims: &[usize]) -> Result<()> {
    let elements = dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    if elements == Some(values.len()) {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{dims:?}"), got: format!("{} elements", values.len()) })
}

/// The inner product; eight partial sums, so that the compiler may use vector instructions.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a.zip(b) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    tail + sums.iter().sum::<f64>()
}

/// `sum += factor * x`.
pub(super) fn add_scaled(sum: &mut [f64], factor: f64, x: &[f64]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}

/// The largest magnitude of each row.
pub(super) fn row_maxima(matrix: &[f64], len: usize) -> Vec<f64> {
    matrix.chunks(len).map(|row| row.iter().fold(0.0, |max, x| x.abs().max(max))).collect()
}
