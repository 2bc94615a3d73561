//! The prefill gate: blocks of queries against blocks of keys.

use super::lists::{List, Selection};
use super::vectors::{Pool, Rotation, logit, pooled, projected, rotated};
use crate::error::{Error, Result};
use crate::reference::problem::check_len;
use crate::shape::AttentionShape;

/// SeerAttention's gate over one call. Tensors are contiguous and have the values that the kernels were given.
///
/// Blocks count absolute positions: query `t` stands at `t + kv_len - q_len`, and row `r` of the gate is block
/// `(kv_len - q_len) / block + r`, pooled over the queries of the call that lie in it.
#[derive(Debug, Clone, Copy)]
pub struct PrefillGate<'a> {
    /// Sizes of the call; at most as many queries as keys.
    pub shape: AttentionShape,
    /// Whether a row sees blocks up to its own only.
    pub causal: bool,
    /// Tokens of a block.
    pub block: usize,
    /// Elements of a gate vector.
    pub gate_dim: usize,
    /// `[batch, q_heads, q_len, head_dim]`, before the model's rotation.
    pub q: &'a [f64],
    /// `[batch, kv_heads, kv_len, head_dim]`, likewise.
    pub k: &'a [f64],
    /// What a block of queries becomes.
    pub q_pools: &'a [Pool],
    /// What a block of keys becomes.
    pub k_pools: &'a [Pool],
    /// `[q_heads, head_dim * pools, gate_dim]`; without it the pools are the vector.
    pub w_q: Option<&'a [f64]>,
    /// `[q_heads or kv_heads, head_dim * pools, gate_dim]`
    pub w_k: &'a [f64],
    /// Of gate vectors, at the first position of their block.
    pub rotation: Option<Rotation<'a>>,
}

