//! The decode gate (SeerAttention-R): the newest tokens of each sequence against blocks of its keys.

use super::lists::{List, Selection};
use super::vectors::{Pool, Rotation, logit, normalised, pooled, projected, rotated};
use crate::error::{Error, Result};
use crate::reference::problem::check_len;
use crate::shape::AttentionShape;

/// SeerAttention-R's gate for one step. Tensors are contiguous and have the values that the kernels were given.
///
/// Query `t` of a sequence of `len` keys stands at `len - q_len + t`; where that is negative it is not there.
#[derive(Debug, Clone, Copy)]
pub struct DecodeGate<'a> {
    /// Sizes of the call; `kv_len` is that of the longest sequence, or more.
    pub shape: AttentionShape,
    /// Keys of each sequence, the newest tokens included.
    pub lens: &'a [usize],
    /// Keys of a block.
    pub block: usize,
    /// Elements of a gate vector.
    pub gate_dim: usize,
    /// `[batch, q_heads, q_len, head_dim]`, before the model's rotation.
    pub q: &'a [f64],
    /// `[batch, kv_heads, kv_len, head_dim]`, likewise; what lies behind a sequence's end is not read.
    pub k: &'a [f64],
    /// What a block of keys becomes.
    pub k_pools: &'a [Pool],
    /// `[kv_heads, group * head_dim, gate_dim]`: the query heads of a group are joined.
    pub w_q: &'a [f64],
    /// `[kv_heads, head_dim * pools, gate_dim]`
    pub w_k: &'a [f64],
    /// `[gate_dim]` of an RMS norm of query vectors, before the rotation.
    pub q_norm: Option<&'a [f64]>,
    /// `[gate_dim]` of key vectors.
    pub k_norm: Option<&'a [f64]>,
    /// Added to the mean square.
    pub norm_eps: f64,
    /// Of gate vectors: of queries at their position, of keys at the first position of their block.
    pub rotation: Option<Rotation<'a>>,
    /// What the published code does, given the tokens of each sequence that came as a prompt: blocks that completed
    /// after it are rotated at their last position, and the open block takes part with a logit of 0. `None`: as
    /// trained, where the block of a query takes no part.
    pub compat: Option<&'a [usize]>,
}

