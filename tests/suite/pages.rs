//! K and V in pages, for the tests: where each key of a case lies in the pool.

use crate::harness::uniform;
use lacuna::reference::Visibility;
use lacuna::{AttentionShape, Half, PagedKv, Stream, Tensor};
use std::ops::Range;

/// A pool of pages and the table that maps sequences onto it.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Keys of a page.
    pub size: usize,
    /// Pages of the pool.
    pub count: usize,
    /// Heads of the table: 1 or KV heads.
    pub heads: usize,
    /// `[batch, heads, 1, ceil(kv_len / size)]`
    pub table: Vec<i32>,
}

impl Pages {
    /// Every page of every sequence (and head) at another place of the pool, in a random order, with pages to spare.
    pub fn shuffled(shape: &AttentionShape, size: usize, heads: usize, seed: u64) -> Self {
        let used = shape.batch * heads * shape.kv_len.div_ceil(size);
        let count = used + 3;
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut ids: Vec<i32> = (0..count as i32).collect();
        for at in (1..count).rev() {
            ids.swap(at, ((uniform(&mut state) + 0.5) * (at + 1) as f32) as usize);
        }
        ids.truncate(used);
        Self { size, count, heads, table: ids }
    }

    /// The table on a device.
    pub fn table(&self, stream: &Stream, shape: &AttentionShape) -> Tensor<i32> {
        let dims = [shape.batch, self.heads, 1, shape.kv_len.div_ceil(self.size)];
        Tensor::from_slice(stream, &self.table, dims).unwrap()
    }

    pub fn of<'a>(&self, table: &'a Tensor<i32>) -> PagedKv<'a> {
        PagedKv { block_table: table.view(), page_size: self.size }
    }

    /// The page and the row of it that hold a key; `None`: nobody attends it.
    pub fn place(&self, shape: &AttentionShape, b: usize, kv_head: usize, key: usize) -> Option<(usize, usize)> {
        let entries = shape.kv_len.div_ceil(self.size);
        let head = if self.heads == 1 { 0 } else { kv_head };
        let page = usize::try_from(self.table[(b * self.heads + head) * entries + key / self.size]).ok()?;
        (page < self.count).then_some((page, key % self.size))
    }

    /// Calls `visit` with the row number in `[batch, kv_heads, kv_len]` and that in the pool of every key.
    fn rows(&self, shape: &AttentionShape, mut visit: impl FnMut(usize, Option<usize>)) {
        for row in 0..shape.batch * shape.kv_heads * shape.kv_len {
            let (key, head) = (row % shape.kv_len, row / shape.kv_len % shape.kv_heads);
            let place = self.place(shape, row / shape.kv_len / shape.kv_heads, head, key);
            visit(row, place.map(|(page, at)| (page * shape.kv_heads + head) * self.size + at));
        }
    }

    /// The rows of a pool `[count, kv_heads, size, head_dim]` as `[batch, kv_heads, kv_len, head_dim]`, zeros for keys
    /// that are nowhere.
    pub fn gather(&self, shape: &AttentionShape, pool: &[f64]) -> Vec<f64> {
        let dim = shape.head_dim;
        let mut rows = vec![0.0; shape.batch * shape.kv_heads * shape.kv_len * dim];
        self.rows(shape, |row, from| {
            if let Some(from) = from {
                rows[row * dim..][..dim].copy_from_slice(&pool[from * dim..][..dim]);
            }
        });
        rows
    }

    /// NaN wherever the pool holds no key of the case: other pages, other heads, the tail of the last page.
    pub fn poison_unused<T: Half>(&self, shape: &AttentionShape, pool: &mut [T]) {
        let dim = shape.head_dim;
        let mut used = vec![false; pool.len() / dim];
        self.rows(shape, |_, from| from.into_iter().for_each(|from| used[from] = true));
        for (row, used) in pool.chunks_mut(dim).zip(used) {
            if !used {
                row.fill(T::from_f32(f32::NAN));
            }
        }
    }

    /// What remains visible: the keys that are somewhere.
    pub fn mapped<'a, V>(&'a self, shape: &'a AttentionShape, inner: &'a V) -> Mapped<'a, V> {
        Mapped { pages: self, shape, inner }
    }
}

pub struct Mapped<'a, V> {
    pages: &'a Pages,
    shape: &'a AttentionShape,
    inner: &'a V,
}

impl<V: Visibility> Visibility for Mapped<'_, V> {
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64)) {
        let kv_head = h / self.shape.group();
        self.inner.runs(b, h, t, &mut |keys, weight| {
            for key in keys {
                if self.pages.place(self.shape, b, kv_head, key).is_some() {
                    visit(key..key + 1, weight);
                }
            }
        });
    }
}
