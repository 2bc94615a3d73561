//! The cache of S2-Attention: what it keeps, and that attention over it has the bits of attention over every key.

use crate::harness::{Case, shape, streams};
use lacuna::s2::{Cache, CacheLayout};
use lacuna::{
    AttentionShape, Error, ForwardOptions, KernelFamily, Mask, S2Columns, S2Config, S2Variant, Schedule, Stream,
    Tensor, TensorView, attention, bf16,
};
use proptest::prelude::*;

const DIM: usize = 32;

/// A cache beside tensors that hold every key, both on one stream. Pages that the block table does not name are NaN.
struct Pair<'a> {
    stream: &'a Stream,
    config: S2Config,
    cache: Cache<bf16>,
    /// `[batch, kv_heads, kv_len, DIM]`
    full: [Vec<bf16>; 2],
    /// New tokens come from here, in turn.
    source: Vec<bf16>,
    next: usize,
    lens: Vec<usize>,
}

impl<'a> Pair<'a> {
    fn new(stream: &'a Stream, config: &S2Config, shape: AttentionShape, seed: u64) -> Self {
        let layout = CacheLayout::new(config, &shape).unwrap();
        let cache = Cache::new(stream, &layout).unwrap();
        let rows = shape.batch * shape.kv_heads * shape.kv_len * DIM;
        let source = Case { seed, ..Case::new(AttentionShape { q_len: 1, ..shape }, Mask::FULL) }.inputs::<bf16>();
        let full = [vec![bf16::NAN; rows], vec![bf16::NAN; rows]];
        let [_, source, _] = source;
        let mut pair =
            Self { stream, config: config.clone(), cache, full, source, next: 0, lens: vec![0; shape.batch] };
        pair.poison();
        pair
    }

    fn shape(&self) -> AttentionShape {
        *self.cache.layout().shape()
    }

    fn table(&self) -> Vec<i32> {
        self.cache.block_table().to_vec(self.stream).unwrap()
    }

    /// Fills with NaN what nobody may read.
    fn poison(&mut self) {
        let named = self.table();
        let page = self.config.block_size * DIM;
        for pool in self.cache.pages_mut() {
            let mut values = pool.to_vec(self.stream).unwrap();
            for (id, values) in values.chunks_mut(page).enumerate() {
                if !named.contains(&(id as i32)) {
                    values.fill(bf16::NAN);
                }
            }
            pool.copy_from_slice(self.stream, &values).unwrap();
        }
    }

    /// New tokens for each sequence, of which the last `queries` attend afterwards.
    fn append(&mut self, added: &[usize], queries: usize, ragged: bool) {
        let shape = self.shape();
        let len = added.iter().copied().max().unwrap();
        let mut new = [vec![bf16::NAN; shape.batch * shape.kv_heads * len * DIM], Vec::new()];
        new[1] = new[0].clone();
        for (b, &count) in added.iter().enumerate() {
            for (h, t) in (0..shape.kv_heads).flat_map(|h| (0..count).map(move |t| (h, t))) {
                let to = ((b * shape.kv_heads + h) * shape.kv_len + self.lens[b] + t) * DIM;
                let from = ((b * shape.kv_heads + h) * len + t) * DIM;
                for (full, new) in self.full.iter_mut().zip(&mut new) {
                    self.next = (self.next + 1) * 7919 % (self.source.len() / DIM);
                    let row = &self.source[self.next * DIM..][..DIM];
                    full[to..to + DIM].copy_from_slice(row);
                    new[from..from + DIM].copy_from_slice(row);
                }
            }
            self.lens[b] += count;
        }
        let dims = [shape.batch, shape.kv_heads, len, DIM];
        let [k, v] = new.map(|values| Tensor::from_slice(self.stream, &values, dims).unwrap());
        let lens = self.device_lens();
        let counts = added.to_vec();
        let added: Vec<i32> = added.iter().map(|&n| n as i32).collect();
        let added = ragged.then(|| Tensor::vector(self.stream, &added).unwrap());
        self.cache.append(self.stream, k.view(), v.view(), &lens, added.as_ref(), queries).unwrap();
        self.check_table(&counts, queries);
        self.poison();
    }

    fn device_lens(&self) -> Tensor<i32> {
        let lens: Vec<i32> = self.lens.iter().map(|&len| len as i32).collect();
        Tensor::vector(self.stream, &lens).unwrap()
    }

