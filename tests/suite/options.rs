//! Options of forward attention against the f64 reference: windows, softcap, sinks, splits and their merge.

use crate::harness::{Case, Storage, check_dense, shape, streams, uniform};
use lacuna::{BlockFormula, BlockPlan, BlockSize, Half, Mask, Tensor, attention, bf16, f16};
use proptest::prelude::*;

fn check<T: Half>(case: &Case, plan: &BlockPlan) {
    for stream in streams(case.seed) {
        case.check::<T>(&stream, plan);
    }
}

#[test]
fn windows_are_token_exact() {
    for (left, right) in [(Some(0), None), (Some(1), Some(0)), (Some(40), Some(17)), (None, Some(3)), (Some(500), None)]
    {
        for causal in [false, true] {
            let mask = Mask { causal, window_left: left, window_right: right };
            check_dense::<bf16>(&Case::new(shape(1, (2, 1), (130, 170), 64), mask));
        }
        // More queries than keys: early queries sit before the first key.
        let mask = Mask { causal: false, window_left: left, window_right: right };
        check_dense::<bf16>(&Case::new(shape(1, (2, 1), (150, 60), 64), mask));
    }
    let huge = Mask { causal: false, window_left: Some(usize::MAX), window_right: Some(usize::MAX) };
    check_dense::<f16>(&Case::new(shape(1, (1, 1), (70, 70), 32), huge));
}

#[test]
fn windows_inside_plans() {
    let mask = Mask { window_left: Some(70), ..Mask::CAUSAL };
    let plan = BlockPlan::formula(BlockFormula::local(3, 1), BlockSize::square(32), 1, true).unwrap();
    check::<bf16>(&Case::new(shape(2, (2, 2), (120, 200), 64), mask), &plan);
}

#[test]
fn softcaps() {
    for (softcap, scale) in [(0.5, None), (20.0, Some(1.0)), (30.0, Some(-0.3)), (1e-3, None), (1e6, Some(0.2))] {
        let case = Case::new(shape(1, (2, 1), (70, 100), 64), Mask::CAUSAL);
        check_dense::<bf16>(&Case { softcap: Some(softcap), scale, ..case.clone() });
        check_dense::<f16>(&Case { softcap: Some(softcap), scale, ..case });
    }
}

#[test]
fn sinks() {
    let sink = vec![0.0, 3.0, -50.0, 40.0, f32::NEG_INFINITY, -1e30];
    let case = Case { sink: Some(sink), ..Case::new(shape(2, (6, 3), (70, 100), 64), Mask::CAUSAL) };
    check_dense::<bf16>(&case);
    check_dense::<bf16>(&Case { splits: 3, ..case.clone() });
    // Rows that see nothing have the sink alone: out = 0, lse = sink.
    let nothing = Case { shape: shape(1, (6, 3), (5, 0), 64), mask: Mask::FULL, ..case };
    check_dense::<bf16>(&nothing);
    check_dense::<bf16>(&Case { splits: 2, ..nothing });
}

#[test]
fn splits() {
    for splits in [2, 3, 7, 64] {
        let case = Case { splits, ..Case::new(shape(2, (4, 2), (33, 200), 64), Mask::CAUSAL) };
        check_dense::<bf16>(&case);
        check_dense::<f16>(&Case { storage: [Storage::Odd; 4], ..case.clone() });
        let dims = [1, 1, 3, 13];
        let mut state = 9;
        let mask: Vec<u8> = (0..39).map(|_| u8::from(uniform(&mut state) > 0.1)).collect();
        for stream in streams(splits as u64) {
            let plan = BlockPlan::from_mask(&stream, &case.shape, 16, 16, dims, &mask).unwrap();
            case.check::<bf16>(&stream, &plan);
        }
    }
}

