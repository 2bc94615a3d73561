//! Gradients of HyperAttention against those of its f64 estimator over the buckets that the kernels found.

use crate::harness::{Case, Storage, shape, simt, streams, uniform};
use crate::hyper::uneven;
use lacuna::attention::{self, BackwardInputs, GradientsMut};
use lacuna::reference::{HyperEstimator, HyperRanks, Problem};
use lacuna::{
    AttentionShape, Counters, Device, Error, Half, HyperConfig, HyperPlan, Mask, Sampling, SimtAsync, SimtConfig,
    SimtPolicy, Stream, Tensor, bf16, f16,
};

#[derive(Debug, Clone)]
struct GradCase {
    case: Case,
    config: HyperConfig,
    samples: Option<Vec<i32>>,
    /// All keys are the first one.
    same_keys: bool,
    dlse: bool,
}

struct Answer {
    gradients: [Vec<f32>; 3],
    /// Of an exact call: none.
    ranks: Option<[Vec<u16>; 2]>,
    shares: Option<Vec<u16>>,
    /// Of forward, and of backward.
    counters: [Option<Counters>; 2],
}

impl GradCase {
    fn new(shape: AttentionShape, mask: Mask, config: HyperConfig) -> Self {
        Self { case: Case::new(shape, mask), config, samples: None, same_keys: false, dlse: false }
    }

    fn inputs<T: Half>(&self) -> [Vec<T>; 3] {
        let [q, mut k, mut v] = self.case.inputs::<T>();
        if self.config.sampling == Sampling::Values {
            uneven(&mut v, self.case.shape.head_dim);
        }
        if self.same_keys {
            let first = k[..self.case.shape.head_dim].to_vec();
            k.chunks_mut(first.len()).for_each(|row| row.copy_from_slice(&first));
        }
        [q, k, v]
    }

    fn noise(&self, len: usize, seed: u64) -> Vec<f32> {
        let mut state = (self.case.seed + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..len).map(|_| 2.0 * uniform(&mut state)).collect()
    }

    fn dout<T: Half>(&self) -> Vec<T> {
        self.noise(self.case.q_dims().iter().product(), 101).into_iter().map(T::from_f32).collect()
    }

    fn dlse(&self) -> Vec<f32> {
        let AttentionShape { batch, q_heads, q_len, .. } = self.case.shape;
        self.noise(batch * q_heads * q_len, 202)
    }

    /// Rows of dk and dv that one or two queries make have the error of as many roundings: with some seeds it is above
    /// twice the ideal algorithm's worst (docs/backward.md).
    fn seeded(mut self, seed: u64) -> Self {
        self.case.seed = seed;
        self
    }

    /// Forward and backward; gradients and workspaces are poisoned before.
    fn run<T: Half>(&self, stream: &Stream) -> Answer {
        self.try_run::<T>(stream).unwrap_or_else(|error| panic!("{error}\n{self:?}"))
    }