    /// The table names what the queries from here on reach by the pattern's mask, each in a page of its own.
    fn check_table(&self, added: &[usize], queries: usize) {
        let shape = self.shape();
        let block = self.config.block_size;
        let whole = AttentionShape { batch: 1, q_len: shape.kv_len, ..shape };
        let mask = self.config.block_mask(&whole).unwrap();
        let table = self.table();
        let blocks = shape.kv_len.div_ceil(block);
        for (b, &len) in self.lens.iter().enumerate().filter(|&(b, _)| added[b] > 0) {
            let first = len.saturating_sub(queries) / block;
            let mut resident = 0;
            for (h, j) in (0..shape.kv_heads).flat_map(|h| (0..len.div_ceil(block)).map(move |j| (h, j))) {
                let group = h * shape.group()..(h + 1) * shape.group();
                let reached = group.clone().any(|q| {
                    // Rows behind the longest sequence reach what its last one reaches, or less.
                    (first..blocks).any(|i| mask.get(0, q * mask.heads / shape.q_heads, i, j) != 0)
                });
                let page = table[(b * shape.kv_heads + h) * blocks + j];
                assert!(
                    !reached || page >= 0,
                    "sequence {b} of {len} keys, head {h}: block {j} is missing, {:?}",
                    self.config
                );
                // Where the sequence can't grow, blocks of the last window may be kept in vain.
                assert!(reached || page < 0 || first + self.config.local_blocks >= blocks, "block {j} is kept");
                resident += usize::from(page >= 0);
            }
            let pages = self.cache.layout().pages();
            let mut used: Vec<i32> = Vec::new();
            for h in 0..shape.kv_heads {
                let row = &table[(b * shape.kv_heads + h) * blocks..][..len.div_ceil(block)];
                used.extend(row.iter().filter(|&&page| page >= 0));
            }
            used.sort_unstable();
            assert!(used.windows(2).all(|pair| pair[0] < pair[1]), "a page is shared: {used:?}");
            let own = (b * pages) as i32..((b + 1) * pages) as i32;
            assert!(used.iter().all(|page| own.contains(page)), "{used:?} of sequence {b}, {pages} pages each");
            if queries == 0 {
                let bytes = self.cache.layout().resident_bytes(len).unwrap();
                assert_eq!(resident * self.cache.layout().page_bytes(), bytes, "sequence {b} of {len} keys");
            }
        }
    }

