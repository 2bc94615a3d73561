//! Sequences of different lengths in one call: each has the bits of a call of its own, whatever the others are.

use crate::harness::{Case, Outcome, shape, simt, streams, uniform};
use lacuna::{
    AttentionShape, BlockFormula, BlockPlan, BlockSize, Device, Error, ForwardOptions, Half, KernelFamily, Mask,
    PagedKv, Ragged, Result, Schedule, SimtAsync, SimtConfig, SimtPolicy, Stream, Tensor, attention, bf16, f16,
};

/// Where queries and keys of the sequences are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Keys {
    Packed,
    /// `kv_lens` over rows of `kv_len` keys.
    Padded,
    /// `kv_lens` over pages of 32 keys: rows are gathered.
    Paged,
    /// `kv_lens` over pages of 64 keys.
    WidePages,
}

/// A batch of sequences as (queries, keys), with seven rows of no sequence at the end of what is packed.
#[derive(Debug, Clone)]
struct Batch {
    lens: Vec<(usize, usize)>,
    heads: (usize, usize),
    head_dim: usize,
    mask: Mask,
    packed_queries: bool,
    keys: Keys,
    family: KernelFamily,
}

const GAP: usize = 7;

impl Keys {
    fn page(self) -> Option<usize> {
        match self {
            Keys::Packed | Keys::Padded => None,
            Keys::Paged => Some(32),
            Keys::WidePages => Some(64),
        }
    }
}

impl Batch {
    fn new(lens: &[(usize, usize)], mask: Mask) -> Self {
        let family = KernelFamily::Portable;
        Self {
            lens: lens.to_vec(),
            heads: (4, 2),
            head_dim: 64,
            mask,
            packed_queries: true,
            keys: Keys::Packed,
            family,
        }
    }

    fn longest(&self) -> (usize, usize) {
        let longest = |len: fn(&(usize, usize)) -> usize| self.lens.iter().map(len).max().unwrap_or(0);
        (longest(|len| len.0), longest(|len| len.1))
    }

    fn shape<T: Half>(&self) -> AttentionShape {
        let shape = shape(self.lens.len(), self.heads, self.longest(), self.head_dim);
        AttentionShape { dtype: T::DTYPE, ..shape }
    }

    /// One sequence as a case of its own.
    fn alone(&self, sequence: usize) -> Case {
        let case = Case::new(shape(1, self.heads, self.lens[sequence], self.head_dim), self.mask);
        Case { family: self.family, seed: 17 + sequence as u64, ..case }
    }

    /// Starts of the sequences; `given` replaces what the lengths say.
    fn starts(&self, len: fn(&(usize, usize)) -> usize) -> Vec<i32> {
        let mut starts = vec![0];
        starts.extend(self.lens.iter().map(len).scan(0, |end, len| {
            *end += len as i32;
            Some(*end)
        }));
        starts
    }

    /// Runs the batch; rows in the order of the sequences, and whether rows of no sequence stayed as they were.
    fn run<T: Half>(&self, stream: &Stream, plan: &BlockPlan) -> Result<Vec<Outcome>> {
        let vectors = (self.starts(|len| len.0), self.starts(|len| len.1));
        let lens: Vec<i32> = self.lens.iter().map(|len| len.1 as i32).collect();
        self.run_with::<T>(stream, plan, (&vectors.0, &vectors.1, &lens))
    }