    fn try_run<T: Half>(&self, stream: &Stream) -> Result<Answer, Error> {
        let shape = AttentionShape { dtype: T::DTYPE, ..self.case.shape };
        let [q, k, v] = self.inputs::<T>();
        let tensor = |values: &[T], storage: Storage, dims| -> Result<Tensor<T>, Error> {
            let mut tensor = Tensor::with_layout(stream, storage.layout(dims))?;
            tensor.copy_from_slice(stream, values)?;
            Ok(tensor)
        };
        let storage = self.case.storage;
        let q = tensor(&q, storage[0], self.case.q_dims())?;
        let (k, v) = (tensor(&k, storage[1], self.case.kv_dims())?, tensor(&v, storage[2], self.case.kv_dims())?);
        let mut out = Tensor::<T>::with_layout(stream, storage[3].layout(self.case.q_dims()))?;
        let rows = [shape.batch, shape.q_heads, shape.q_len, 1];
        let mut lse = Tensor::<f32>::uninit(stream, rows)?;
        let mut plan = HyperPlan::new(stream, &shape, &self.case.mask, &self.config)?;
        if let Some(samples) = &self.samples {
            let dims = [1, shape.batch, shape.kv_heads, self.config.sample_size];
            plan.set_samples(Tensor::from_slice(stream, samples, dims)?)?;
        }
        plan.update_with_values(stream, q.view(), k.view(), v.view())?;
        let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan))?;
        let (scale, sums) = (self.case.scale, Some(lse.view_mut()));
        let written = out.view_mut();
        stream.reset_counters();
        attention::hyper_forward(stream, &plan, scale, q.view(), k.view(), v.view(), written, sums, &mut workspace)?;
        let forward = stream.counters();

        let dout = tensor(&self.dout::<T>(), storage[0], self.case.q_dims())?;
        let dlse = self.dlse.then(|| Tensor::from_slice(stream, &self.dlse(), rows)).transpose()?;
        let poisoned = |storage: Storage, dims| -> Result<Tensor<T>, Error> {
            let mut tensor = Tensor::<T>::with_layout(stream, storage.layout(dims))?;
            tensor.fill_bytes(stream, 0xFF)?;
            Ok(tensor)
        };
        let mut dq = poisoned(storage[3], self.case.q_dims())?;
        let (mut dk, mut dv) = (poisoned(storage[1], self.case.kv_dims())?, poisoned(storage[2], self.case.kv_dims())?);
        let mut workspace = stream.alloc_bytes(attention::hyper_backward_workspace_bytes(stream.device(), &plan)?)?;
        workspace.fill(stream, 0xFF)?;
        let inputs = BackwardInputs {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            out: out.view(),
            lse: lse.view(),
            dout: dout.view(),
            dlse: dlse.as_ref().map(Tensor::view),
        };
        let mut gradients = GradientsMut { dq: dq.view_mut(), dk: dk.view_mut(), dv: dv.view_mut(), dsink: None };
        stream.reset_counters();
        attention::hyper_backward(stream, &plan, scale, &inputs, &mut gradients, &mut workspace)?;
        let backward = stream.counters();
        let wide = |what: &str, tensor: &Tensor<T>| -> Result<Vec<f32>, Error> {
            let values: Vec<f32> = tensor.to_vec(stream)?.into_iter().map(T::to_f32).collect();
            let storage = tensor.storage_to_vec(stream)?;
            let poisoned = storage.iter().filter(|x| x.to_f32().is_nan()).count();
            let nan = values.iter().filter(|x| x.is_nan()).count();
            assert_eq!(poisoned - nan, storage.len() - tensor.layout().len(), "gaps of {what} were written: {self:?}");
            Ok(values)
        };
        let gradients = [wide("dq", &dq)?, wide("dk", &dk)?, wide("dv", &dv)?];
        let (ranks, shares) = (plan.ranks(stream)?, plan.shares(stream)?);
        Ok(Answer { gradients, ranks, shares, counters: [forward, backward] })
    }

    fn check<T: Half>(&self, stream: &Stream) -> Answer {
        let answer = self.run::<T>(stream);
        let wide = |values: &[T]| values.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
        let [q, k, v] = self.inputs::<T>().map(|values| wide(&values));
        let dlse: Option<Vec<f64>> = self.dlse.then(|| self.dlse().into_iter().map(f64::from).collect());
        let shape = AttentionShape { dtype: T::DTYPE, ..self.case.shape };
        let rounds = self.config.rounds;
        let none = [vec![0; rounds * q.len() / shape.head_dim], vec![0; rounds * k.len() / shape.head_dim]];
        let ranks = answer.ranks.as_ref().unwrap_or(&none);
        let samples: Option<Vec<usize>> =
            self.samples.as_ref().map(|samples| samples.iter().map(|&at| at as usize).collect());
        let ranks = HyperRanks { q: &ranks[0], k: &ranks[1], v_shares: answer.shares.as_deref() };
        let estimator = HyperEstimator::new(&self.config, &shape, &self.case.mask, ranks, samples.as_deref()).unwrap();
        let problem = Problem { scale: self.case.scale.map(f64::from), ..Problem::new(shape, &q, &k, &v) };
        let expected = problem.expect_gradients(&estimator, &wide(&self.dout::<T>()), dlse.as_deref()).unwrap();
        let parts = [("dq", &expected.dq), ("dk", &expected.dk), ("dv", &expected.dv)];
        for ((what, expected), got) in parts.into_iter().zip(&answer.gradients) {
            let result = expected.compare(got).unwrap();
            assert!(result.passed(), "{}: {what}: {result}\n{self:?} as {}", stream.device().name(), T::DTYPE);
        }
        answer
    }

    fn check_all<T: Half>(&self) {
        for stream in streams(self.case.seed) {
            self.check::<T>(&stream);
        }
    }
}

