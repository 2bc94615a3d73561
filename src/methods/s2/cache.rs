//! A paged cache that holds, of each KV head, only the blocks that its pattern can still reach.

use super::layout::CacheLayout;
use crate::attention::PagedKv;
use crate::device::{Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::tensor::{Half, Tensor, TensorView};

/// Keys and values of a batch of sequences, of each KV head only what S2-Attention can still reach.
///
/// Its memory is what the [`CacheLayout`] says, from the start; appending copies new rows into pages, drops blocks that
/// went out of reach by taking them out of the block table, and lets later blocks use their pages. Attention over
/// [`Cache::paged`] with the layout's pattern gives the bits that every key kept would give: the blocks that are
/// missing are those that no query visits.
///
/// A prompt attends to its own k and v, and is appended afterwards with `queries` 0, so that only what later queries
/// reach is copied. Decoding appends first, and the newest tokens attend over the cache; so do the chunks of chunked
/// prefill. A sequence starts over when it is appended to with as many new tokens as it has keys.
#[derive(Debug)]
pub struct Cache<T: Half> {
    layout: CacheLayout,
    /// `[pages of all sequences, 1, block_size, head_dim]`
    k: Tensor<T>,
    v: Tensor<T>,
    /// `[batch, kv_heads, 1, blocks]`
    table: Tensor<i32>,
    /// `[1, kv_heads, 1, blocks]`, see [`CacheLayout`].
    homes: Tensor<i32>,
    last_rows: Tensor<i32>,
}

impl<T: Half> Cache<T> {
    /// An empty cache; allocates [`CacheLayout::bytes`].
    ///
    /// # Errors
    /// [`Error::Value`] for elements of another type than the layout's, [`Error::OutOfMemory`].
    pub fn new(stream: &Stream, layout: &CacheLayout) -> Result<Self> {
        let shape = *layout.shape();
        if T::DTYPE != shape.dtype {
            return Err(Error::Value { what: "dtype", expected: T::DTYPE.to_string(), got: shape.dtype.to_string() });
        }
        let pool = [shape.batch * layout.pages(), 1, layout.config().block_size, shape.head_dim];
        let blocks = |batch| [batch, shape.kv_heads, 1, layout.blocks()];
        let mut table = Tensor::uninit(stream, blocks(shape.batch))?;
        // Every page is -1.
        table.fill_bytes(stream, 0xFF)?;
        Ok(Self {
            k: Tensor::uninit(stream, pool)?,
            v: Tensor::uninit(stream, pool)?,
            table,
            homes: Tensor::from_slice(stream, layout.homes(), blocks(1))?,
            last_rows: Tensor::from_slice(stream, layout.last_rows(), blocks(1))?,
            layout: layout.clone(),
        })
    }

    /// What is kept, and where.
    pub fn layout(&self) -> &CacheLayout {
        &self.layout
    }

    /// Adds the newest tokens of each sequence: k and v `[batch, kv_heads, len, head_dim]`, any strides.
    ///
    /// `kv_lens` `[1, 1, 1, batch]` are the keys of each sequence with the new ones, `added` (the same size) how many
    /// of `len` tokens are new to each, the first ones; without it all are. Both are data on the device: tokens that
    /// would lie before the first key or beyond the last one are left out. `queries` of the newest tokens attend over
    /// the cache after this; what only queries before them reach is not kept. At most `q_len` of the layout's shape,
    /// and no more than were ever new at a time; 0 after a prompt that attended to its own keys.
    ///
    /// Never allocates or waits; a CUDA graph may hold it.
    ///
    /// # Errors
    /// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit.
    pub fn append(
        &mut self,
        stream: &Stream,
        k: TensorView<'_, T>,
        v: TensorView<'_, T>,
        kv_lens: &Tensor<i32>,
        added: Option<&Tensor<i32>>,
        queries: usize,
    ) -> Result<()> {
        let shape = *self.layout.shape();
        let len = k.dims()[2];
        let check = |what, got: [usize; 4], expected: [usize; 4]| match got == expected {
            true => Ok(()),
            false => Err(Error::Shape { what, expected: format!("{expected:?}"), got: format!("{got:?}") }),
        };
        let dims = [shape.batch, shape.kv_heads, len, shape.head_dim];
        check("k", k.dims(), dims)?;
        check("v", v.dims(), dims)?;
        check("kv_lens", kv_lens.dims(), [1, 1, 1, shape.batch])?;
        added.map_or(Ok(()), |added| check("added", added.dims(), [1, 1, 1, shape.batch]))?;
        if queries > shape.q_len {
            let expected = format!("at most {}, what the cache was made for", shape.q_len);
            return Err(Error::Value { what: "queries", expected, got: queries.to_string() });
        }
        if len > 1 << 30 {
            return Err(Error::Value { what: "new tokens", expected: "at most 2^30".into(), got: len.to_string() });
        }
        let (lens, new) = (kv_lens.stream(), added.map_or(stream, |added| added.stream()));
        let owners = [k.stream(), v.stream(), lens, new, self.k.stream()];
        for (what, owner) in ["k", "v", "kv_lens", "added", "cache"].into_iter().zip(owners) {
            stream.device().check_memory(what, owner.device())?;
        }
        if k.layout().is_empty() || self.layout.blocks() == 0 {
            return Ok(());
        }
        let params = abi::lacuna_cache_append_params {
            batch: shape.batch as i32,
            kv_heads: shape.kv_heads as i32,
            head_dim: shape.head_dim as i32,
            len: len as i32,
            block: self.layout.config().block_size as i32,
            blocks: self.layout.blocks() as i32,
            queries: queries as i32,
            reach: self.layout.reach() as i32,
            sequence_pages: self.layout.pages() as i32,
            reserved: 0,
            kv_lens: kv_lens.view().as_ptr(),
            added: added.map_or(std::ptr::null(), |added| added.view().as_ptr()),
            homes: self.homes.view().as_ptr(),
            last_rows: self.last_rows.view().as_ptr(),
            block_table: self.table.view_mut().as_mut_ptr(),
            k: k.as_ptr().cast(),
            v: v.as_ptr().cast(),
            k_pages: self.k.view_mut().as_mut_ptr().cast(),
            v_pages: self.v.view_mut().as_mut_ptr().cast(),
            k_stride: convert::strides(&k.layout()),
            v_stride: convert::strides(&v.layout()),
        };
        let owners = [k.stream(), v.stream(), lens, new, self.table.stream()];
        ordered(stream, &owners, || {
            // SAFETY: k, v, lengths, tables and pages have the sizes of the parameters and are on this device; the
            // cache, all made on one stream, is borrowed exclusively; lengths and tables are data to the kernel.
            unsafe { stream.launch(|kernels, raw| kernels.cache_append(&params, raw)) }
        })
    }

    /// The block table for a call over the first `kv_len` keys, for
    /// [`ForwardOptions::paged`](crate::ForwardOptions::paged).
    ///
    /// # Errors
    /// [`Error::Value`] for more keys than the layout has.
    pub fn paged(&self, kv_len: usize) -> Result<PagedKv<'_>> {
        self.layout.check_len(kv_len)?;
        let page_size = self.layout.config().block_size;
        Ok(PagedKv { block_table: self.table.view().narrow(3, 0, kv_len.div_ceil(page_size))?, page_size })
    }

    /// Pages of the blocks, `[batch, kv_heads, 1, blocks]`; -1 for those that are not there.
    pub fn block_table(&self) -> &Tensor<i32> {
        &self.table
    }

    /// Keys as [`decode`](crate::attention::decode()) and [`forward`](crate::attention::forward()) take them:
    /// `[pages, kv_heads, block_size, head_dim]`, where all heads are the same memory, since a page is of one head.
    ///
    /// # Errors
    /// [`Error::Shape`] for sizes that can't be counted.
    pub fn k(&self) -> Result<TensorView<'_, T>> {
        self.k.view().broadcast_heads(self.layout.shape().kv_heads)
    }

    /// Values, as [`Cache::k`].
    ///
    /// # Errors
    /// As [`Cache::k`].
    pub fn v(&self) -> Result<TensorView<'_, T>> {
        self.v.view().broadcast_heads(self.layout.shape().kv_heads)
    }

    /// The pages of keys and values, `[pages, 1, block_size, head_dim]`: to move them elsewhere and back.
    pub fn pages_mut(&mut self) -> [&mut Tensor<T>; 2] {
        [&mut self.k, &mut self.v]
    }
}
