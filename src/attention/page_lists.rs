//! Page lists one behind the other, as FlashInfer and others keep them, to a block table.

use super::tensors::check_dims;
use crate::device::{Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::bindings as abi;
use crate::tensor::{TensorView, TensorViewMut};

/// The pages of the sequences of a batch as CSR lists in device memory, the form of FlashInfer's paged KV
/// (`kv_indptr`, `kv_indices`, `kv_last_page_len`).
///
/// The lists are data: what contradicts the sizes of the tensors is cut, and no value leads to an access out of bounds.
#[derive(Debug, Clone, Copy)]
pub struct PageLists<'a> {
    /// `[1, 1, 1, batch + 1]`: the pages of sequence `b` are `indices[indptr[b] .. indptr[b + 1]]`.
    pub indptr: TensorView<'a, i32>,
    /// `[1, 1, 1, any]`: page ids.
    pub indices: TensorView<'a, i32>,
    /// `[1, 1, 1, batch]`: keys in the last page of each sequence, `1 ..= page_size`; a sequence without pages has no
    /// keys.
    pub last_page_len: TensorView<'a, i32>,
}

impl PageLists<'_> {
    /// Writes the table that [`PagedKv`](super::PagedKv) takes and the lengths that [`Ragged`](super::Ragged) and
    /// [`decode`](super::decode()) take.
    ///
    /// `block_table` is `[batch, 1, 1, pages]`: as many as the longest sequence may have, so that the shapes of the
    /// calls that follow have at most `pages * page_size` keys. Entries behind a sequence's pages are -1. `kv_lens` is
    /// `[1, 1, 1, batch]`; no length is above `kv_len`. One launch, which never allocates or waits: a CUDA graph may
    /// hold it.
    ///
    /// # Errors
    /// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit.
    pub fn block_table_into(
        &self,
        stream: &Stream,
        page_size: usize,
        kv_len: usize,
        mut block_table: TensorViewMut<'_, i32>,
        mut kv_lens: TensorViewMut<'_, i32>,
    ) -> Result<()> {
        let [batch, _, _, max_pages] = block_table.dims();
        check_dims("block_table", block_table.dims(), [batch, 1, 1, max_pages])?;
        check_dims("indptr", self.indptr.dims(), [1, 1, 1, batch + 1])?;
        let indices = self.indices.dims()[3];
        check_dims("indices", self.indices.dims(), [1, 1, 1, indices])?;
        check_dims("last_page_len", self.last_page_len.dims(), [1, 1, 1, batch])?;
        check_dims("kv_lens", kv_lens.dims(), [1, 1, 1, batch])?;
        let most = 1 << 30;
        for (what, value) in [("page_size", page_size), ("pages", max_pages), ("batch", batch), ("indices", indices)] {
            if value > most || (what == "page_size" && value == 0) {
                return Err(Error::Value { what, expected: "in 1..=2^30".into(), got: value.to_string() });
            }
        }
        if kv_len > max_pages * page_size || kv_len > most {
            let expected = format!("at most {}, what {max_pages} pages hold, and 2^30", max_pages * page_size);
            return Err(Error::Value { what: "kv_len", expected, got: kv_len.to_string() });
        }
        let owners = [
            self.indptr.stream(),
            self.indices.stream(),
            self.last_page_len.stream(),
            block_table.stream(),
            kv_lens.stream(),
        ];
        for (what, owner) in ["indptr", "indices", "last_page_len", "block_table", "kv_lens"].into_iter().zip(owners) {
            stream.device().check_memory(what, owner.device())?;
        }
        if batch == 0 {
            return Ok(());
        }
        let params = abi::lacuna_page_table_params {
            batch: batch as i32,
            page_size: page_size as i32,
            max_pages: max_pages as i32,
            kv_len: kv_len as i32,
            indices_len: indices as i32,
            reserved: 0,
            indptr: self.indptr.as_ptr(),
            indices: self.indices.as_ptr(),
            last_page_len: self.last_page_len.as_ptr(),
            block_table: block_table.as_mut_ptr(),
            block_table_batch_stride: block_table.layout().strides()[0].max(max_pages as i64),
            kv_lens: kv_lens.as_mut_ptr(),
        };
        // SAFETY: lists, table and lengths have the sizes of the parameters and are on this device; table and lengths
        // are borrowed exclusively; what the lists hold is data to the kernel.
        ordered(stream, &owners, || unsafe { stream.launch(|kernels, raw| kernels.page_table(&params, raw)) })
    }
}