fn small(min_seq_len: usize, block_size: usize, sample_size: usize) -> HyperConfig {
    HyperConfig { min_seq_len, block_size, sample_size, ..HyperConfig::default() }
}

#[test]
fn not_causal() {
    let case = GradCase::new(shape(2, (4, 2), (130, 150), 64), Mask::FULL, small(1, 32, 24));
    case.check_all::<bf16>();
    GradCase { dlse: true, ..case }.check_all::<f16>();
}

#[test]
fn causal() {
    let case = GradCase::new(shape(2, (4, 2), (150, 150), 64), Mask::CAUSAL, small(20, 32, 24));
    case.check_all::<bf16>();
    GradCase { dlse: true, ..case }.check_all::<f16>();
}

#[test]
fn head_dims() {
    for head_dim in [32, 96, 128, 256] {
        GradCase::new(shape(1, (2, 1), (70, 90), head_dim), Mask::FULL, small(1, 48, 20)).check_all::<bf16>();
        GradCase::new(shape(1, (2, 1), (90, 90), head_dim), Mask::CAUSAL, small(20, 32, 20))
            .seeded(2)
            .check_all::<f16>();
    }
}

#[test]
fn lengths() {
    for (lens, block) in
        [((1, 1), 16), ((1, 100), 16), ((100, 2), 16), ((3, 50), 256), ((65, 200), 64), ((200, 65), 64)]
    {
        GradCase::new(shape(1, (2, 2), lens, 32), Mask::FULL, small(1, block, 20)).seeded(2).check_all::<bf16>();
    }
    for (len, least) in [(2, 1), (3, 1), (5, 1), (17, 2), (63, 8), (65, 8), (129, 16), (200, 64)] {
        GradCase::new(shape(1, (2, 1), (len, len), 32), Mask::CAUSAL, small(least, 16, 8)).check_all::<bf16>();
    }
}

#[test]
fn block_and_sample_sizes() {
    for (block, samples) in [(1, 3), (16, 0), (16, 1), (100, 64), (64, 65), (200, 16), (1000, 16), (32, 300)] {
        GradCase::new(shape(1, (2, 1), (130, 130), 32), Mask::FULL, small(1, block, samples)).check_all::<bf16>();
        GradCase::new(shape(1, (2, 1), (130, 130), 32), Mask::CAUSAL, small(30, block, samples)).check_all::<bf16>();
    }
}

/// The same key again and again, keys that nobody draws, and every query in the block of a sample.
#[test]
fn given_samples() {
    let config = small(1, 32, 40);
    for samples in [vec![5; 40], (0..40).map(|i| i % 3 * 40).collect(), (0..40).map(|i| 119 - i).collect()] {
        let case = GradCase::new(shape(1, (2, 1), (100, 120), 64), Mask::FULL, config.clone());
        GradCase { samples: Some(samples), ..case }.check_all::<bf16>();
    }
}

#[test]
fn samplings() {
    for sampling in [Sampling::Distinct, Sampling::Stratified, Sampling::Values] {
        let of = |least, samples| HyperConfig { sampling, ..small(least, 32, samples) };
        GradCase::new(shape(1, (2, 1), (90, 100), 32), Mask::FULL, of(1, 150)).seeded(2).check_all::<bf16>();
        GradCase::new(shape(1, (2, 1), (130, 130), 32), Mask::CAUSAL, of(30, 24)).check_all::<bf16>();
    }
}

#[test]
fn samples_by_values() {
    for (samples, sinks, align_windows) in [(40, 3, false), (140, 70, true)] {
        let of = |least| {
            let sizes = small(least, 16, samples);
            HyperConfig { sampling: Sampling::Values, sinks, align_windows, ..sizes }
        };
        GradCase::new(shape(2, (4, 2), (90, 130), 64), Mask::FULL, of(1)).check_all::<bf16>();
        let local =
            GradCase::new(shape(1, (2, 1), (133, 133), 64), Mask::CAUSAL, HyperConfig { local_window: 9, ..of(15) });
        for scale in [None, Some(-0.5), Some(1e-30)] {
            let case = Case { scale, ..local.case.clone() };
            GradCase { case, dlse: true, ..local.clone() }.check_all::<f16>();
        }
    }
}