    fn run_with<T: Half>(
        &self,
        stream: &Stream,
        plan: &BlockPlan,
        (q_starts, k_starts, lens): (&[i32], &[i32], &[i32]),
    ) -> Result<Vec<Outcome>> {
        let shape = self.shape::<T>();
        let (q_heads, kv_heads) = self.heads;
        let inputs: Vec<[Vec<T>; 3]> = (0..self.lens.len()).map(|sequence| self.alone(sequence).inputs()).collect();
        let (q_len, kv_len) = self.longest();
        let page = self.keys.page().unwrap_or(1);
        let q_place = Place::new(self.packed_queries, &self.lens, |len| len.0, q_len);
        let k_place = Place::new(self.keys == Keys::Packed, &self.lens, |len| len.1, kv_len.next_multiple_of(page));
        let q = q_place.gather(&inputs, 0, q_heads, self.head_dim);
        let k = k_place.gather(&inputs, 1, kv_heads, self.head_dim);
        let v = k_place.gather(&inputs, 2, kv_heads, self.head_dim);
        let tensor = |values: &[T], dims| Tensor::from_slice(stream, values, dims);
        let q = tensor(&q, q_place.dims(q_heads, self.head_dim))?;
        let dims = k_place.dims(kv_heads, self.head_dim);
        let (k, v) = (tensor(&k, dims)?, tensor(&v, dims)?);
        let mut out = Tensor::<T>::uninit(stream, q.dims())?;
        let mut lse = Tensor::<f32>::uninit(stream, [q.dims()[0], q_heads, q.dims()[2], 1])?;
        out.fill_bytes(stream, 0xFF)?;
        lse.fill_bytes(stream, 0xFF)?;
        let (q_starts, k_starts) = (Tensor::vector(stream, q_starts)?, Tensor::vector(stream, k_starts)?);
        let lens = Tensor::vector(stream, lens)?;
        let per_sequence = dims[2] / page;
        // Page p of sequence b is its rows [p * page, (p + 1) * page): a view of the padded tensor, heads first.
        let table: Vec<i32> = (0..(self.lens.len() * per_sequence) as i32).collect();
        let table = Tensor::from_slice(stream, &table, [self.lens.len(), 1, 1, per_sequence])?;
        let (pool_k, pool_v);
        let (mut k_view, mut v_view) = (k.view(), v.view());
        if self.keys.page().is_some() {
            (pool_k, pool_v) = (pages(stream, &k, page)?, pages(stream, &v, page)?);
            (k_view, v_view) = (pool_k.view(), pool_v.view());
        } else if self.keys == Keys::Padded {
            let real = [dims[0], dims[1], kv_len, dims[3]];
            (pool_k, pool_v) = (cut(stream, &k, real)?, cut(stream, &v, real)?);
            (k_view, v_view) = (pool_k.view(), pool_v.view());
        }
        let table_dims = [self.lens.len(), 1, 1, kv_len.div_ceil(page)];
        let table = cut(stream, &table, table_dims)?;
        let options = ForwardOptions {
            mask: self.mask,
            family: self.family,
            paged: self.keys.page().map(|page_size| PagedKv { block_table: table.view(), page_size }),
            ragged: Ragged {
                cu_seqlens_q: self.packed_queries.then(|| q_starts.view()),
                cu_seqlens_k: (self.keys == Keys::Packed).then(|| k_starts.view()),
                kv_lens: (self.keys != Keys::Packed).then(|| lens.view()),
            },
            ..ForwardOptions::default()
        };
        let schedule = Schedule::build(stream, &shape, &options, plan)?;
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
        let (to, rows) = (out.view_mut(), Some(lse.view_mut()));
        attention::forward(
            stream,
            &shape,
            &options,
            plan,
            &schedule,
            q.view(),
            k_view,
            v_view,
            to,
            rows,
            &mut workspace,
        )?;
        let out: Vec<f32> = out.to_vec(stream)?.into_iter().map(T::to_f32).collect();
        Ok(q_place.scatter(&out, &lse.to_vec(stream)?, q_heads, self.head_dim))
    }

    /// Every sequence against a call of its own under `alone`'s plan, and that against the reference, on every family
    /// of kernels that serves the batch. Says whether Hopper's did.
    fn check<T: Half>(
        &self,
        stream: &Stream,
        plan: &BlockPlan,
        alone: impl Fn(&Stream, usize, &Case) -> BlockPlan,
    ) -> bool {
        self.check_family::<T>(stream, plan, &alone);
        let hopper = Batch { family: KernelFamily::Hopper, ..self.clone() };
        let case = Case { shape: self.shape::<T>(), ..hopper.alone(0) };
        let served = match attention::kernel(stream.device(), &case.shape, &case.options(None), plan) {
            Ok(_) => true,
            Err(Error::NoKernel { .. } | Error::Unsupported { .. }) => false,
            Err(error) => panic!("{error}"),
        };
        if served {
            hopper.check_family::<T>(stream, plan, &alone);
        }
        served
    }