    /// Bits of out and lse of the newest queries, over the cache and over every key.
    fn decode(&self, q_len: usize) -> [Vec<u32>; 2] {
        let shape = AttentionShape { q_len, ..self.shape() };
        let q = self.queries(&shape);
        let plan = self.config.plan(&shape).unwrap();
        let lens = self.device_lens();
        let [k, v] = self.full_tensors(shape.kv_len);
        let call = |options: &ForwardOptions<'_>, k: TensorView<'_, bf16>, v: TensorView<'_, bf16>| {
            let (mut out, mut lse) = self.outputs(&shape);
            let mut workspace = self.stream.alloc_bytes(attention::decode_workspace_bytes(&shape, &plan)).unwrap();
            let (written, rows) = (out.view_mut(), Some(lse.view_mut()));
            let q = q.view();
            attention::decode(self.stream, &shape, options, &plan, Some(&lens), q, k, v, written, rows, &mut workspace)
                .unwrap();
            self.bits(&out, &lse)
        };
        let paged = ForwardOptions { paged: Some(self.cache.paged(shape.kv_len).unwrap()), ..ForwardOptions::causal() };
        [
            call(&paged, self.cache.k().unwrap(), self.cache.v().unwrap()),
            call(&ForwardOptions::causal(), k.view(), v.view()),
        ]
    }

    /// The same for the forward kernel, over sequences of one length.
    fn forward(&self, q_len: usize) -> [Vec<u32>; 2] {
        let kv_len = self.lens[0];
        let shape = AttentionShape { q_len, kv_len, ..self.shape() };
        let q = self.queries(&shape);
        let plan = self.config.plan(&shape).unwrap();
        let [k, v] = self.full_tensors(kv_len);
        let call = |options: &ForwardOptions<'_>, k: TensorView<'_, bf16>, v: TensorView<'_, bf16>| {
            let (mut out, mut lse) = self.outputs(&shape);
            let schedule = Schedule::build(self.stream, &shape, options, &plan).unwrap();
            let mut workspace = self.stream.alloc_bytes(attention::workspace_bytes(&shape, options)).unwrap();
            let (written, rows) = (out.view_mut(), Some(lse.view_mut()));
            let q = q.view();
            attention::forward(self.stream, &shape, options, &plan, &schedule, q, k, v, written, rows, &mut workspace)
                .unwrap();
            self.bits(&out, &lse)
        };
        let plain = ForwardOptions { family: KernelFamily::Portable, ..ForwardOptions::causal() };
        let paged = ForwardOptions { paged: Some(self.cache.paged(kv_len).unwrap()), ..plain };
        [call(&paged, self.cache.k().unwrap(), self.cache.v().unwrap()), call(&plain, k.view(), v.view())]
    }

    fn queries(&self, shape: &AttentionShape) -> Tensor<bf16> {
        let dims = [shape.batch, shape.q_heads, shape.q_len, DIM];
        let len = dims.iter().product::<usize>();
        let values: Vec<bf16> = self.source.iter().cycle().skip(self.next * DIM).take(len).copied().collect();
        Tensor::from_slice(self.stream, &values, dims).unwrap()
    }

    /// The first `kv_len` keys and values of every sequence.
    fn full_tensors(&self, kv_len: usize) -> [Tensor<bf16>; 2] {
        let shape = self.shape();
        self.full.each_ref().map(|values| {
            let heads = values.chunks(shape.kv_len * DIM);
            let cut: Vec<bf16> = heads.flat_map(|head| head[..kv_len * DIM].to_vec()).collect();
            Tensor::from_slice(self.stream, &cut, [shape.batch, shape.kv_heads, kv_len, DIM]).unwrap()
        })
    }

    fn outputs(&self, shape: &AttentionShape) -> (Tensor<bf16>, Tensor<f32>) {
        let mut out = Tensor::uninit(self.stream, [shape.batch, shape.q_heads, shape.q_len, DIM]).unwrap();
        let mut lse = Tensor::uninit(self.stream, [shape.batch, shape.q_heads, shape.q_len, 1]).unwrap();
        out.fill_bytes(self.stream, 0xFF).unwrap();
        lse.fill_bytes(self.stream, 0xFF).unwrap();
        (out, lse)
    }

    fn bits(&self, out: &Tensor<bf16>, lse: &Tensor<f32>) -> Vec<u32> {
        let out = out.to_vec(self.stream).unwrap();
        assert!(out.iter().all(|x| !x.to_f32().is_nan()), "NaN of a page that must not be read");
        let lse = lse.to_vec(self.stream).unwrap();
        out.iter().map(|x| u32::from(x.to_bits())).chain(lse.iter().map(|x| x.to_bits())).collect()
    }
}

