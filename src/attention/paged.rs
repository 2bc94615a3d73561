//! K and V in pages.

use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::shape::AttentionShape;
use crate::tensor::TensorView;

/// K and V as pages of a pool that a block table maps each sequence onto.
///
/// With it `k` and `v` of [`forward`](super::forward()) are `[pages, kv_heads, page_size, head_dim]`: key `t` of
/// sequence `b` and KV head `h` is row `t % page_size` of page `block_table[b, h, 0, t / page_size]`. Sequences may
/// share pages. Pages beyond those that the first `kv_len` keys need are not read, and the rows of the last one behind
/// `kv_len` have no effect, whatever they hold.
///
/// The table is data: nobody attends the keys of an id outside `0..pages`, as if they were masked. Plans, schedules and
/// the choice of the kernel do not depend on what it holds, and blocks and positions are still those of the keys.
#[derive(Debug, Clone, Copy)]
pub struct PagedKv<'a> {
    /// `[batch, kv_heads or 1, 1, ceil(kv_len / page_size)]`: page ids. One head: all KV heads share the table.
    pub block_table: TensorView<'a, i32>,
    /// Keys of a page, a multiple of 16.
    pub page_size: usize,
}

impl PagedKv<'_> {
    /// Checks page size and table against a shape.
    ///
    /// # Errors
    /// [`Error::Value`] for the page size, [`Error::Shape`] for the table.
    pub fn validate(&self, shape: &AttentionShape) -> Result<()> {
        if !(16..=1 << 30).contains(&self.page_size) || !self.page_size.is_multiple_of(16) {
            return Err(Error::Value {
                what: "page_size",
                expected: "a multiple of 16 in 16..=2^30".into(),
                got: self.page_size.to_string(),
            });
        }
        let [batch, heads, one, entries] = self.block_table.dims();
        let fits = batch == shape.batch
            && (heads == 1 || heads == shape.kv_heads)
            && one == 1
            && entries == shape.kv_len.div_ceil(self.page_size);
        if !fits {
            return Err(Error::Shape {
                what: "block_table",
                expected: format!(
                    "[{}, 1 or {}, 1, {}]",
                    shape.batch,
                    shape.kv_heads,
                    shape.kv_len.div_ceil(self.page_size)
                ),
                got: format!("{:?}", self.block_table.dims()),
            });
        }
        Ok(())
    }

    /// Completes a shape that this was validated against; `pages` must be at most 2^30.
    pub(super) fn fill(&self, shape: &mut abi::lacuna_shape, pages: usize) {
        let strides = convert::strides(&self.block_table.layout());
        shape.block_table = self.block_table.as_ptr();
        shape.block_table_batch_stride = strides.batch;
        shape.block_table_head_stride = if self.block_table.dims()[1] == 1 { 0 } else { strides.head };
        shape.page_size = self.page_size as i32;
        shape.pages = pages as i32;
    }
}