    fn check_family<T: Half>(
        &self,
        stream: &Stream,
        plan: &BlockPlan,
        alone: &impl Fn(&Stream, usize, &Case) -> BlockPlan,
    ) {
        let all = self.run::<T>(stream, plan).unwrap_or_else(|error| panic!("{error}\n{self:?}"));
        for (sequence, outcome) in all.iter().enumerate().take(self.lens.len()) {
            let case = self.alone(sequence);
            if self.mask.causal && case.shape.q_len > case.shape.kv_len {
                continue; // no call of its own: see queries_before_the_first_key
            }
            let plan = alone(stream, sequence, &case);
            let expected = case.run::<T>(stream, &plan).unwrap();
            assert!(outcome.same_bits(&expected), "sequence {sequence} of {self:?}");
            let blocks = plan.block_mask(stream, &case.shape, &case.mask).unwrap();
            case.compare::<T>(outcome, &blocks.visibility(&case.shape, &case.mask)).unwrap();
        }
        let rest = &all[self.lens.len()];
        assert!(rest.out.iter().chain(&rest.lse).all(|x| x.is_nan()), "rows of no sequence were written: {self:?}");
    }
}

/// Where the rows of the sequences are in a tensor.
struct Place {
    /// First row, count.
    rows: Vec<(usize, usize)>,
    per_batch: usize,
    packed: bool,
}

impl Place {
    fn new(packed: bool, lens: &[(usize, usize)], len: fn(&(usize, usize)) -> usize, padded: usize) -> Self {
        let mut end = 0;
        let rows = lens.iter().map(|lens| {
            let first = end;
            end += if packed { len(lens) } else { padded };
            (first, len(lens))
        });
        let rows = rows.collect();
        Self { rows, per_batch: if packed { end + GAP } else { padded }, packed }
    }

    fn dims(&self, heads: usize, width: usize) -> [usize; 4] {
        [if self.packed { 1 } else { self.rows.len() }, heads, self.per_batch, width]
    }

    /// Element index of a row.
    fn index(&self, heads: usize, head: usize, row: usize) -> usize {
        row / self.per_batch * heads * self.per_batch + head * self.per_batch + row % self.per_batch
    }

    /// The tensor; rows of no sequence are NaN.
    fn gather<T: Half>(&self, inputs: &[[Vec<T>; 3]], which: usize, heads: usize, width: usize) -> Vec<T> {
        let mut all = vec![T::from_f32(f32::NAN); self.dims(heads, width).iter().product()];
        for ((first, len), input) in self.rows.iter().zip(inputs) {
            for head in 0..heads {
                for row in 0..*len {
                    let to = self.index(heads, head, first + row) * width;
                    let from = (head * len + row) * width;
                    all[to..to + width].copy_from_slice(&input[which][from..from + width]);
                }
            }
        }
        all
    }

    /// The results of each sequence, and at the end those of no sequence.
    fn scatter(&self, out: &[f32], lse: &[f32], heads: usize, width: usize) -> Vec<Outcome> {
        let mut taken = vec![false; lse.len()];
        let mut all = Vec::new();
        for (first, len) in &self.rows {
            let mut outcome = Outcome { out: Vec::new(), lse: Vec::new() };
            for head in 0..heads {
                for row in 0..*len {
                    let at = self.index(heads, head, first + row);
                    taken[at] = true;
                    outcome.out.extend(&out[at * width..(at + 1) * width]);
                    outcome.lse.push(lse[at]);
                }
            }
            all.push(outcome);
        }
        let mut rest = Outcome { out: Vec::new(), lse: Vec::new() };
        if self.packed {
            for at in (0..lse.len()).filter(|&at| !taken[at]) {
                rest.out.extend(&out[at * width..(at + 1) * width]);
                rest.lse.push(lse[at]);
            }
        }
        all.push(rest);
        all
    }
}