#[test]
fn rounds() {
    for rounds in [2, 3] {
        let of = |least, block, samples| HyperConfig { rounds, ..small(least, block, samples) };
        GradCase::new(shape(2, (4, 2), (90, 130), 64), Mask::FULL, of(1, 16, 40)).check_all::<bf16>();
        GradCase::new(shape(1, (4, 2), (133, 133), 32), Mask::CAUSAL, of(15, 16, 24)).check_all::<f16>();
        let all = HyperConfig { sampling: Sampling::Values, sinks: 3, align_windows: true, ..of(1, 50, 70) };
        GradCase::new(shape(2, (4, 2), (90, 130), 32), Mask::FULL, all.clone()).check_all::<bf16>();
        let all = HyperConfig { local_window: 9, min_seq_len: 15, ..all };
        GradCase::new(shape(1, (2, 1), (133, 133), 64), Mask::CAUSAL, all).check_all::<bf16>();
    }
    for head_dim in [128, 256] {
        let config = HyperConfig { rounds: 2, ..small(1, 48, 20) };
        GradCase::new(shape(1, (2, 1), (70, 90), head_dim), Mask::FULL, config).check_all::<bf16>();
    }
}

#[test]
fn local_window() {
    for (least, window) in [(15, 1), (15, 15), (33, 20), (64, 64)] {
        for (samples, sinks) in [(0, 0), (40, 30)] {
            let config = HyperConfig { local_window: window, sinks, ..small(least, 16, samples) };
            GradCase::new(shape(1, (4, 2), (133, 133), 64), Mask::CAUSAL, config.clone()).check_all::<bf16>();
            GradCase::new(shape(2, (1, 1), (270, 270), 32), Mask::CAUSAL, config).seeded(2).check_all::<f16>();
        }
    }
}

#[test]
fn aligned_windows() {
    for block in [5, 16, 50, 200] {
        for (samples, sinks) in [(0, 0), (40, 3)] {
            let of = |least| HyperConfig { align_windows: true, sinks, ..small(least, block, samples) };
            GradCase::new(shape(2, (4, 2), (90, 130), 32), Mask::FULL, of(1)).check_all::<bf16>();
            GradCase::new(shape(1, (2, 2), (210, 30), 32), Mask::FULL, of(1)).check_all::<f16>();
            let local = HyperConfig { local_window: 9, ..of(15) };
            GradCase::new(shape(1, (2, 1), (133, 133), 64), Mask::CAUSAL, local).check_all::<bf16>();
        }
    }
}

#[test]
fn sinks() {
    for sinks in [1, 5, 64, 70, 200] {
        for samples in [0, 40] {
            let of = |least, block| HyperConfig { sinks, ..small(least, block, samples) };
            GradCase::new(shape(2, (4, 2), (90, 130), 32), Mask::FULL, of(1, 16)).check_all::<bf16>();
            GradCase::new(shape(1, (2, 1), (133, 133), 64), Mask::CAUSAL, of(15, 8)).check_all::<f16>();
        }
    }
    let wide = HyperConfig { sinks: 3, ..small(1, 32, 16) };
    GradCase::new(shape(1, (2, 1), (90, 130), 256), Mask::FULL, wide).seeded(2).check_all::<bf16>();
}

#[test]
fn one_bucket_and_one_projection() {
    let case = GradCase::new(shape(1, (2, 1), (90, 90), 32), Mask::FULL, small(1, 32, 16));
    GradCase { same_keys: true, ..case.clone() }.check_all::<f16>();
    for num_projections in [1, 16] {
        let config = HyperConfig { num_projections, ..case.config.clone() };
        GradCase { config, ..case.clone() }.check_all::<bf16>();
    }
}

/// Scales that are folded into the exponential, and those that are not.
#[test]
fn scales_and_layouts() {
    let case = GradCase::new(shape(2, (3, 1), (80, 80), 64), Mask::CAUSAL, small(20, 32, 16));
    for scale in [0.5, 0.0, -0.2] {
        GradCase { case: Case { scale: Some(scale), ..case.case.clone() }, ..case.clone() }.check_all::<f16>();
    }
    for storage in [Storage::SeqFirst, Storage::Odd, Storage::Gaps] {
        let strided = Case { storage: [storage; 4], ..case.case.clone() };
        GradCase { case: strided, ..case.clone() }.check_all::<bf16>();
    }
}

/// Short calls are exact, and so are their gradients.
#[test]
fn exact_calls() {
    let case = GradCase::new(shape(1, (2, 1), (50, 50), 32), Mask::CAUSAL, small(64, 16, 8));
    GradCase { dlse: true, ..case }.check_all::<bf16>();
}

