//! `cache: evict`: K and V of what S2-Attention can still reach.

use super::request::Tokens;
use crate::failure::Result;
use lacuna::s2::{Cache, CacheLayout};
use lacuna::{AttentionShape, Half, PagedKv, S2Config, Stream, Tensor, TensorView};

/// The library's cache, filled from whole sequences on the host.
pub struct Reachable<T: Half> {
    /// The sequences at their full length.
    shape: AttentionShape,
    cache: Cache<T>,
}

impl<T: Half> Reachable<T> {
    /// Without a token. A step has at most `tokens_per_step` of a sequence. Pages start as NaN: a kernel that reads
    /// what no token has written is found out.
    pub fn new(stream: &Stream, shape: &AttentionShape, config: &S2Config, tokens_per_step: usize) -> Result<Self> {
        let layout = CacheLayout::new(config, &AttentionShape { q_len: tokens_per_step.min(shape.kv_len), ..*shape })?;
        let mut cache = Cache::new(stream, &layout)?;
        for pages in cache.pages_mut() {
            pages.fill_bytes(stream, 0xFF)?;
        }
        Ok(Self { shape: *shape, cache })
    }

    /// Adds tokens of each sequence, of which the last `queries` attend afterwards. `k` and `v` hold the whole
    /// sequences.
    pub fn append(&mut self, stream: &Stream, [k, v]: [&[T]; 2], tokens: &[Tokens], queries: usize) -> Result<()> {
        let AttentionShape { batch, kv_heads, kv_len, head_dim, .. } = self.shape;
        let len = tokens.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let dims = [batch, kv_heads, len, head_dim];
        let rows = |whole: &[T]| -> Result<Tensor<T>> {
            let mut rows = vec![T::from_f32(f32::NAN); dims.iter().product()];
            for (b, h) in (0..batch).flat_map(|b| (0..kv_heads).map(move |h| (b, h))) {
                let from = ((b * kv_heads + h) * kv_len + tokens[b].start) * head_dim;
                let to = (b * kv_heads + h) * len * head_dim;
                let size = tokens[b].len() * head_dim;
                rows[to..to + size].copy_from_slice(&whole[from..from + size]);
            }
            Ok(Tensor::from_slice(stream, &rows, dims)?)
        };
        let (k, v) = (rows(k)?, rows(v)?);
        let vector = |value: fn(&Tokens) -> usize| -> Result<Tensor<i32>> {
            Ok(Tensor::vector(stream, &tokens.iter().map(|tokens| value(tokens) as i32).collect::<Vec<_>>())?)
        };
        let (ends, added) = (vector(|tokens| tokens.end)?, vector(ExactSizeIterator::len)?);
        Ok(self.cache.append(stream, k.view(), v.view(), &ends, Some(&added), queries)?)
    }

    /// K and V as attention takes them.
    pub fn tensors(&self) -> Result<[TensorView<'_, T>; 2]> {
        Ok([self.cache.k()?, self.cache.v()?])
    }

    /// The pages of whole sequences.
    pub fn paged(&self) -> Result<PagedKv<'_>> {
        Ok(self.cache.paged(self.shape.kv_len)?)
    }

    /// Bytes of the cache with its tables, and of a cache that keeps every key.
    pub fn bytes(&self) -> (usize, usize) {
        (self.cache.layout().bytes(), self.cache.layout().full_bytes())
    }
}