/// `[b, h, n, d]` as pages of `page_size` rows.
fn pages<T: Half>(stream: &Stream, tensor: &Tensor<T>, page_size: usize) -> Result<Tensor<T>> {
    let [batch, heads, len, width] = tensor.dims();
    let values = tensor.to_vec(stream)?;
    let mut to = Vec::with_capacity(values.len());
    for b in 0..batch {
        for page in 0..len / page_size {
            for head in 0..heads {
                let from = ((b * heads + head) * len + page * page_size) * width;
                to.extend_from_slice(&values[from..from + page_size * width]);
            }
        }
    }
    Tensor::from_slice(stream, &to, [batch * (len / page_size), heads, page_size, width])
}

/// The first elements along each dimension.
fn cut<T: lacuna::Element>(stream: &Stream, tensor: &Tensor<T>, dims: [usize; 4]) -> Result<Tensor<T>> {
    let [_, heads, len, width] = tensor.dims();
    let values = tensor.to_vec(stream)?;
    let mut to = Vec::new();
    for b in 0..dims[0] {
        for head in 0..dims[1] {
            for row in 0..dims[2] {
                let from = ((b * heads + head) * len + row) * width;
                to.extend_from_slice(&values[from..from + dims[3]]);
            }
        }
    }
    Tensor::from_slice(stream, &to, dims)
}

/// Prompts, chunks behind earlier keys, single queries, and sequences without queries or keys.
const MIXED: [(usize, usize); 7] = [(70, 70), (1, 200), (33, 150), (0, 40), (1, 1), (64, 128), (130, 131)];

/// Whether the device has Hopper instructions: then Hopper kernels must have served.
fn has_hopper(stream: &Stream) -> bool {
    let case = Case::new(shape(1, (1, 1), (64, 64), 64), Mask::FULL);
    let kernel = attention::kernel(stream.device(), &case.shape, &case.options(None), &BlockPlan::dense());
    kernel.unwrap().family == KernelFamily::Hopper
}

#[test]
fn dense_attention() {
    let window = Mask { window_left: Some(50), ..Mask::CAUSAL };
    let around = Mask { causal: false, window_left: Some(20), window_right: Some(9) };
    for stream in streams(3) {
        for mask in [Mask::CAUSAL, Mask::FULL, window, around] {
            let batch = Batch::new(&MIXED, mask);
            let dense = |_: &Stream, _: usize, _: &Case| BlockPlan::dense();
            assert_eq!(batch.check::<bf16>(&stream, &BlockPlan::dense(), dense), has_hopper(&stream));
            for keys in [Keys::Padded, Keys::Paged, Keys::WidePages] {
                let batch = Batch { keys, packed_queries: keys != Keys::Padded, ..batch.clone() };
                // Rows of one tensor: every sequence has as many queries.
                let lens = [(40, 40), (40, 177), (40, 90)];
                let batch = if batch.packed_queries { batch } else { Batch { lens: lens.to_vec(), ..batch } };
                assert_eq!(batch.check::<f16>(&stream, &BlockPlan::dense(), dense), has_hopper(&stream));
            }
        }
        for head_dim in [32, 96, 128, 256] {
            let batch = Batch { head_dim, heads: (3, 1), ..Batch::new(&[(20, 50), (1, 33), (70, 70)], Mask::CAUSAL) };
            let hopper = batch.check::<bf16>(&stream, &BlockPlan::dense(), |_, _, _| BlockPlan::dense());
            assert_eq!(hopper, head_dim == 128 && has_hopper(&stream));
        }
    }
}

#[test]
fn formulas_count_the_positions_of_each_sequence() {
    let formula = BlockFormula { vertical_stride: 3, head_step: 1, head_offset: 0, ..BlockFormula::local(2, 1) };
    for stream in streams(4) {
        for block in [16, 64, 128] {
            let plan = || BlockPlan::formula(formula, BlockSize::square(block), 2, true).unwrap();
            for keys in [Keys::Packed, Keys::Paged, Keys::WidePages] {
                let batch = Batch { keys, ..Batch::new(&[(70, 70), (1, 200), (33, 150), (40, 300)], Mask::CAUSAL) };
                let hopper = batch.check::<bf16>(&stream, &plan(), |_, _, _| plan());
                assert_eq!(hopper, block >= 64 && has_hopper(&stream));
            }
            // Blocks of the first query: nothing depends on the keys before it.
            let relative = || BlockPlan::formula(formula, BlockSize::square(block), 4, false).unwrap();
            Batch::new(&MIXED, Mask::FULL).check::<bf16>(&stream, &relative(), |_, _, _| relative());
        }
    }
}

