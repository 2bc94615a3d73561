//! The tensors of a decode request, checked before any device work.

use super::gate::Gate;
use crate::attend::{Pattern, Qkv};
use crate::config::{DecodeKeys, DecodeMethod};
use crate::failure::{Result, request};
use crate::files::TensorFile;
use lacuna::{AttentionShape, Half, Mask};
use safetensors::Dtype;
use std::ops::Range;

/// Tokens of a sequence.
pub type Tokens = Range<usize>;

/// What decides which keys a token reads.
pub enum Planner<T> {
    /// A pattern that is known from the start, over whole sequences.
    Pattern(Pattern),
    /// SeerAttention-R: the prompt is dense, then a gate picks blocks for each token.
    Gate(Box<Gate<T>>),
}

/// A request that makes sense.
pub struct Request<T> {
    /// q, k and v of whole sequences.
    pub qkv: Qkv<T>,
    /// Tokens of each sequence; empty if the file has no query.
    pub lens: Vec<usize>,
    /// Those of them that are prefilled.
    pub prompts: Vec<usize>,
    /// Who picks the keys.
    pub planner: Planner<T>,
}

impl<T: Half> Request<T> {
    /// Reads and checks what the method needs.
    pub fn read(file: &TensorFile, keys: &DecodeKeys, method: &DecodeMethod) -> Result<Self> {
        let qkv = Qkv::read(file)?;
        let AttentionShape { q_len, kv_len, .. } = qkv.shape;
        Mask::CAUSAL.validate(&qkv.shape)?;
        let planner = match method {
            DecodeMethod::Pattern(keys) => Planner::Pattern(Pattern::read(file, keys, &qkv.shape)?),
            DecodeMethod::Seer(keys) => Planner::Gate(Box::new(Gate::read(file, &qkv.shape, keys)?)),
        };
        // Keys before the first query of the file are a prompt whose outputs nobody wants.
        let past = kv_len - q_len;
        let lens = lens(file, &qkv.shape)?;
        let prompts: Vec<usize> = match keys.prompt {
            None => lens.iter().map(|len| len.saturating_sub(1).max(past)).collect(),
            Some(prompt) if !(past..=kv_len).contains(&prompt) => {
                return request!(
                    "config: prompt must be in {past}..={kv_len} for {q_len} queries and {kv_len} keys, got {prompt}"
                );
            }
            Some(prompt) => lens.iter().map(|&len| prompt.min(len)).collect(),
        };
        Ok(Self { qkv, lens, prompts, planner })
    }

    /// Keys that have no query in the file.
    pub fn past(&self) -> usize {
        self.qkv.shape.kv_len - self.qkv.shape.q_len
    }

    /// The most tokens that a sequence decodes.
    pub fn most_decoded(&self) -> usize {
        self.prompts.iter().zip(&self.lens).map(|(prompt, len)| len - prompt).max().unwrap_or(0)
    }

    /// Rows of `q` (shaped as the file's) `[tokens.len(), q_heads, q_len, head_dim]`: `q_len` tokens of each sequence
    /// from `first` on, or none, which gives rows of 0.
    pub fn queries(&self, q: &[T], tokens: &[Tokens], first: usize, q_len: usize) -> Vec<T> {
        let shape = self.qkv.shape;
        let mut rows = vec![T::from_f32(0.0); tokens.len() * shape.q_heads * q_len * shape.head_dim];
        for (i, tokens) in tokens.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
            for h in 0..shape.q_heads {
                let from = ((first + i) * shape.q_heads + h) * shape.q_len + tokens.start - self.past();
                let to = (i * shape.q_heads + h) * q_len;
                let [from, to, len] = [from, to, q_len].map(|rows| rows * shape.head_dim);
                rows[to..to + len].copy_from_slice(&q[from..from + len]);
            }
        }
        rows
    }
}

/// `kv_lens [batch]`, or full lengths if the file has none.
fn lens(file: &TensorFile, shape: &AttentionShape) -> Result<Vec<usize>> {
    let tensors = file.tensors()?;
    let Ok(view) = tensors.tensor("kv_lens") else {
        // A batch of any size fits in a file without queries.
        let sequences = if shape.q_len == 0 { 0 } else { shape.batch };
        return Ok(vec![shape.kv_len; sequences]);
    };
    if view.shape() != [shape.batch] {
        let got = view.shape();
        return Err(file.error(format_args!("tensor `kv_lens` must be [{}] (sequences), got {got:?}", shape.batch)));
    }
    let data = view.data();
    let values: Vec<i64> = match view.dtype() {
        Dtype::I32 => data.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect(),
        Dtype::I64 => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        other => return Err(file.error(format_args!("tensor `kv_lens` must be I32 or I64, got {other:?}"))),
    };
    if shape.q_len != shape.kv_len {
        return Err(file.error(format_args!(
            "with `kv_lens`, `q` must have a row for each key, got {} rows and {} keys",
            shape.q_len, shape.kv_len
        )));
    }
    let len = |&value: &i64| usize::try_from(value).ok().filter(|&len| len <= shape.kv_len).ok_or(value);
    values.iter().map(len).collect::<std::result::Result<_, _>>().map_err(|value| {
        file.error(format_args!("the values of tensor `kv_lens` must be in 0..={}, got {value}", shape.kv_len))
    })
}
