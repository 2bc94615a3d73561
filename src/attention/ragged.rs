//! Sequences of different lengths in one call.

use crate::error::{Error, Result};
use crate::kernels::bindings as abi;
use crate::shape::AttentionShape;
use crate::tensor::TensorView;

/// Lengths of the sequences of a batch, in device memory.
///
/// `shape.q_len` and `shape.kv_len` are the longest that a sequence may be; plans are made for them. Query `t` of
/// sequence `b` stands at key position `t + keys of b - queries of b`; one that stands before its first key sees
/// nothing under a causal mask. Plan rows and schedules belong to the longest sequence: row `i` of a list is query
/// block `i` of each sequence, and rows behind the end of one are not read.
///
/// The lengths are data, and a CUDA graph may be replayed with others: what contradicts the sizes of the tensors or of
/// the shape is cut, and no value leads to an access out of bounds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ragged<'a> {
    /// `[1, 1, 1, batch + 1]`: the queries of sequence `b` are the rows `cu_seqlens_q[b] .. cu_seqlens_q[b + 1]` of
    /// `q`, `out` and `lse`, which are `[1, q_heads, rows, head_dim or 1]`. Rows of no sequence are not written.
    /// `None`: every sequence has `q_len` queries.
    pub cu_seqlens_q: Option<TensorView<'a, i32>>,
    /// `[1, 1, 1, batch + 1]`: the same for `k` and `v`, which are `[1, kv_heads, rows, head_dim]`. Goes neither with
    /// `kv_lens` nor with pages.
    pub cu_seqlens_k: Option<TensorView<'a, i32>>,
    /// `[1, 1, 1, batch]`: keys of each sequence, which stand at the start of its `kv_len` rows or pages. `None`, and
    /// no `cu_seqlens_k`: every sequence has `kv_len` keys.
    pub kv_lens: Option<TensorView<'a, i32>>,
}

impl<'a> Ragged<'a> {
    /// Whether some length is on the device.
    pub fn is_any(&self) -> bool {
        self.vectors().iter().any(|(_, vector)| vector.is_some())
    }

    /// Checks the vectors against a shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for a vector of another length, [`Error::Value`] for lengths that exclude each other.
    pub fn validate(&self, shape: &AttentionShape) -> Result<()> {
        for (what, vector) in self.vectors() {
            let len = shape.batch + usize::from(what != "kv_lens");
            if let Some(vector) = vector
                && vector.dims() != [1, 1, 1, len]
            {
                let expected = format!("[1, 1, 1, {len}]");
                return Err(Error::Shape { what, expected, got: format!("{:?}", vector.dims()) });
            }
        }
        if self.cu_seqlens_k.is_some() && self.kv_lens.is_some() {
            let expected = "kv_lens or cu_seqlens_k, not both".into();
            return Err(Error::Value { what: "kv_lens", expected, got: "both".into() });
        }
        Ok(())
    }

    pub(super) fn vectors(&self) -> [(&'static str, Option<TensorView<'a, i32>>); 3] {
        [("cu_seqlens_q", self.cu_seqlens_q), ("cu_seqlens_k", self.cu_seqlens_k), ("kv_lens", self.kv_lens)]
    }

    /// Completes a shape that this was validated against. Packed rows are counted where the tensors are.
    pub(super) fn fill(&self, shape: &mut abi::lacuna_shape) {
        let pointer = |vector: Option<TensorView<'_, i32>>| vector.map_or(std::ptr::null(), |vector| vector.as_ptr());
        shape.cu_seqlens_q = pointer(self.cu_seqlens_q);
        shape.cu_seqlens_k = pointer(self.cu_seqlens_k);
        shape.kv_lens = pointer(self.kv_lens);
    }
}