/// The rows of `dims` that a sequence of `lens` has.
fn own_mask(mask: &[u8], dims: [usize; 4], of: usize, to: [usize; 4]) -> Vec<u8> {
    let [batch, heads, q_blocks, kv_blocks] = dims;
    let mut own = Vec::new();
    for head in 0..heads {
        for row in 0..to[2] {
            let from = (((of % batch) * heads + head) * q_blocks + row) * kv_blocks;
            own.extend_from_slice(&mask[from..from + to[3]]);
        }
    }
    own
}

#[test]
fn lists_of_each_sequence_and_of_all() {
    let lens = [(70, 70), (1, 200), (33, 150), (140, 140)];
    for stream in streams(5) {
        for (q, k) in [(16, 32), (64, 64), (128, 128), (128, 16)] {
            for (plan_batch, heads) in [(4, 2), (1, 4)] {
                let batch = Batch::new(&lens, Mask::CAUSAL);
                let longest = batch.longest();
                let dims = [plan_batch, heads, longest.0.div_ceil(q), longest.1.div_ceil(k)];
                let mut state = 7 + q as u64;
                let mask: Vec<u8> = (0..dims.iter().product()).map(|_| u8::from(uniform(&mut state) > 0.1)).collect();
                let plan = BlockPlan::from_mask(&stream, &batch.shape::<bf16>(), q, k, dims, &mask).unwrap();
                let hopper = batch.check::<bf16>(&stream, &plan, |stream, sequence, case| {
                    let own = [1, heads, case.shape.q_len.div_ceil(q), case.shape.kv_len.div_ceil(k)];
                    let mask = own_mask(&mask, dims, sequence, own);
                    BlockPlan::from_mask(stream, &case.shape, q, k, own, &mask).unwrap()
                });
                assert_eq!(hopper, k >= 64 && has_hopper(&stream));
            }
        }
    }
}

#[test]
fn queries_before_the_first_key() {
    for stream in streams(6) {
        let batch = Batch::new(&[(50, 20), (60, 60), (5, 0)], Mask::CAUSAL);
        let all = batch.run::<bf16>(&stream, &BlockPlan::dense()).unwrap();
        let heads = batch.heads.0;
        for (sequence, hidden) in [(0, 30), (2, 5)] {
            let len = batch.lens[sequence].0;
            for head in 0..heads {
                for row in 0..len {
                    let at = head * len + row;
                    let out = &all[sequence].out[at * 64..(at + 1) * 64];
                    let nothing = all[sequence].lse[at] == f32::NEG_INFINITY && out.iter().all(|&x| x == 0.0);
                    assert_eq!(nothing, row < hidden, "sequence {sequence}, row {row}");
                }
            }
        }
    }
}

/// Hopper's pipeline: whoever goes first, and however late copies land.
#[test]
fn every_schedule_gives_the_same_bits() {
    for (keys, head_dim) in [(Keys::Packed, 128), (Keys::WidePages, 64), (Keys::Paged, 128)] {
        let lens = [(130, 190), (0, 70), (40, 40), (66, 133)];
        let batch = Batch { keys, head_dim, family: KernelFamily::Hopper, ..Batch::new(&lens, Mask::CAUSAL) };
        let expected = batch.run::<bf16>(&simt(9), &BlockPlan::dense()).unwrap();
        for policy in [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority] {
            for async_mode in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed] {
                for (seed, sm_count) in [(0, 1), (1, 5), (2, 100)] {
                    let config = SimtConfig { policy, async_mode, sm_count, ..SimtConfig::checked(seed) };
                    let stream = Device::simt_with(config).unwrap().new_stream().unwrap();
                    let outcomes = batch.run::<bf16>(&stream, &BlockPlan::dense()).unwrap();
                    let same = outcomes.iter().zip(&expected).take(lens.len()).all(|(a, b)| a.same_bits(b));
                    assert!(same, "{keys:?} {config:?}");
                }
            }
        }
    }
}

