//! Decode attention where sequences have lengths of their own on the device: against the reference, over pages, and
//! under any maximum that the host knows.

use crate::decode::run;
use crate::harness::{Case, Outcome, shape, streams, uniform};
use crate::pages::Pages;
use lacuna::reference::{Counted, Problem, compare_lse};
use lacuna::{AttentionShape, BlockPlan, BlockSize, ForwardOptions, ListRows, Mask, Stream, Tensor, attention, bf16};

/// A batch over lists, one for each sequence and KV head, or over everything.
struct Batch {
    shape: AttentionShape,
    lens: Vec<usize>,
    /// Keys of a block, and the blocks in any order, twice or more.
    lists: Option<(usize, Vec<Vec<i32>>)>,
    pages: Option<Pages>,
}

impl Batch {
    fn plan(&self, stream: &Stream) -> BlockPlan {
        let Some((block_k, lists)) = &self.lists else { return BlockPlan::dense() };
        let offsets = lists.iter().scan(0, |end, list| {
            *end += list.len() as i32;
            Some(*end)
        });
        let offsets: Vec<i32> = std::iter::once(0).chain(offsets).collect();
        let block = BlockSize { q: 16, k: *block_k };
        let rows = ListRows { block, batch: self.shape.batch, heads: self.shape.kv_heads, absolute: false };
        let [offsets, indices] = [&offsets, &lists.concat()].map(|values| Tensor::vector(stream, values).unwrap());
        BlockPlan::from_device_lists(&self.shape, rows, offsets, indices).unwrap()
    }

    /// How often query `t` of head `h` attends a key.
    fn count(&self, b: usize, h: usize, t: usize, key: usize) -> f64 {
        let kv_head = h / self.shape.group();
        let nowhere = |pages: &Pages| pages.place(&self.shape, b, kv_head, key).is_none();
        if key + self.shape.q_len > self.lens[b] + t || self.pages.as_ref().is_some_and(nowhere) {
            return 0.0;
        }
        let Some((block_k, lists)) = &self.lists else { return 1.0 };
        lists[b * self.shape.kv_heads + kv_head].iter().filter(|&&block| block == (key / block_k) as i32).count() as f64
    }

    /// Runs the call with NaN in all rows of K and V that hold no key, and compares each sequence with the reference.
    fn check(&self, stream: &Stream) {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim: dim, .. } = self.shape;
        let case = Case { pages: self.pages.clone(), ..Case::new(self.shape, Mask::CAUSAL) };
        let [q, mut k, mut v] = case.inputs::<bf16>();
        let row_of = |b: usize, head: usize, key: usize| match &self.pages {
            None => Some((b * kv_heads + head) * kv_len + key),
            Some(pages) => {
                pages.place(&self.shape, b, head, key).map(|(page, row)| (page * kv_heads + head) * pages.size + row)
            }
        };
        let mut used = vec![false; k.len() / dim];
        for (b, head) in (0..batch).flat_map(|b| (0..kv_heads).map(move |head| (b, head))) {
            (0..self.lens[b]).filter_map(|key| row_of(b, head, key)).for_each(|row| used[row] = true);
        }
        for values in [&mut k, &mut v] {
            for (row, _) in values.chunks_mut(dim).zip(&used).filter(|(_, used)| !**used) {
                row.fill(bf16::NAN);
            }
        }
        let outcome = self.run(stream, &case, [&q, &k, &v]);
        let wide = |values: &[bf16]| values.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
        for (b, &len) in self.lens.iter().enumerate() {
            let keys = |values: &[bf16]| -> Vec<f64> {
                let at = (0..kv_heads).flat_map(|head| (0..len).map(move |key| (head, key)));
                let row = |row: Option<usize>| row.map_or(vec![0.0; dim], |row| wide(&values[row * dim..][..dim]));
                at.flat_map(|(head, key)| row(row_of(b, head, key))).collect()
            };
            let rows = q_heads * q_len;
            let (q, k, v) = (wide(&q[b * rows * dim..][..rows * dim]), keys(&k), keys(&v));
            let own = AttentionShape { batch: 1, kv_len: len, ..self.shape };
            let count = |_: usize, h: usize, t: usize, key: usize| self.count(b, h, t, key);
            let expected = Problem::new(own, &q, &k, &v).expect(&Counted { kv_len: len, count }).unwrap();
            let out = expected.out.compare(&outcome.out[b * rows * dim..][..rows * dim]).unwrap();
            let lse = compare_lse(&outcome.lse[b * rows..][..rows], &expected.lse).unwrap();
            assert!(out.passed() && lse.passed(), "sequence {b} of {len} keys: out {out}, lse {lse}");
        }
    }

    fn run(&self, stream: &Stream, case: &Case, [q, k, v]: [&[bf16]; 3]) -> Outcome {
        let plan = self.plan(stream);
        let tensor = |values: &[bf16], dims| Tensor::from_slice(stream, values, dims).unwrap();
        let (q, k, v) = (tensor(q, case.q_dims()), tensor(k, case.kv_dims()), tensor(v, case.kv_dims()));
        let lens: Vec<i32> = self.lens.iter().map(|&len| len as i32).collect();
        let lens = Tensor::vector(stream, &lens).unwrap();
        let table = self.pages.as_ref().map(|pages| pages.table(stream, &self.shape));
        let paged = table.as_ref().zip(self.pages.as_ref()).map(|(table, pages)| pages.of(table));
        let options = ForwardOptions { paged, ..ForwardOptions::causal() };
        let mut out = Tensor::<bf16>::uninit(stream, q.dims()).unwrap();
        let mut lse =
            Tensor::<f32>::uninit(stream, [self.shape.batch, self.shape.q_heads, self.shape.q_len, 1]).unwrap();
        out.fill_bytes(stream, 0xFF).unwrap();
        let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&self.shape, &plan)).unwrap();
        workspace.fill(stream, 0xFF).unwrap();
        let (written, rows) = (out.view_mut(), Some(lse.view_mut()));
        let (q, k, v) = (q.view(), k.view(), v.view());
        attention::decode(stream, &self.shape, &options, &plan, Some(&lens), q, k, v, written, rows, &mut workspace)
            .unwrap();
        let out = out.to_vec(stream).unwrap().into_iter().map(bf16::to_f32).collect();
        Outcome { out, lse: lse.to_vec(stream).unwrap() }
    }
}

