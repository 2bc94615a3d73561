//! K and V of sequences that grow, as the decode kernel finds them: a row for each key, or pages.

use super::request::Tokens;
use crate::failure::Result;
use lacuna::{AttentionShape, Half, Stream, Tensor};

/// The cache of one call. Rows that no token has written yet are NaN: a kernel that reads them is found out.
pub struct KvCache<T: Half> {
    /// The sequences at their full length.
    shape: AttentionShape,
    /// Keys of a page, and the page of each `page_size` keys of a sequence, if there are pages.
    pages: Option<Pages>,
    host: [Vec<T>; 2],
    device: [Tensor<T>; 2],
}

struct Pages {
    size: usize,
    /// `[batch, pages of a sequence]`
    table: Vec<i32>,
    device: Tensor<i32>,
}

impl<T: Half> KvCache<T> {
    /// Room for whole sequences, without a token. `page_size` 0: contiguous; a page longer than a sequence is cut to
    /// it.
    pub fn new(stream: &Stream, shape: &AttentionShape, page_size: usize) -> Result<Self> {
        let AttentionShape { batch, kv_heads, kv_len, head_dim, .. } = *shape;
        let (dims, pages) = if page_size == 0 {
            ([batch, kv_heads, kv_len, head_dim], None)
        } else {
            let page_size = page_size.min(kv_len.max(1).next_multiple_of(16));
            let each = kv_len.div_ceil(page_size);
            let table = shuffled(batch * each);
            let device = Tensor::from_slice(stream, &table, [batch, 1, 1, each])?;
            ([batch * each, kv_heads, page_size, head_dim], Some(Pages { size: page_size, table, device }))
        };
        let empty = vec![T::from_f32(f32::NAN); dims.iter().product()];
        let device = [Tensor::from_slice(stream, &empty, dims)?, Tensor::from_slice(stream, &empty, dims)?];
        Ok(Self { shape: *shape, pages, host: [empty.clone(), empty], device })
    }

    /// Adds tokens of each sequence. `k` and `v` hold the whole sequences.
    pub fn append(&mut self, stream: &Stream, k: &[T], v: &[T], tokens: &[Tokens]) -> Result<()> {
        let AttentionShape { kv_heads, kv_len, head_dim, .. } = self.shape;
        for (b, h) in (0..tokens.len()).flat_map(|b| (0..kv_heads).map(move |h| (b, h))) {
            for token in tokens[b].clone() {
                let from = ((b * kv_heads + h) * kv_len + token) * head_dim;
                let to = self.row(b, h, token) * head_dim;
                for (host, source) in self.host.iter_mut().zip([k, v]) {
                    host[to..to + head_dim].copy_from_slice(&source[from..from + head_dim]);
                }
            }
        }
        // The whole cache goes to the device again: this is a tool for files, and says nothing about time.
        for (device, host) in self.device.iter_mut().zip(&self.host) {
            device.copy_from_slice(stream, host)?;
        }
        Ok(())
    }

    /// K and V on the device.
    pub fn tensors(&self) -> [&Tensor<T>; 2] {
        [&self.device[0], &self.device[1]]
    }

    /// The block table `[batch, 1, 1, pages of a sequence]` and the keys of a page.
    pub fn paged(&self) -> Option<(&Tensor<i32>, usize)> {
        self.pages.as_ref().map(|pages| (&pages.device, pages.size))
    }

    fn row(&self, b: usize, h: usize, token: usize) -> usize {
        let AttentionShape { kv_heads, kv_len, .. } = self.shape;
        match &self.pages {
            None => (b * kv_heads + h) * kv_len + token,
            Some(pages) => {
                let page = pages.table[b * kv_len.div_ceil(pages.size) + token / pages.size] as usize;
                (page * kv_heads + h) * pages.size + token % pages.size
            }
        }
    }
}

/// 0 to `count - 1` in an order that looks like no order, the same in every run: pages of a sequence lie nowhere near
/// each other in a real pool either.
fn shuffled(count: usize) -> Vec<i32> {
    let mut order: Vec<i32> = (0..count as i32).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..count).rev() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    #[test]
    fn shuffled_is_a_permutation() {
        let mut order = super::shuffled(20);
        assert_ne!(order, (0..20).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }
}
