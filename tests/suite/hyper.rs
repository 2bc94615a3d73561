//! HyperAttention against its f64 estimator: hashes, orders, outputs.

use crate::harness::{Case, Outcome, Storage, shape, simt, streams, uniform};
use lacuna::methods::hyper;
use lacuna::reference::{HyperEstimator, HyperRanks, TokenMask, hyper_hash, value_shares};
use lacuna::{
    BucketOrder, Error, Half, HyperConfig, HyperPlan, KernelFamily, Mask, Sampling, Stream, Tensor, attention, bf16,
    f16,
};
use proptest::prelude::*;

const SAMPLINGS: [Sampling; 4] = [Sampling::Uniform, Sampling::Distinct, Sampling::Stratified, Sampling::Values];

/// Rows nearer to a neighbouring bucket than this may be hashed into it by f32.
const TIE: f64 = 1e-5;

#[derive(Debug, Clone)]
pub struct HyperCase {
    pub case: Case,
    pub config: HyperConfig,
    /// Given ones; none: drawn from the seed.
    pub projections: Option<Vec<f32>>,
    pub samples: Option<Vec<i32>>,
    /// Added to every element of k: softmax does not change, buckets do unless they are centred.
    pub key_offset: f32,
    /// All keys are the first one.
    pub same_keys: bool,
}

pub struct Hashed {
    pub outcome: Outcome,
    pub ranks: [Vec<u16>; 2],
    orders: [Vec<i32>; 2],
    shares: Option<Vec<u16>>,
}

impl HyperCase {
    pub fn new(shape: lacuna::AttentionShape, mask: Mask, config: HyperConfig) -> Self {
        let case = Case::new(shape, mask);
        Self { case, config, projections: None, samples: None, key_offset: 0.0, same_keys: false }
    }

    fn inputs<T: Half>(&self) -> [Vec<T>; 3] {
        let [q, mut k, mut v] = self.case.inputs::<T>();
        let dim = self.case.shape.head_dim;
        if self.config.sampling == Sampling::Values {
            uneven(&mut v, dim);
        }
        if self.same_keys {
            let first = k[..dim].to_vec();
            k.chunks_mut(dim).for_each(|row| row.copy_from_slice(&first));
        }
        k.iter_mut().for_each(|x| *x = T::from_f32(x.to_f32() + self.key_offset));
        [q, k, v]
    }

    fn projections(&self) -> Vec<f32> {
        let of_round =
            |round| hyper::projections(self.config.seed, round, self.case.shape.head_dim, self.config.num_projections);
        self.projections.clone().unwrap_or_else(|| (0..self.config.rounds).flat_map(of_round).collect())
    }