/// Blocks in no order, some of them several times, and ids of no block.
fn wild_lists(lists: usize, blocks: usize, seed: u64) -> Vec<Vec<i32>> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut below = |bound: usize| ((uniform(&mut state) + 0.5) * bound as f32) as usize;
    let mut list = |index: usize| -> Vec<i32> {
        let len = if index % 5 == 4 { 0 } else { 1 + below(2 * blocks) };
        let strange = [-1, i32::MIN, i32::MAX, blocks as i32, 1 << 24];
        (0..len).map(|at| if at % 7 == 3 { strange[below(5)] } else { below(blocks) as i32 }).collect()
    };
    (0..lists).map(&mut list).collect()
}

#[test]
fn lengths_of_their_own() {
    for stream in streams(1) {
        for (heads, q_len, dim) in [((4, 2), 1, 64), ((6, 2), 3, 32), ((8, 1), 16, 128)] {
            let lens = vec![q_len, 900, 64.max(q_len), 257, 512];
            Batch { shape: shape(5, heads, (q_len, 900), dim), lens, lists: None, pages: None }.check(&stream);
        }
    }
}

#[test]
fn lengths_and_pages() {
    for stream in streams(2) {
        for (page, table_heads, q_len) in [(16, 1, 2), (48, 2, 1), (64, 1, 5)] {
            let shape = shape(4, (4, 2), (q_len, 700), 64);
            let mut pages = Pages::shuffled(&shape, page, table_heads, 3);
            // Pages that are not there.
            for at in [2, 9] {
                pages.table[at] = [-1, pages.count as i32][at % 2];
            }
            let lens = vec![700, q_len, 333, 48.max(q_len)];
            let dense = Batch { shape, lens, lists: None, pages: Some(pages) };
            dense.check(&stream);
            let lists = Some((32, wild_lists(8, 22, page as u64)));
            Batch { lists, ..dense }.check(&stream);
        }
    }
}

/// Lists are used as given: order does not matter, what is named twice counts twice, what is no block is skipped.
#[test]
fn lists_in_no_order() {
    for stream in streams(3) {
        for (block, seed) in [16, 32, 64, 128].into_iter().zip(1..) {
            let shape = shape(3, (4, 2), (4, 1500), 64);
            let lists = wild_lists(6, 1500usize.div_ceil(block), seed);
            Batch { shape, lens: vec![1500, 700, 4], lists: Some((block, lists)), pages: None }.check(&stream);
        }
    }
}

/// More keys than 64 splits of the least size hold: splits grow.
#[test]
fn long_caches() {
    for stream in streams(4) {
        let batch =
            |lists| Batch { shape: shape(2, (1, 1), (1, 20_000), 32), lens: vec![20_000, 17_001], lists, pages: None };
        batch(None).check(&stream);
        // 2500 entries of 16 keys; the host counts on 1250.
        batch(Some((16, wild_lists(2, 1250, 8).iter().map(|list| list.repeat(2)).collect()))).check(&stream);
    }
}

/// The maximum that the host knows is no more than the room: it does not show in the bits.
#[test]
fn the_bits_do_not_depend_on_the_maximum() {
    for stream in streams(5) {
        for len in [200, 1000, 5000] {
            let bits = |maximum: usize| {
                let shape = shape(1, (2, 1), (2, maximum), 32);
                // Rows follow each other in one stream of numbers: a larger maximum adds keys behind.
                let values = |seed| Case { seed, ..Case::new(shape, Mask::CAUSAL) }.inputs::<bf16>();
                let (q, [_, k, _], [_, v, _]) = (&values(1)[0], values(2), values(3));
                let (out, lse) = run(&stream, &shape, &BlockPlan::dense(), Some(&[len]), [q, &k, &v]);
                let out: Vec<u32> = out.iter().map(|x| x.to_bits().into()).collect();
                (out, lse.iter().map(|x| x.to_bits()).collect::<Vec<u32>>())
            };
            let exact = bits(len as usize);
            for maximum in [len as usize + 1, 5_100, 40_000] {
                assert_eq!(bits(maximum), exact, "{len} of {maximum}");
            }
        }
    }
}