#[test]
fn lengths_are_data() {
    // Guard pages around every tensor: an access out of bounds ends the run.
    let stream = simt(7);
    let lens = [(40, 60), (20, 90), (30, 30)];
    let (all, dense) = (i32::MAX, BlockPlan::dense());
    let formula = BlockPlan::formula(BlockFormula::local(2, 1), BlockSize::square(64), 1, true).unwrap();
    for starts in [[0, all, -5, 9], [-9, 3, 2, all], [i32::MIN, all, i32::MIN, all], [90, 60, 40, 0], [97, 97, 97, 97]]
    {
        for keys in [Keys::Packed, Keys::Paged, Keys::WidePages] {
            for family in [KernelFamily::Portable, KernelFamily::Hopper] {
                let batch = Batch { keys, family, ..Batch::new(&lens, Mask::CAUSAL) };
                let kv_lens = [starts[0], starts[1], starts[3]];
                for plan in [&dense, &formula] {
                    batch.run_with::<bf16>(&stream, plan, (&starts, &starts, &kv_lens)).unwrap();
                }
            }
        }
    }
    // Lengths beyond the longest one are cut to it.
    let batch = Batch::new(&lens, Mask::CAUSAL);
    let cut = batch.run_with::<bf16>(&stream, &dense, (&[0, 50, 60, 90], &[0, 60, 150, 180], &[0; 3])).unwrap();
    let last = 40 - 1;
    assert!(cut[0].lse[last].is_finite() && cut[1].lse[0].is_nan(), "rows 40 to 49 belong to nobody");
}

#[test]
fn what_does_not_fit_is_refused() {
    let stream = simt(8);
    let shape = shape(3, (2, 1), (20, 40), 64);
    let (three, four) = (Tensor::vector(&stream, &[0; 3]).unwrap(), Tensor::vector(&stream, &[0; 4]).unwrap());
    let refused = |ragged, splits| {
        let options = ForwardOptions { ragged, splits, ..ForwardOptions::default() };
        match options.validate(&shape).unwrap_err() {
            Error::Value { what, .. } | Error::Shape { what, .. } => what,
            other => panic!("{other}"),
        }
    };
    let none = Ragged::default();
    assert_eq!(refused(Ragged { cu_seqlens_q: Some(three.view()), ..none }, 1), "cu_seqlens_q");
    assert_eq!(refused(Ragged { cu_seqlens_k: Some(three.view()), ..none }, 1), "cu_seqlens_k");
    assert_eq!(refused(Ragged { kv_lens: Some(four.view()), ..none }, 1), "kv_lens");
    assert_eq!(refused(Ragged { kv_lens: Some(three.view()), cu_seqlens_k: Some(four.view()), ..none }, 1), "kv_lens");
    assert_eq!(refused(Ragged { cu_seqlens_q: Some(four.view()), ..none }, 2), "splits");

    // A schedule belongs to calls of its kind.
    let dims = [1, 1, 1, 1];
    let plan = BlockPlan::from_mask(&stream, &shape, 64, 64, dims, &[1]).unwrap();
    let ragged = ForwardOptions { ragged: Ragged { kv_lens: Some(three.view()), ..none }, ..ForwardOptions::default() };
    let schedule = Schedule::build(&stream, &shape, &ragged, &plan).unwrap();
    let q = Tensor::<bf16>::uninit(&stream, [3, 2, 20, 64]).unwrap();
    let k = Tensor::<bf16>::uninit(&stream, [3, 1, 40, 64]).unwrap();
    let mut out = Tensor::<bf16>::uninit(&stream, [3, 2, 20, 64]).unwrap();
    let options = ForwardOptions::default();
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options)).unwrap();
    let (q, k) = (q.view(), k.view());
    let result =
        attention::forward(&stream, &shape, &options, &plan, &schedule, q, k, k, out.view_mut(), None, &mut workspace);
    assert!(matches!(result, Err(Error::Value { what: "schedule", .. })), "{result:?}");
    let result = attention::decode(
        &stream,
        &lacuna::AttentionShape { q_len: 1, ..shape },
        &ragged,
        &plan,
        None,
        q,
        k,
        k,
        out.view_mut(),
        None,
        &mut workspace,
    );
    assert!(matches!(result, Err(Error::Value { what: "ragged", .. })), "{result:?}");
}