    pub fn run<T: Half>(&self, stream: &Stream) -> Hashed {
        let shape = lacuna::AttentionShape { dtype: T::DTYPE, ..self.case.shape };
        let [q, k, v] = self.inputs::<T>();
        let tensor = |values: &[T], storage: Storage, dims| {
            let mut tensor = Tensor::with_layout(stream, storage.layout(dims)).unwrap();
            tensor.copy_from_slice(stream, values).unwrap();
            tensor
        };
        let storage = self.case.storage;
        let q = tensor(&q, storage[0], self.case.q_dims());
        let k = tensor(&k, storage[1], self.case.kv_dims());
        let v = tensor(&v, storage[2], self.case.kv_dims());
        let mut out = Tensor::<T>::with_layout(stream, storage[3].layout(self.case.q_dims())).unwrap();
        let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1]).unwrap();
        out.fill_bytes(stream, 0xFF).unwrap();
        lse.fill_bytes(stream, 0xFF).unwrap();

        let mut plan = HyperPlan::new(stream, &shape, &self.case.mask, &self.config).unwrap();
        plan.set_family(self.case.family);
        assert!(!plan.is_exact() && plan.memory_bytes() > 0);
        if let Some(projections) = &self.projections {
            let dims = [1, self.config.rounds, shape.head_dim, self.config.num_projections];
            plan.set_projections(Tensor::from_slice(stream, projections, dims).unwrap()).unwrap();
        }
        if let Some(samples) = &self.samples {
            let dims = [1, shape.batch, shape.kv_heads, self.config.sample_size];
            plan.set_samples(Tensor::from_slice(stream, samples, dims).unwrap()).unwrap();
        }
        plan.update_with_values(stream, q.view(), k.view(), v.view()).unwrap();
        let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan)).unwrap();
        workspace.fill(stream, 0xFF).unwrap();
        attention::hyper_forward(
            stream,
            &plan,
            self.case.scale,
            q.view(),
            k.view(),
            v.view(),
            out.view_mut(),
            Some(lse.view_mut()),
            &mut workspace,
        )
        .unwrap_or_else(|error| panic!("{error}\n{self:?}"));
        let values: Vec<f32> = out.to_vec(stream).unwrap().into_iter().map(T::to_f32).collect();
        let storage = out.storage_to_vec(stream).unwrap();
        let poisoned = storage.iter().filter(|x| x.to_f32().is_nan()).count();
        let nan = values.iter().filter(|x| x.is_nan()).count();
        assert_eq!(poisoned - nan, storage.len() - out.layout().len(), "gaps of out were written: {self:?}");
        Hashed {
            outcome: Outcome { out: values, lse: lse.to_vec(stream).unwrap() },
            ranks: plan.ranks(stream).unwrap().unwrap(),
            orders: plan.orders(stream).unwrap().unwrap(),
            shares: plan.shares(stream).unwrap(),
        }
    }

    pub fn estimator(&self, hashed: &Hashed) -> HyperEstimator {
        let samples: Option<Vec<usize>> =
            self.samples.as_ref().map(|samples| samples.iter().map(|&at| at as usize).collect());
        let ranks = HyperRanks { q: &hashed.ranks[0], k: &hashed.ranks[1], v_shares: hashed.shares.as_deref() };
        HyperEstimator::new(&self.config, &self.case.shape, &self.case.mask, ranks, samples.as_deref()).unwrap()
    }

    /// Buckets as the reference has them, apart from ties.
    fn check_ranks<T: Half>(&self, ranks: &[Vec<u16>; 2]) {
        let [q, k, _] = self.inputs::<T>();
        let s = &self.case.shape;
        let projections: Vec<f64> = self.projections().iter().map(|&x| f64::from(x)).collect();
        for (x, heads, len, ranks) in [(q, s.q_heads, s.q_len, &ranks[0]), (k, s.kv_heads, s.kv_len, &ranks[1])] {
            let x: Vec<f64> = x.iter().map(|x| f64::from(x.to_f32())).collect();
            let dims = [s.batch * heads, len, s.head_dim];
            let hash = |projections: &[f64]| hyper_hash(&self.config, &x, dims, projections).unwrap();
            let rounds: Vec<_> = projections.chunks(projections.len() / self.config.rounds).map(hash).collect();
            let of_round = dims[0] * len;
            assert_eq!(ranks.len(), self.config.rounds * of_round);
            for (row, got) in ranks.iter().enumerate() {
                let (expected, row) = (&rounds[row / of_round], row % of_round);
                let (rank, margin) = (expected.ranks[row], expected.margins[row]);
                assert!(*got == rank || margin < TIE, "row {row}: {got}, not {rank} by {margin:e}: {self:?}");
            }
        }
    }

    /// Shares as the reference has them, but for one that f32 can't tell.
    fn check_shares<T: Half>(&self, shares: &Option<Vec<u16>>) {
        let by_values =
            self.config.sampling == Sampling::Values && self.config.sample_size > 0 && self.samples.is_none();
        assert_eq!(shares.is_some(), by_values);
        let Some(shares) = shares else { return };
        let s = &self.case.shape;
        let v: Vec<f64> = self.inputs::<T>()[2].iter().map(|x| f64::from(x.to_f32())).collect();
        let expected = value_shares(&v, [s.batch * s.kv_heads, s.kv_len, s.head_dim]).unwrap();
        assert_eq!(shares.len(), expected.len());
        for (row, (got, share)) in shares.iter().zip(expected).enumerate() {
            assert!(got.abs_diff(share) <= 1, "row {row}: {got}, not {share}: {self:?}");
        }
    }

    /// Each sorted segment is the stable order of its rows' buckets.
    fn check_orders(&self, hashed: &Hashed) {
        let s = &self.case.shape;
        let mut pairs = vec![];
        if self.case.mask.causal {
            halve(0, 0, s.q_len, self.config.min_seq_len.max(1), &mut pairs);
        } else {
            pairs.push((0, 0..s.q_len, 0..s.kv_len));
        }
        let check =
            |ranks: &[u16], order: &[i32], level: usize, heads: usize, len: usize, rows: &std::ops::Range<usize>| {
                for head in 0..s.batch * heads {
                    let mut expected: Vec<i32> = rows.clone().map(|row| row as i32).collect();
                    expected.sort_by_key(|&row| ranks[head * len + row as usize]);
                    let start = (level * s.batch * heads + head) * len + rows.start;
                    assert_eq!(order[start..start + rows.len()], expected, "level {level}, head {head}: {self:?}");
                }
            };
        for round in 0..self.config.rounds {
            let of_round = |side: usize| {
                let (ranks, orders) = (&hashed.ranks[side], &hashed.orders[side]);
                let part = |len: usize| len / self.config.rounds * round..len / self.config.rounds * (round + 1);
                (&ranks[part(ranks.len())], &orders[part(orders.len())])
            };
            for (level, queries, keys) in &pairs {
                let (ranks, order) = of_round(0);
                check(ranks, order, *level, s.q_heads, s.q_len, queries);
                let (ranks, order) = of_round(1);
                check(ranks, order, *level, s.kv_heads, s.kv_len, keys);
            }
        }
    }

    fn check<T: Half>(&self, stream: &Stream) -> Hashed {
        let hashed = self.run::<T>(stream);
        self.check_ranks::<T>(&hashed.ranks);
        self.check_orders(&hashed);
        self.check_shares::<T>(&hashed.shares);
        let inputs = self.inputs::<T>();
        let compared = self.case.compare_inputs(&inputs, &hashed.outcome, &self.estimator(&hashed));
        compared.unwrap_or_else(|text| panic!("{}: {text}\n{self:?}", stream.device().name()));
        hashed
    }

    pub fn with_family(&self, family: KernelFamily) -> Self {
        Self { case: Case { family, ..self.case.clone() }, ..self.clone() }
    }

    /// On every device, by every family that serves the case there.
    pub fn check_all<T: Half>(&self) {
        for stream in streams(self.case.seed) {
            self.with_family(KernelFamily::Portable).check::<T>(&stream);
            if self.runs_on_hopper(&stream) {
                self.with_family(KernelFamily::Hopper).check::<T>(&stream);
            }
        }
    }

    fn runs_on_hopper(&self, stream: &Stream) -> bool {
        let shape = &self.case.shape;
        let mut plan = HyperPlan::new(stream, shape, &self.case.mask, &self.config).unwrap();
        plan.set_family(KernelFamily::Hopper);
        let odd = self.case.storage.contains(&Storage::Odd);
        let tiny = self.case.scale.is_some_and(|scale| scale < 1e-20);
        match attention::hyper_kernel(stream.device(), &plan) {
            Ok(kernel) => {
                assert!([64, 128].contains(&shape.head_dim) && kernel.family == KernelFamily::Hopper);
                !odd && !tiny
            }
            Err(Error::NoKernel { .. }) => false,
            Err(Error::Unsupported { .. }) => {
                assert!(![64, 128].contains(&shape.head_dim) || self.config.rounds > 1);
                false
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The pairs of a causal call: level, queries, keys.
fn halve(
    level: usize,
    start: usize,
    len: usize,
    least: usize,
    pairs: &mut Vec<(usize, std::ops::Range<usize>, std::ops::Range<usize>)>,
) {
    if len < 2 * least {
        return;
    }
    let first = len.div_ceil(2);
    halve(level + 1, start, first, least, pairs);
    halve(level + 1, start + first, len - first, least, pairs);
    pairs.push((level, start + first..start + len, start..start + first));
}

/// Rows of v of different norms, zeros among them.
pub fn uneven<T: Half>(v: &mut [T], dim: usize) {
    for (row, v) in v.chunks_mut(dim).enumerate() {
        v.iter_mut().for_each(|x| *x = T::from_f32(x.to_f32() * (row * 7 % 5) as f32 / 4.0));
    }
}

pub fn small(min_seq_len: usize, block_size: usize, sample_size: usize) -> HyperConfig {
    HyperConfig { min_seq_len, block_size, sample_size, ..HyperConfig::default() }
}

#[test]
fn not_causal() {
    let case = HyperCase::new(shape(2, (4, 2), (200, 200), 64), Mask::FULL, small(1, 32, 48));
    case.check_all::<bf16>();
    case.check_all::<f16>();
}

#[test]
fn causal() {
    let case = HyperCase::new(shape(2, (4, 2), (256, 256), 64), Mask::CAUSAL, small(32, 32, 48));
    case.check_all::<bf16>();
    case.check_all::<f16>();
}

#[test]
fn given_projections_and_samples() {
    let mut state = 7;
    let projections = (0..64 * 5).map(|_| uniform(&mut state)).collect();
    let samples = (0..2 * 2 * 40).map(|_| ((uniform(&mut state) + 0.5) * 150.0) as i32).collect();
    let config = HyperConfig { num_projections: 5, ..small(1, 32, 40) };
    let case = HyperCase::new(shape(2, (4, 2), (170, 150), 64), Mask::FULL, config);
    HyperCase { projections: Some(projections), samples: Some(samples), ..case }.check_all::<bf16>();
}

#[test]
fn head_dims() {
    for head_dim in [32, 64, 96, 128, 256] {
        HyperCase::new(shape(1, (2, 1), (150, 190), head_dim), Mask::FULL, small(1, 48, 40)).check_all::<bf16>();
        HyperCase::new(shape(1, (2, 1), (150, 150), head_dim), Mask::CAUSAL, small(20, 32, 20)).check_all::<f16>();
    }
}

#[test]
fn lengths() {
    for (lens, block) in
        [((1, 1), 16), ((1, 100), 16), ((100, 1), 16), ((3, 50), 256), ((65, 300), 64), ((300, 65), 64)]
    {
        HyperCase::new(shape(1, (2, 2), lens, 64), Mask::FULL, small(1, block, 20)).check_all::<bf16>();
    }
    for (len, least) in [(2, 1), (3, 1), (5, 1), (17, 2), (63, 8), (64, 8), (65, 8), (127, 16), (129, 16), (255, 64)] {
        HyperCase::new(shape(1, (2, 1), (len, len), 32), Mask::CAUSAL, small(least, 16, 8)).check_all::<bf16>();
    }
}

#[test]
fn block_and_sample_sizes() {
    for (block, samples) in [(1, 3), (16, 0), (16, 1), (100, 64), (64, 65), (200, 16), (1000, 16), (32, 500)] {
        HyperCase::new(shape(1, (2, 1), (130, 130), 32), Mask::FULL, small(1, block, samples)).check_all::<bf16>();
        HyperCase::new(shape(1, (2, 1), (130, 130), 32), Mask::CAUSAL, small(30, block, samples)).check_all::<bf16>();
    }
}

#[test]
fn projections_of_one_and_two_passes() {
    for num_projections in [1, 2, 8, 9, 15, 16] {
        for bucket_order in [BucketOrder::Gray, BucketOrder::Compat] {
            let config = HyperConfig { num_projections, bucket_order, ..small(1, 32, 16) };
            HyperCase::new(shape(1, (2, 1), (300, 280), 64), Mask::FULL, config.clone()).check_all::<bf16>();
            let causal = HyperConfig { min_seq_len: 40, ..config };
            HyperCase::new(shape(1, (2, 1), (170, 170), 64), Mask::CAUSAL, causal).check_all::<bf16>();
        }
    }
}

/// Chunks of the sort and of the means, and their ends.
#[test]
fn long_sequences_sort_in_chunks() {
    for stream in streams(3) {
        for num_projections in [4, 11] {
            let config = HyperConfig { num_projections, ..small(1, 256, 16) };
            let case = HyperCase::new(shape(1, (1, 1), (2049, 5000), 32), Mask::FULL, config);
            let hashed = case.run::<bf16>(&stream);
            case.check_ranks::<bf16>(&hashed.ranks);
            case.check_orders(&hashed);
        }
        let case = HyperCase::new(shape(1, (1, 1), (4500, 4500), 32), Mask::CAUSAL, small(1000, 256, 16));
        let hashed = case.run::<bf16>(&stream);
        case.check_orders(&hashed);
    }
}

#[test]
fn one_bucket_and_equal_keys() {
    // Without centring a large offset puts every key into one bucket.
    let uncentred = HyperConfig { center: false, ..small(1, 32, 40) };
    let case = HyperCase::new(shape(1, (2, 1), (150, 150), 64), Mask::FULL, uncentred);
    for stream in streams(1) {
        let hashed = HyperCase { key_offset: 50.0, ..case.clone() }.check::<f16>(&stream);
        assert!(hashed.ranks[1].iter().all(|&rank| rank == hashed.ranks[1][0]));
        let centred = HyperConfig { center: true, ..case.config.clone() };
        let hashed = HyperCase { key_offset: 50.0, config: centred.clone(), ..case.clone() }.check::<f16>(&stream);
        assert!(hashed.ranks[1].iter().any(|&rank| rank != hashed.ranks[1][0]));
        HyperCase { same_keys: true, config: centred, ..case.clone() }.check::<bf16>(&stream);
    }
}

#[test]
fn layouts_and_scales() {
    for storage in Storage::ALL {
        for mask in [Mask::FULL, Mask::CAUSAL] {
            let mut case = HyperCase::new(shape(2, (4, 2), (90, 90), 64), mask, small(20, 16, 24));
            case.case.storage = [storage; 4];
            case.check_all::<bf16>();
        }
    }
    for scale in [2.5, -2.5, 0.0, 1e-30] {
        let mut case = HyperCase::new(shape(1, (2, 1), (90, 90), 64), Mask::CAUSAL, small(20, 16, 24));
        case.case.scale = Some(scale);
        case.check_all::<f16>();
    }
}

#[test]
fn short_calls_are_exact() {
    for stream in streams(2) {
        for (lens, mask) in [((60, 90), Mask::FULL), ((60, 90), Mask::CAUSAL), ((127, 127), Mask::CAUSAL)] {
            let case = Case::new(shape(1, (2, 1), lens, 64), mask);
            let config = small(64, 16, 16);
            let mut plan = HyperPlan::new(&stream, &case.shape, &mask, &config).unwrap();
            assert!(plan.is_exact() && plan.levels() == 0 && plan.ranks(&stream).unwrap().is_none());
            let [q, k, v] = case.inputs::<bf16>();
            let q = Tensor::from_slice(&stream, &q, case.q_dims()).unwrap();
            let k = Tensor::from_slice(&stream, &k, case.kv_dims()).unwrap();
            let v = Tensor::from_slice(&stream, &v, case.kv_dims()).unwrap();
            plan.update(&stream, q.view(), k.view()).unwrap();
            let mut out = Tensor::<bf16>::uninit(&stream, case.q_dims()).unwrap();
            let mut lse = Tensor::<f32>::uninit(&stream, [1, 2, lens.0, 1]).unwrap();
            let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan)).unwrap();
            let (out_view, lse_view) = (out.view_mut(), Some(lse.view_mut()));
            let (q, k, v) = (q.view(), k.view(), v.view());
            attention::hyper_forward(&stream, &plan, None, q, k, v, out_view, lse_view, &mut workspace).unwrap();
            let out = out.to_vec(&stream).unwrap().into_iter().map(Half::to_f32).collect();
            let outcome = Outcome { out, lse: lse.to_vec(&stream).unwrap() };
            case.compare::<bf16>(&outcome, &TokenMask { shape: &case.shape, mask: &mask }).unwrap();
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    let stream = simt(4);
    let both = HyperCase::new(shape(2, (2, 1), (96, 96), 64), Mask::CAUSAL, small(24, 16, 16));
    let all = both.run::<bf16>(&stream).outcome;
    let [q, k, v] = both.inputs::<bf16>();
    let sized = |values: &[bf16], heads: usize| values[heads * 96 * 64..].to_vec();
    let (q, k, v) = (sized(&q, 2), sized(&k, 1), sized(&v, 1));
    let shape = shape(1, (2, 1), (96, 96), 64);
    let tensor = |values: &[bf16], heads| Tensor::from_slice(&stream, values, [1, heads, 96, 64]).unwrap();
    let (q, k, v) = (tensor(&q, 2), tensor(&k, 1), tensor(&v, 1));
    let mut plan = HyperPlan::new(&stream, &shape, &Mask::CAUSAL, &both.config).unwrap();
    plan.update(&stream, q.view(), k.view()).unwrap();
    let mut out = Tensor::<bf16>::uninit(&stream, [1, 2, 96, 64]).unwrap();
    let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan)).unwrap();
    let (q, k, v) = (q.view(), k.view(), v.view());
    attention::hyper_forward(&stream, &plan, None, q, k, v, out.view_mut(), None, &mut workspace).unwrap();
    let got: Vec<f32> = out.to_vec(&stream).unwrap().into_iter().map(|x| x.to_f32()).collect();
    assert_eq!(got, all.out[2 * 96 * 64..]);
}

#[test]
fn bad_requests_are_refused() {
    let stream = simt(1);
    let shape = shape(1, (2, 1), (100, 100), 64);
    let new = |mask, config: &HyperConfig| HyperPlan::new(&stream, &shape, &mask, config);
    let odd = lacuna::AttentionShape { head_dim: 48, ..shape };
    let config = small(8, 16, 16);
    assert!(matches!(HyperPlan::new(&stream, &odd, &Mask::FULL, &config), Err(Error::Unsupported { .. })));
    assert!(matches!(
        new(Mask::FULL, &HyperConfig { num_projections: 17, ..config.clone() }),
        Err(Error::Value { .. })
    ));
    let mut causal = new(Mask::CAUSAL, &config).unwrap();
    let samples = || Tensor::<i32>::zeros(&stream, [1, 1, 1, 16]).unwrap();
    assert!(matches!(causal.set_samples(samples()), Err(Error::Value { what: "samples", .. })));
    let mut plan = new(Mask::FULL, &config).unwrap();
    assert!(plan.set_samples(samples()).is_ok());
    let short = Tensor::<i32>::zeros(&stream, [1, 1, 1, 15]).unwrap();
    assert!(matches!(plan.set_samples(short), Err(Error::Shape { what: "samples", .. })));
    let narrow = Tensor::<f32>::zeros(&stream, [1, 1, 64, 6]).unwrap();
    assert!(matches!(plan.set_projections(narrow), Err(Error::Shape { what: "projections", .. })));

    let q = Tensor::<bf16>::zeros(&stream, [1, 2, 100, 64]).unwrap();
    let k = Tensor::<bf16>::zeros(&stream, [1, 1, 100, 64]).unwrap();
    let mut out = Tensor::<bf16>::zeros(&stream, [1, 2, 100, 64]).unwrap();
    let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan)).unwrap();
    let mut run = |plan: &HyperPlan| {
        let (q, k) = (q.view(), k.view());
        attention::hyper_forward(&stream, plan, None, q, k, k, out.view_mut(), None, &mut workspace)
    };
    assert!(matches!(run(&plan), Err(Error::Value { what: "plan", .. })));
    assert!(matches!(plan.update(&stream, k.view(), k.view()), Err(Error::Shape { what: "q", .. })));
    plan.update(&stream, q.view(), k.view()).unwrap();
    run(&plan).unwrap();
    causal.update(&stream, q.view(), k.view()).unwrap();
    assert!(matches!(run(&causal), Err(Error::Shape { what: "workspace", .. })));
}

