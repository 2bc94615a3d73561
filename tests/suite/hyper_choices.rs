//! HyperAttention with the choices beyond the paper against its f64 estimator.

use crate::harness::{Case, shape, simt, uniform};
use crate::hyper::{HyperCase, small};
use lacuna::{Error, HyperConfig, HyperPlan, Mask, Sampling, Tensor, bf16, f16};

/// The kernel's draws are those of the host, below, at and above the number of keys.
#[test]
fn samplings() {
    for sampling in [Sampling::Distinct, Sampling::Stratified, Sampling::Values] {
        for samples in [1, 20, 65, 67, 130, 200] {
            let of = |least, block| HyperConfig { sampling, seed: 1 << 40 | 5, ..small(least, block, samples) };
            HyperCase::new(shape(2, (4, 2), (90, 130), 32), Mask::FULL, of(1, 16)).check_all::<bf16>();
            HyperCase::new(shape(1, (2, 2), (133, 133), 32), Mask::CAUSAL, of(15, 8)).check_all::<bf16>();
        }
        for len in [2, 3, 4, 5] {
            let config = HyperConfig { sampling, ..small(1, 1, 3) };
            HyperCase::new(shape(1, (1, 1), (len, len), 32), Mask::FULL, config).check_all::<bf16>();
        }
    }
}

/// Samples with weights of their own beside sinks, windows and leaves that reach back; a scale that is not folded into
/// the exponential; more keys than a block finds the shares of; values that are all zeros; given samples.
#[test]
fn samples_by_values() {
    let by_values = |config| HyperConfig { sampling: Sampling::Values, ..config };
    for (samples, sinks, align_windows) in [(40, 3, false), (140, 70, true), (64, 0, true)] {
        let of = |least, block| by_values(HyperConfig { sinks, align_windows, ..small(least, block, samples) });
        HyperCase::new(shape(2, (4, 2), (90, 130), 64), Mask::FULL, of(1, 16)).check_all::<bf16>();
        let local = HyperConfig { local_window: 9, ..of(15, 50) };
        HyperCase::new(shape(1, (2, 1), (133, 133), 64), Mask::CAUSAL, local).check_all::<f16>();
    }
    for head_dim in [96, 128, 256] {
        let config = by_values(small(1, 48, 150));
        let case = HyperCase::new(shape(1, (2, 1), (150, 190), head_dim), Mask::FULL, config);
        for scale in [None, Some(-0.5), Some(1e-30)] {
            HyperCase { case: Case { scale, ..case.case.clone() }, ..case.clone() }.check_all::<bf16>();
        }
    }
    HyperCase::new(shape(1, (2, 1), (40, 2100), 32), Mask::FULL, by_values(small(1, 512, 70))).check_all::<bf16>();
    HyperCase::new(shape(1, (1, 1), (610, 610), 128), Mask::CAUSAL, by_values(small(130, 128, 200)))
        .check_all::<bf16>();
    let case = HyperCase::new(shape(1, (2, 1), (100, 120), 64), Mask::FULL, by_values(small(1, 32, 40)));
    HyperCase { samples: Some((0..40).map(|i| 3 * i).collect()), ..case }.check_all::<bf16>();
}

/// Keys that a query has in several rounds count once, samples in none of them; beside all other choices. One block,
/// one bucket: every round has the same keys.
#[test]
fn rounds() {
    for rounds in [2, 3, 8] {
        let of = |least, block, samples| HyperConfig { rounds, ..small(least, block, samples) };
        HyperCase::new(shape(2, (4, 2), (90, 130), 64), Mask::FULL, of(1, 16, 40)).check_all::<bf16>();
        HyperCase::new(shape(1, (2, 1), (133, 133), 64), Mask::CAUSAL, of(15, 16, 24)).check_all::<f16>();
        let sampling = Sampling::Values;
        let all = HyperConfig { sampling, sinks: 3, align_windows: true, ..of(1, 50, 70) };
        HyperCase::new(shape(2, (4, 2), (90, 130), 32), Mask::FULL, all.clone()).check_all::<bf16>();
        let all = HyperConfig { local_window: 9, min_seq_len: 15, ..all };
        HyperCase::new(shape(1, (4, 2), (133, 133), 64), Mask::CAUSAL, all).check_all::<bf16>();
    }
    for head_dim in [96, 128, 256] {
        let config = HyperConfig { rounds: 2, ..small(1, 48, 40) };
        HyperCase::new(shape(1, (2, 1), (150, 190), head_dim), Mask::FULL, config).check_all::<bf16>();
        let config = HyperConfig { rounds: 2, ..small(20, 32, 20) };
        HyperCase::new(shape(1, (2, 1), (150, 150), head_dim), Mask::CAUSAL, config).check_all::<f16>();
    }
    let one = HyperConfig { rounds: 3, ..small(1, 200, 40) };
    HyperCase::new(shape(1, (2, 1), (90, 130), 64), Mask::FULL, one).check_all::<bf16>();
    let same = HyperConfig { rounds: 2, num_projections: 1, center: false, ..small(1, 16, 40) };
    let case = HyperCase::new(shape(1, (1, 1), (90, 90), 64), Mask::FULL, same.clone());
    HyperCase { same_keys: true, ..case }.check_all::<bf16>();
    let mut state = 11;
    let projections = (0..2 * 64).map(|_| uniform(&mut state)).collect();
    let samples = (0..2 * 40).map(|_| ((uniform(&mut state) + 0.5) * 150.0) as i32).collect();
    let case = HyperCase::new(shape(2, (2, 1), (170, 150), 64), Mask::FULL, same);
    HyperCase { projections: Some(projections), samples: Some(samples), ..case }.check_all::<bf16>();
}