impl DecodeGate<'_> {
    /// Blocks that hold a key of the longest sequence.
    pub fn kv_blocks(&self) -> usize {
        self.shape.kv_len.div_ceil(self.block)
    }

    fn validate(&self) -> Result<()> {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = self.shape;
        self.shape.validate()?;
        if self.block == 0 {
            return Err(Error::Value { what: "block", expected: "at least 1".into(), got: "0".into() });
        }
        check_len("q", self.q, &[batch, q_heads, q_len, head_dim])?;
        check_len("k", self.k, &[batch, kv_heads, kv_len, head_dim])?;
        check_len("w_q", self.w_q, &[q_heads, head_dim, self.gate_dim])?;
        check_len("w_k", self.w_k, &[kv_heads, self.k_pools.len() * head_dim, self.gate_dim])?;
        for (what, norm) in [("q_norm", self.q_norm), ("k_norm", self.k_norm)] {
            norm.map_or(Ok(()), |norm| check_len(what, norm, &[self.gate_dim]))?;
        }
        let prompts = self.compat.map_or(batch, <[usize]>::len);
        if self.lens.len() != batch || prompts != batch || self.lens.iter().any(|&len| len > kv_len) {
            let got = format!("{:?}, {:?}", self.lens, self.compat);
            let expected = format!("{batch} lengths of at most {kv_len}, and as many prompts");
            return Err(Error::Shape { what: "lens", expected, got });
        }
        let frequencies = self.rotation.map_or(self.gate_dim / 2, |rotation| rotation.frequencies.len());
        if frequencies != self.gate_dim / 2 {
            let expected = format!("{} frequencies", self.gate_dim / 2);
            return Err(Error::Shape { what: "rotation", expected, got: frequencies.to_string() });
        }
        Ok(())
    }

    /// Where query `t` stands; `None` before the sequence begins.
    fn position(&self, b: usize, t: usize) -> Option<usize> {
        (self.lens[b] + t).checked_sub(self.shape.q_len)
    }

    /// The gate vector of query `t` for KV head `g`.
    fn query(&self, b: usize, g: usize, t: usize, position: usize) -> Vec<f64> {
        let AttentionShape { q_heads, q_len, head_dim, .. } = self.shape;
        let group = self.shape.group();
        let head = |h: usize| &self.q[((b * q_heads + h) * q_len + t) * head_dim..][..head_dim];
        let joined: Vec<f64> = (g * group..(g + 1) * group).flat_map(head).copied().collect();
        let vector = normalised(projected(&joined, self.w_q, g, self.gate_dim), self.q_norm, self.norm_eps);
        rotated(vector, self.rotation.as_ref(), position)
    }

    /// The gate vector of key block `j`.
    fn key(&self, b: usize, g: usize, j: usize) -> Vec<f64> {
        let AttentionShape { kv_heads, kv_len, head_dim, .. } = self.shape;
        let (first, end) = (j * self.block, (j + 1) * self.block);
        let head = &self.k[(b * kv_heads + g) * kv_len * head_dim..][..kv_len * head_dim];
        let features = pooled(&head[first * head_dim..end.min(self.lens[b]) * head_dim], head_dim, self.k_pools);
        let vector = normalised(projected(&features, self.w_k, g, self.gate_dim), self.k_norm, self.norm_eps);
        let completed_later = self.compat.is_some_and(|prompts| end > prompts[b]);
        rotated(vector, self.rotation.as_ref(), if completed_later { end - 1 } else { first })
    }

    /// What query `t` of a sequence scores the blocks that compete, for each KV head; `None`: it takes no part.
    fn scores(&self, b: usize, g: usize, t: usize) -> Vec<Option<f64>> {
        let mut scores = vec![None; self.kv_blocks()];
        let Some(position) = self.position(b, t) else { return scores };
        let query = self.query(b, g, t, position);
        let current = position / self.block;
        for (j, score) in scores.iter_mut().enumerate().take(current + 1) {
            let open = (j + 1) * self.block > self.lens[b];
            *score = match self.compat {
                None if j == current => None,
                Some(_) if open => Some(0.0),
                _ => Some(logit(&query, &self.key(b, g, j))),
            };
        }
        scores
    }

    /// `[batch, kv_heads, q_len, KV blocks]`: the logits of the blocks that compete, -inf elsewhere.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] names what does not fit the shape.
    pub fn logits(&self) -> Result<Vec<f64>> {
        self.validate()?;
        let rows = self.heads().flat_map(|(b, g)| (0..self.shape.q_len).map(move |t| (b, g, t)));
        let scores = rows.flat_map(|(b, g, t)| self.scores(b, g, t));
        Ok(scores.map(|score| score.unwrap_or(f64::NEG_INFINITY)).collect())
    }

    /// The lists of a plan: one for each sequence and KV head, for all of its queries. Of the selection `rule` and
    /// `sink_blocks` apply; the block of each query is forced.
    ///
    /// # Errors
    /// As [`DecodeGate::logits`].
    pub fn lists(&self, selection: &Selection) -> Result<Vec<List>> {
        self.validate()?;
        let list = |(b, g): (usize, usize)| {
            let members: Vec<Vec<Option<f64>>> = (0..self.shape.q_len).map(|t| self.scores(b, g, t)).collect();
            let blocks: Vec<usize> = (0..self.shape.q_len)
                .filter_map(|t| self.position(b, t))
                .map(|position| position / self.block)
                .collect();
            let last = blocks.iter().max().copied();
            let forced =
                |j: usize| blocks.contains(&j) || (j < selection.sink_blocks && last.is_some_and(|last| j <= last));
            let forced = (0..self.kv_blocks()).map(forced).collect();
            List::new(&members, forced, selection.rule, self.lens[b].div_ceil(self.block))
        };
        Ok(self.heads().map(list).collect())
    }

    fn heads(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (batch, kv_heads) = (self.shape.batch, self.shape.kv_heads);
        (0..batch).flat_map(move |b| (0..kv_heads).map(move |g| (b, g)))
    }
}