/// Samples from device memory that name no place are attended by nobody.
#[test]
fn samples_out_of_range_are_skipped() {
    let config = small(1, 16, 6);
    let case = HyperCase::new(shape(1, (1, 1), (64, 64), 32), Mask::FULL, config.clone());
    let given = |samples: &[i32]| HyperCase { samples: Some(samples.to_vec()), ..case.clone() };
    for stream in streams(1) {
        let got = given(&[5, -1, 64, 40, i32::MAX, i32::MIN]).run::<bf16>(&stream);
        // The same two samples, each with the weight of six.
        let visible = given(&[5, 40, 0, 0, 0, 0]).estimator(&got);
        let two = Skipping { visible, order: got.orders[1].clone(), places: [5, 40] };
        case.case.compare_inputs(&case.inputs::<bf16>(), &got.outcome, &two).unwrap();
    }
}

/// An estimator whose samples count at some places only.
struct Skipping {
    visible: HyperEstimator,
    order: Vec<i32>,
    places: [usize; 2],
}

impl lacuna::reference::Visibility for Skipping {
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(std::ops::Range<usize>, f64)) {
        let sampled: Vec<usize> = self.places.iter().map(|&place| self.order[place] as usize).collect();
        self.visible.runs(b, h, t, &mut |run, weight| {
            if weight == 0.0 || sampled.contains(&run.start) {
                visit(run, weight);
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_call(
        batch in 1usize..3, group in 1usize..4, kv_heads in 1usize..3, q_len in 2usize..200, kv_len in 1usize..200,
        head_dim in prop::sample::select(vec![32usize, 64, 96, 128]), causal: bool, half: bool, seed: u64,
        storage in prop::array::uniform4(prop::sample::select(Storage::ALL.to_vec())),
        sizes in (1usize..80, 0usize..80, 1usize..60), num_projections in 1usize..=16, center: bool, gray: bool,
        sampling in prop::sample::select(SAMPLINGS.to_vec()),
        sinks in prop::sample::select(vec![0usize, 0, 1, 30, 90]), local in 0usize..60, align_windows: bool,
        rounds in prop::sample::select(vec![1usize, 1, 2, 3]),
    ) {
        let (mask, kv_len) = if causal { (Mask::CAUSAL, q_len) } else { (Mask::FULL, kv_len) };
        let (block_size, sample_size, least) = sizes;
        let config = HyperConfig {
            num_projections,
            rounds,
            block_size,
            sample_size,
            sampling,
            sinks,
            align_windows,
            local_window: if causal && local % 2 == 1 { local.min(least).min(q_len / 2) } else { 0 },
            min_seq_len: least.min(q_len / 2),
            bucket_order: if gray { BucketOrder::Gray } else { BucketOrder::Compat },
            center,
            seed,
        };
        let shape = shape(batch, (group * kv_heads, kv_heads), (q_len, kv_len), head_dim);
        let mut case = HyperCase::new(shape, mask, config);
        (case.case.storage, case.case.seed) = (storage, seed);
        if half { case.check_all::<f16>() } else { case.check_all::<bf16>() }
    }
}