/// Shares of values that are zeros, or no finite numbers.
#[test]
fn shares_of_odd_values() {
    let stream = simt(1);
    let shape = shape(1, (1, 1), (40, 40), 32);
    let config = HyperConfig { sampling: Sampling::Values, ..small(1, 16, 8) };
    let qk = Tensor::<bf16>::from_slice(&stream, &Case::new(shape, Mask::FULL).inputs::<bf16>()[0], [1, 1, 40, 32]);
    let qk = qk.unwrap();
    let shares = |values: [f32; 3]| {
        let mut v = vec![bf16::from_f32(0.0); 40 * 32];
        values.into_iter().enumerate().for_each(|(row, x)| v[row * 32] = bf16::from_f32(x));
        let v = Tensor::from_slice(&stream, &v, [1, 1, 40, 32]).unwrap();
        let mut plan = HyperPlan::new(&stream, &shape, &Mask::FULL, &config).unwrap();
        assert!(matches!(plan.update(&stream, qk.view(), qk.view()), Err(Error::Value { what: "v", .. })));
        plan.update_with_values(&stream, qk.view(), qk.view(), v.view()).unwrap();
        let shares = plan.shares(&stream).unwrap().unwrap();
        assert!(shares[3..].iter().all(|&share| share == 1));
        [shares[0], shares[1], shares[2]]
    };
    assert_eq!(shares([0.0; 3]), [1; 3]);
    assert_eq!(shares([1.0, 2.0, 4.0]), [256, 1024, 4096]);
    assert_eq!(shares([f32::NAN, 2.0, 4.0]), [1, 1024, 4096]);
    assert_eq!(shares([f32::INFINITY, 2.0, 1e30]), [1; 3]);
}

/// Leaves that reach back by less and more than a tile, and over the whole leaf before; with sinks among those keys.
#[test]
fn local_window() {
    for (least, window) in [(15, 1), (15, 15), (33, 20), (64, 64)] {
        for (samples, sinks) in [(0, 0), (40, 0), (140, 30)] {
            let config = HyperConfig { local_window: window, sinks, ..small(least, 16, samples) };
            HyperCase::new(shape(1, (4, 2), (133, 133), 64), Mask::CAUSAL, config.clone()).check_all::<bf16>();
            HyperCase::new(shape(2, (1, 1), (270, 270), 32), Mask::CAUSAL, config).check_all::<f16>();
        }
    }
    let blocks = HyperConfig { local_window: 100, ..small(130, 128, 70) };
    HyperCase::new(shape(1, (2, 1), (610, 610), 128), Mask::CAUSAL, blocks).check_all::<bf16>();
}

/// Keys that several windows have, and keys that none has; fewer keys than a window; far more queries than keys.
#[test]
fn aligned_windows() {
    for block in [1, 16, 50, 200] {
        for (samples, sinks) in [(0, 0), (40, 3), (140, 70)] {
            let of = |least| HyperConfig { align_windows: true, sinks, ..small(least, block, samples) };
            HyperCase::new(shape(2, (4, 2), (90, 130), 64), Mask::FULL, of(1)).check_all::<bf16>();
            HyperCase::new(shape(1, (2, 2), (210, 30), 32), Mask::FULL, of(1)).check_all::<f16>();
            let local = HyperConfig { local_window: 9, ..of(15) };
            HyperCase::new(shape(1, (2, 1), (133, 133), 64), Mask::CAUSAL, local).check_all::<bf16>();
        }
    }
    // All in one bucket: every window is the same.
    let one = HyperConfig { align_windows: true, num_projections: 1, center: false, ..small(1, 16, 40) };
    HyperCase { same_keys: true, ..HyperCase::new(shape(1, (1, 1), (90, 90), 96), Mask::FULL, one) }
        .check_all::<bf16>();
    let blocks = HyperConfig { align_windows: true, ..small(130, 128, 70) };
    HyperCase::new(shape(1, (2, 1), (610, 610), 128), Mask::CAUSAL, blocks).check_all::<bf16>();
}

/// Sinks in the first half of a call and across halves, fewer and more than a tile, and more than keys.
#[test]
fn sinks() {
    for sinks in [1, 5, 64, 70, 200] {
        for (samples, sampling) in [(0, Sampling::Uniform), (40, Sampling::Uniform), (140, Sampling::Distinct)] {
            let of = |least, block| HyperConfig { sinks, sampling, ..small(least, block, samples) };
            HyperCase::new(shape(2, (4, 2), (90, 130), 64), Mask::FULL, of(1, 16)).check_all::<bf16>();
            HyperCase::new(shape(1, (2, 2), (133, 133), 32), Mask::CAUSAL, of(15, 8)).check_all::<f16>();
        }
    }
    // Two passes of the sort, a head dim with narrow tiles, one bucket.
    let wide = HyperConfig { num_projections: 16, sinks: 3, ..small(1, 32, 16) };
    HyperCase::new(shape(1, (2, 1), (90, 130), 256), Mask::FULL, wide.clone()).check_all::<bf16>();
    let one = HyperConfig { num_projections: 1, center: false, ..wide };
    HyperCase { same_keys: true, ..HyperCase::new(shape(1, (1, 1), (90, 90), 96), Mask::FULL, one) }
        .check_all::<bf16>();
}