/// The queries of a pair are more than one block sums for its samples.
#[test]
fn parts_of_the_queries() {
    let case = GradCase::new(shape(1, (1, 1), (4200, 70), 32), Mask::FULL, small(1, 64, 16));
    case.check::<bf16>(&simt(1));
}

#[test]
fn the_same_bits_whatever_the_schedule() {
    let default = small(20, 16, 24);
    let choices = HyperConfig { rounds: 2, sampling: Sampling::Values, ..default.clone() };
    for (mask, config) in [Mask::FULL, Mask::CAUSAL].into_iter().flat_map(|mask| [(mask, &default), (mask, &choices)]) {
        let case = GradCase::new(shape(1, (4, 2), (100, 100), 32), mask, config.clone());
        let expected = case.run::<bf16>(&simt(0)).gradients;
        for policy in [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::Priority] {
            for async_mode in [SimtAsync::Early, SimtAsync::Mixed, SimtAsync::Late] {
                let config = SimtConfig { policy, async_mode, ..SimtConfig::checked(3) };
                let stream = Device::simt_with(config).unwrap().new_stream().unwrap();
                assert!(case.run::<bf16>(&stream).gradients == expected, "{policy:?} {async_mode:?}");
            }
        }
    }
}

/// 7 products for forward's 2, of the same pairs, where blocks are whole tiles and no sample lies in its own block.
#[test]
fn matrix_work() {
    let (n, block, samples) = (512, 64, 64);
    let case = GradCase::new(shape(1, (1, 1), (n, n), 64), Mask::CAUSAL, small(128, block, samples));
    let [forward, backward] = case.run::<bf16>(&simt(0)).counters.map(|counters| counters.unwrap().mma_macs as f64);
    let ratio = backward / forward;
    assert!((ratio / 3.5 - 1.0).abs() < 0.02, "{ratio}");
}

#[test]
fn refusals() {
    let stream = simt(0);
    let mut case = GradCase::new(shape(1, (2, 1), (64, 64), 32), Mask::CAUSAL, small(16, 16, 8));
    let shape = AttentionShape { dtype: lacuna::DType::BF16, ..case.case.shape };
    let plan = HyperPlan::new(&stream, &shape, &case.case.mask, &case.config).unwrap();
    let q = Tensor::<bf16>::zeros(&stream, case.case.q_dims()).unwrap();
    let k = Tensor::<bf16>::zeros(&stream, case.case.kv_dims()).unwrap();
    let lse = Tensor::<f32>::zeros(&stream, [1, 2, 64, 1]).unwrap();
    let [mut dq, mut dk, mut dv] = [case.case.q_dims(), case.case.kv_dims(), case.case.kv_dims()]
        .map(|d| Tensor::<bf16>::zeros(&stream, d).unwrap());
    let inputs = BackwardInputs {
        q: q.view(),
        k: k.view(),
        v: k.view(),
        out: q.view(),
        lse: lse.view(),
        dout: q.view(),
        dlse: None,
    };
    let bytes = attention::hyper_backward_workspace_bytes(stream.device(), &plan).unwrap();
    let mut run = |plan: &HyperPlan, inputs: &BackwardInputs<'_, bf16>, bytes: usize| {
        let mut gradients = GradientsMut { dq: dq.view_mut(), dk: dk.view_mut(), dv: dv.view_mut(), dsink: None };
        let mut workspace = stream.alloc_bytes(bytes).unwrap();
        attention::hyper_backward(&stream, plan, None, inputs, &mut gradients, &mut workspace).unwrap_err().to_string()
    };
    assert!(run(&plan, &inputs, bytes).contains("updated with q and k"));
    let mut plan = plan;
    plan.update(&stream, q.view(), k.view()).unwrap();
    let short = run(&plan, &inputs, bytes - 16);
    assert!(short.contains("workspace") && short.contains(&bytes.to_string()), "{short}");
    let wrong = run(&plan, &BackwardInputs { dout: k.view(), ..inputs }, bytes);
    assert!(wrong.contains("dout") && wrong.contains("[1, 2, 64, 32]") && wrong.contains("[1, 1, 64, 32]"), "{wrong}");
    case.case.scale = Some(f32::NAN);
    assert!(case.try_run::<bf16>(&stream).is_err());
}