impl PrefillGate<'_> {
    /// Rows of the gate: blocks that hold a query.
    pub fn rows(&self) -> usize {
        if self.shape.q_len == 0 { 0 } else { self.kv_blocks() - self.first_row() }
    }

    /// Blocks that hold a key.
    pub fn kv_blocks(&self) -> usize {
        self.shape.kv_len.div_ceil(self.block)
    }

    fn first_row(&self) -> usize {
        (self.shape.kv_len - self.shape.q_len) / self.block
    }

    fn k_heads(&self) -> usize {
        self.w_k.len() / (self.k_pools.len() * self.shape.head_dim * self.gate_dim).max(1)
    }

    fn validate(&self) -> Result<()> {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = self.shape;
        self.shape.validate()?;
        if q_len > kv_len {
            let expected = format!("at most kv_len ({kv_len})");
            return Err(Error::Value { what: "q_len", expected, got: q_len.to_string() });
        }
        if self.block == 0 {
            return Err(Error::Value { what: "block", expected: "at least 1".into(), got: "0".into() });
        }
        check_len("q", self.q, &[batch, q_heads, q_len, head_dim])?;
        check_len("k", self.k, &[batch, kv_heads, kv_len, head_dim])?;
        let q_inputs = self.q_pools.len() * head_dim;
        match self.w_q {
            Some(w_q) => check_len("w_q", w_q, &[q_heads, q_inputs, self.gate_dim])?,
            None if q_inputs != self.gate_dim => {
                let expected = format!("{q_inputs}, the elements of the pooled queries, without w_q");
                return Err(Error::Value { what: "gate_dim", expected, got: self.gate_dim.to_string() });
            }
            None => {}
        }
        let heads = if self.k_heads() == kv_heads { kv_heads } else { q_heads };
        check_len("w_k", self.w_k, &[heads, self.k_pools.len() * head_dim, self.gate_dim])?;
        let frequencies = self.rotation.map_or(self.gate_dim / 2, |rotation| rotation.frequencies.len());
        if frequencies != self.gate_dim / 2 {
            let expected = format!("{} frequencies", self.gate_dim / 2);
            return Err(Error::Shape { what: "rotation", expected, got: frequencies.to_string() });
        }
        Ok(())
    }

    /// The gate vector of row `r`.
    fn query(&self, b: usize, h: usize, r: usize) -> Vec<f64> {
        let AttentionShape { q_heads, q_len, kv_len, head_dim, .. } = self.shape;
        let (block, start) = (self.first_row() + r, kv_len - q_len);
        let first = (block * self.block).max(start) - start;
        let end = ((block + 1) * self.block).min(kv_len) - start;
        let head = &self.q[(b * q_heads + h) * q_len * head_dim..][..q_len * head_dim];
        let features = pooled(&head[first * head_dim..end * head_dim], head_dim, self.q_pools);
        let vector = match self.w_q {
            Some(w_q) => projected(&features, w_q, h, self.gate_dim),
            None => features,
        };
        rotated(vector, self.rotation.as_ref(), block * self.block)
    }

    /// The gate vector of key block `j` for query head `h`.
    fn key(&self, b: usize, h: usize, j: usize) -> Vec<f64> {
        let AttentionShape { q_heads, kv_heads, kv_len, head_dim, .. } = self.shape;
        let (first, end) = (j * self.block, ((j + 1) * self.block).min(kv_len));
        let kv_head = h * kv_heads / q_heads;
        let head = &self.k[(b * kv_heads + kv_head) * kv_len * head_dim..][..kv_len * head_dim];
        let features = pooled(&head[first * head_dim..end * head_dim], head_dim, self.k_pools);
        let of_weight = if self.k_heads() == kv_heads { kv_head } else { h };
        rotated(projected(&features, self.w_k, of_weight, self.gate_dim), self.rotation.as_ref(), first)
    }

    /// `[batch, q_heads, rows, KV blocks]`, -inf where a row does not see a block.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] names what does not fit the shape.
    pub fn logits(&self) -> Result<Vec<f64>> {
        self.validate()?;
        let mut logits = Vec::new();
        for (b, h) in (0..self.shape.batch).flat_map(|b| (0..self.shape.q_heads).map(move |h| (b, h))) {
            let keys: Vec<Vec<f64>> = (0..self.kv_blocks()).map(|j| self.key(b, h, j)).collect();
            for r in 0..self.rows() {
                let query = self.query(b, h, r);
                let seen = |j: usize| !self.causal || j <= self.first_row() + r;
                let of = |(j, key): (usize, &Vec<f64>)| if seen(j) { logit(&query, key) } else { f64::NEG_INFINITY };
                logits.extend(keys.iter().enumerate().map(of));
            }
        }
        Ok(logits)
    }

    /// The lists of a plan: for each sequence, plan head (query head, or KV head when shared) and row.
    ///
    /// # Errors
    /// As [`PrefillGate::logits`].
    pub fn lists(&self, selection: &Selection) -> Result<Vec<List>> {
        let logits = self.logits()?;
        let AttentionShape { batch, q_heads, kv_heads, .. } = self.shape;
        let (rows, blocks) = (self.rows(), self.kv_blocks());
        let plan_heads = if selection.share_heads { kv_heads } else { q_heads };
        let of_plan_head = q_heads / plan_heads;
        let mut lists = Vec::new();
        for (b, p, r) in (0..batch).flat_map(|b| (0..plan_heads).flat_map(move |p| (0..rows).map(move |r| (b, p, r)))) {
            let row = self.first_row() + r;
            let sees = |j: usize| !self.causal || j <= row;
            let members: Vec<Vec<Option<f64>>> = (p * of_plan_head..(p + 1) * of_plan_head)
                .map(|h| {
                    let logits = &logits[((b * q_heads + h) * rows + r) * blocks..][..blocks];
                    logits.iter().enumerate().map(|(j, &logit)| sees(j).then_some(logit)).collect()
                })
                .collect();
            let dense = blocks - row <= selection.last_rows_dense;
            let forced =
                |j: usize| sees(j) && (dense || j < selection.sink_blocks || (selection.force_diagonal && j == row));
            lists.push(List::new(&members, (0..blocks).map(forced).collect(), selection.rule, blocks));
        }
        Ok(lists)
    }
}