fn configs() -> impl Strategy<Value = S2Config> {
    (
        (0usize..2, 0usize..4, 1usize..6, 0usize..3),
        (prop::option::of(-3i64..4), -5i64..6, 0usize..2),
        any::<[bool; 2]>(),
    )
        .prop_map(|((size, local, stride, sinks), (step, offset, dense), [homogeneous, phi3])| S2Config {
            block_size: [16, 32][size],
            local_blocks: local,
            vertical_stride: stride,
            head_sliding_step: step,
            head_sliding_offset: offset,
            num_dense_kv_heads: dense,
            homogeneous,
            sink_blocks: sinks,
            variant: if phi3 { S2Variant::Phi3 } else { S2Variant::Dkernel },
            ..S2Config::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Prompts of different lengths, then many steps of 1 to 16 tokens, with a sequence that starts over on the way.
    #[test]
    fn decoding_has_the_bits_of_the_full_cache(
        config in configs(), heads in (1usize..3, 1usize..4), prompts in [0usize..200, 0usize..90, 0usize..30],
        steps in prop::collection::vec(1usize..17, 8..24), most in 1usize..17, seed: u64,
    ) {
        let longest = prompts[0].max(prompts[1]).max(prompts[2]) + steps.iter().sum::<usize>();
        let shape = AttentionShape { head_dim: DIM, ..shape(3, (heads.0 * heads.1, heads.0), (most, longest), DIM) };
        for stream in streams(seed) {
            let mut pair = Pair::new(&stream, &config, shape, seed);
            if prompts.iter().any(|&prompt| prompt > 0) {
                pair.append(&prompts, 0, true);
            }
            for (i, &step) in steps.iter().enumerate() {
                if i == steps.len() / 2 {
                    // The second sequence starts over with a prompt of its own.
                    pair.lens[1] = 0;
                    pair.append(&[0, 1 + prompts[1] / 2, 0], 0, true);
                }
                let step = step.min(most);
                pair.append(&[step; 3], step, false);
                let [cached, full] = pair.decode(step);
                prop_assert!(cached == full, "step {} of {} tokens, {:?} keys", i, step, pair.lens);
            }
        }
    }

    /// Chunks are appended first and attend over the cache; the rest of the prompt comes token by token.
    #[test]
    fn chunked_prefill_has_the_bits_of_the_full_cache(
        config in configs(), heads in (1usize..3, 1usize..3), chunks in prop::collection::vec(1usize..70, 2..6), seed: u64,
    ) {
        let (chunk, len) = (chunks.iter().copied().max().unwrap(), chunks.iter().sum::<usize>() + 5);
        let shape = shape(2, (heads.0 * heads.1, heads.0), (chunk, len), DIM);
        for stream in streams(seed) {
            let mut pair = Pair::new(&stream, &config, shape, seed);
            for &chunk in &chunks {
                pair.append(&[chunk; 2], chunk, false);
                let [cached, full] = pair.forward(chunk);
                prop_assert!(cached == full, "chunk of {} tokens, {:?} keys", chunk, pair.lens);
            }
            for _ in 0..5 {
                pair.append(&[1; 2], 1, false);
                let [cached, full] = pair.decode(1);
                prop_assert!(cached == full, "{:?} keys", pair.lens);
            }
        }
    }
}

/// Thousands of tokens one by one: every page of the window serves many blocks.
#[test]
fn a_long_decode_reuses_its_pages() {
    let config =
        S2Config { block_size: 16, local_blocks: 3, vertical_stride: 5, sink_blocks: 1, ..S2Config::default() };
    let shape = shape(2, (4, 2), (1, 2048), DIM);
    for stream in streams(3) {
        let mut pair = Pair::new(&stream, &config, shape, 5);
        let pages = pair.cache.layout().pages();
        assert!(pages < 2 * 128 / 3, "{pages} pages of 256 blocks");
        pair.append(&[1000, 37], 0, true);
        for step in 0..1048 {
            pair.append(&[1; 2], 1, false);
            if step % 29 == 0 || step > 1040 {
                let [cached, full] = pair.decode(1);
                assert!(cached == full, "{:?} keys", pair.lens);
            }
        }
        assert_eq!(pair.lens[0], 2048);
    }
}

/// Bytes that one sequence of Phi-3-small's heads (32 query, 8 KV, 128 elements, block 64, 16 local, stride 8) takes at
/// its longest, as a part of the full cache: the numbers of docs/s2-attention.md.
#[test]
fn bytes_are_known_in_advance() {
    let shares = |config: &S2Config| {
        [8, 32, 128, 512, 1024].map(|thousands: usize| {
            let shape = AttentionShape { head_dim: 128, ..shape(1, (32, 8), (1, thousands << 10), 128) };
            let layout = CacheLayout::new(config, &shape).unwrap();
            assert_eq!(layout.bytes(), layout.pages() * layout.page_bytes() + layout.table_bytes());
            assert_eq!(layout.full_bytes(), 2 * 2 * 8 * (thousands << 10) * 128);
            let part = layout.bytes() as f64 / layout.full_bytes() as f64;
            // At the last token nothing that was reserved is idle, but for a page where a head's last column comes
            // later.
            let resident = layout.resident_bytes(shape.kv_len - 1).unwrap();
            let idle = layout.pages() - resident / layout.page_bytes();
            assert!(idle <= 8, "{idle} pages are idle");
            (1000.0 * part).round() / 10.0
        })
    };
    let dkernel = S2Config::default();
    let phi3 = S2Config { variant: S2Variant::Phi3, ..dkernel.clone() };
    assert_eq!(shares(&dkernel), [23.5, 15.3, 13.2, 12.7, 12.6]);
    assert_eq!(shares(&S2Config { sink_blocks: 1, ..dkernel.clone() }), [24.2, 15.4, 13.3, 12.7, 12.6]);
    assert_eq!(shares(&S2Config { num_dense_kv_heads: 1, ..dkernel.clone() }), [33.0, 25.9, 24.1, 23.6, 23.5]);
    assert_eq!(shares(&S2Config { homogeneous: true, ..phi3.clone() }), shares(&dkernel));
    assert_eq!(shares(&S2Config { head_sliding_step: Some(-1), ..phi3.clone() }), shares(&dkernel));
    // Four query heads of a KV head, each with columns of its own.
    assert_eq!(shares(&phi3), [56.3, 51.6, 50.4, 50.1, 50.1]);
}

#[test]
fn what_was_allocated_is_what_was_promised() {
    for stream in streams(1) {
        let shape = shape(3, (4, 2), (16, 1000), DIM);
        let layout = CacheLayout::new(&S2Config { local_blocks: 2, ..S2Config::default() }, &shape).unwrap();
        let mut cache = Cache::<bf16>::new(&stream, &layout).unwrap();
        let pages: usize = cache.pages_mut().iter().map(|pool| 2 * pool.layout().len()).sum();
        let table = 4 * cache.block_table().layout().len();
        // The two maps that fill the table are as large as that of a sequence each.
        assert_eq!(layout.bytes(), pages + table + 2 * table / 3);
    }
}

#[test]
fn refusals() {
    let shape = shape(2, (4, 2), (4, 512), DIM);
    let refused = |config: S2Config| CacheLayout::new(&config, &shape).unwrap_err();
    let relative =
        S2Config { columns: Some(S2Columns::Relative), local_blocks: 2, vertical_stride: 3, ..S2Config::default() };
    let error = refused(relative.clone());
    assert!(matches!(error, Error::Unsupported { .. }));
    let text = error.to_string();
    assert!(text.contains("key block 0 of plan head 0 is dropped by query block 2 and back at 4"), "{text}");
    assert!(matches!(refused(S2Config { causal: false, ..S2Config::default() }), Error::Unsupported { .. }));
    // Relative columns that no sequence of this length reaches never return.
    assert!(CacheLayout::new(&S2Config { vertical_stride: 30, ..relative }, &shape).is_ok());
    assert!(matches!(
        refused(S2Config { block_size: 48, ..S2Config::default() }),
        Error::Value { what: "block_size", .. }
    ));

    for stream in streams(2) {
        let layout = CacheLayout::new(&S2Config::default(), &shape).unwrap();
        let mut cache = Cache::<bf16>::new(&stream, &layout).unwrap();
        assert!(Cache::<lacuna::f16>::new(&stream, &layout).is_err());
        let tensor = |batch, heads, len| Tensor::<bf16>::zeros(&stream, [batch, heads, len, DIM]).unwrap();
        let lens = Tensor::vector(&stream, &[4, 4]).unwrap();
        let mut append = |k: &Tensor<bf16>, v: &Tensor<bf16>, lens: &Tensor<i32>, queries| {
            cache.append(&stream, k.view(), v.view(), lens, None, queries).unwrap_err().to_string()
        };
        let good = tensor(2, 2, 4);
        assert!(append(&tensor(2, 4, 4), &good, &lens, 4).starts_with("k: expected [2, 2, 4, 32]"));
        assert!(append(&good, &tensor(2, 2, 5), &lens, 4).starts_with("v: expected [2, 2, 4, 32]"));
        assert!(append(&good, &good, &Tensor::vector(&stream, &[4]).unwrap(), 4).starts_with("kv_lens"));
        assert!(append(&good, &good, &lens, 5).starts_with("queries must be at most 4"));
        assert!(matches!(cache.paged(513), Err(Error::Value { what: "kv_len", .. })));
    }
}

/// Lengths that no sequence can have: nothing is written outside of the cache, and what fits is.
#[test]
fn lengths_are_data() {
    let config = S2Config { block_size: 16, local_blocks: 2, vertical_stride: 3, ..S2Config::default() };
    let shape = shape(4, (2, 1), (1, 100), DIM);
    for stream in streams(9) {
        let layout = CacheLayout::new(&config, &shape).unwrap();
        for (lens, added) in [
            ([-5, 0, i32::MIN, i32::MAX], [40; 4]),
            ([10, 105, 112, 200], [40; 4]),
            ([20, 50, 7, 100], [-3, i32::MAX, i32::MIN, 41]),
        ] {
            let mut cache = Cache::<bf16>::new(&stream, &layout).unwrap();
            let new = Tensor::<bf16>::random(&stream, [4, 1, 40, DIM], 1).unwrap();
            let (lens, added) = (Tensor::vector(&stream, &lens).unwrap(), Tensor::vector(&stream, &added).unwrap());
            cache.append(&stream, new.view(), new.view(), &lens, Some(&added), 1).unwrap();
            let table = cache.block_table().to_vec(&stream).unwrap();
            let pages = (4 * layout.pages()) as i32;
            assert!(table.iter().all(|&page| (-1..pages).contains(&page)), "{table:?}");
        }
    }
}