#[test]
fn merging_is_exact_and_handles_nothing() {
    // Partial LSEs with -inf in some, in all and in none of the splits of a row.
    let (splits, rows, dim) = (3, 6, 64);
    let lse: Vec<f32> = [
        [0.5, f32::NEG_INFINITY, -2.0, 60.0, f32::NEG_INFINITY, 1.0],
        [1.5, f32::NEG_INFINITY, f32::NEG_INFINITY, -60.0, 3.0, 1.0],
        [-0.5, f32::NEG_INFINITY, 4.0, 59.0, f32::NEG_INFINITY, 1.0],
    ]
    .concat();
    let mut state = 5;
    let partial: Vec<f32> = (0..splits * rows * dim)
        .map(|i| if lse[i / dim] == f32::NEG_INFINITY { f32::NAN } else { uniform(&mut state) })
        .collect();
    for stream in streams(21) {
        let partial_out = Tensor::from_slice(&stream, &partial, [splits, 2, 3, dim]).unwrap();
        let partial_lse = Tensor::from_slice(&stream, &lse, [splits, 2, 3, 1]).unwrap();
        let mut out = Tensor::<bf16>::uninit(&stream, [1, 2, 3, dim]).unwrap();
        let mut merged = Tensor::<f32>::uninit(&stream, [1, 2, 3, 1]).unwrap();
        let (out_view, lse_view) = (out.view_mut(), Some(merged.view_mut()));
        attention::merge(&stream, splits, partial_out.view(), partial_lse.view(), out_view, lse_view).unwrap();
        let (out, merged) = (out.to_vec(&stream).unwrap(), merged.to_vec(&stream).unwrap());
        for row in 0..rows {
            let weights: Vec<f64> = (0..splits).map(|s| f64::from(lse[s * rows + row]).exp()).collect();
            let total: f64 = weights.iter().sum();
            let expected_lse = if total == 0.0 { f64::NEG_INFINITY } else { total.ln() };
            assert!((f64::from(merged[row]) - expected_lse).abs() < 1e-4 || f64::from(merged[row]) == expected_lse);
            for d in 0..dim {
                let value = |s: usize| f64::from(partial[(s * rows + row) * dim + d]);
                let sum: f64 = (0..splits).filter(|&s| weights[s] > 0.0).map(|s| weights[s] * value(s)).sum();
                let expected = if total == 0.0 { 0.0 } else { sum / total };
                assert!((f64::from(out[row * dim + d]) - expected).abs() < 2e-3, "row {row}, {d}");
            }
        }
    }
}

#[test]
fn lse_is_optional() {
    let case = Case::new(shape(1, (1, 1), (20, 20), 64), Mask::CAUSAL);
    for stream in streams(22) {
        let options = case.options(None);
        let plan = BlockPlan::dense();
        let schedule = lacuna::Schedule::build(&stream, &case.shape, &options, &plan).unwrap();
        let q = Tensor::<bf16>::random(&stream, case.q_dims(), 1).unwrap();
        let mut out = Tensor::<bf16>::uninit(&stream, case.q_dims()).unwrap();
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&case.shape, &options)).unwrap();
        let (shape, view) = (&case.shape, q.view());
        attention::forward(
            &stream,
            shape,
            &options,
            &plan,
            &schedule,
            view,
            view,
            view,
            out.view_mut(),
            None,
            &mut workspace,
        )
        .unwrap();
        assert!(out.to_vec(&stream).unwrap().iter().all(|x| x.is_finite()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_options(
        q_len in 1usize..120, kv_len in 1usize..160, causal: bool, left in prop::option::of(0usize..150),
        right in prop::option::of(0usize..150), softcap in prop::option::of(0.1f32..50.0),
        scale in prop::option::of(-1.0f32..1.0), sink: bool, splits in 1usize..6, seed: u64,
    ) {
        let causal = causal && q_len <= kv_len;
        let mask = Mask { causal, window_left: left, window_right: right };
        let case = Case {
            scale, softcap, splits, seed,
            sink: sink.then(|| vec![0.3, -2.0]),
            ..Case::new(shape(1, (2, 1), (q_len, kv_len), 64), mask)
        };
        check_dense::<bf16>(&case);
    }
}
