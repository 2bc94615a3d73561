//! Dense forward attention against the f64 reference: shapes, layouts, element types, head dims.

use crate::harness::{Case, Storage, check_dense, shape, streams};
use lacuna::reference::TokenMask;
use lacuna::{BlockPlan, Mask, bf16, f16};
use proptest::prelude::*;

#[test]
fn the_comparison_notices_one_key() {
    let case = Case::new(shape(1, (1, 1), (64, 64), 64), Mask::CAUSAL);
    let outcome = case.run::<bf16>(&streams(1)[0], &BlockPlan::dense()).unwrap();
    let short = Mask { window_left: Some(62), ..Mask::CAUSAL };
    case.compare::<bf16>(&outcome, &TokenMask { shape: &case.shape, mask: &short }).unwrap_err();
}

#[test]
fn head_dims_and_element_types() {
    for head_dim in [32, 64, 96, 128, 256] {
        for mask in [Mask::CAUSAL, Mask::FULL] {
            let case = Case::new(shape(1, (2, 1), (97, 130), head_dim), mask);
            check_dense::<bf16>(&case);
            check_dense::<f16>(&case);
        }
    }
}

#[test]
fn groups_of_query_heads() {
    for heads in [(4, 4), (6, 2), (5, 1), (7, 7), (3, 1)] {
        check_dense::<bf16>(&Case::new(shape(2, heads, (70, 70), 64), Mask::CAUSAL));
    }
}

#[test]
fn lengths() {
    for lens in [(1, 1), (1, 200), (2, 65), (64, 64), (65, 65), (63, 127), (128, 192), (200, 77), (3, 1)] {
        for mask in [Mask::CAUSAL, Mask::FULL] {
            if mask.causal && lens.0 > lens.1 {
                continue;
            }
            check_dense::<f16>(&Case::new(shape(1, (2, 2), lens, 64), mask));
        }
    }
}

#[test]
fn layouts() {
    for storage in Storage::ALL {
        let case = Case::new(shape(2, (4, 2), (75, 90), 64), Mask::CAUSAL);
        check_dense::<bf16>(&Case { storage: [storage; 4], ..case });
    }
    let mixed = [Storage::Odd, Storage::SeqFirst, Storage::Gaps, Storage::Packed];
    check_dense::<f16>(&Case { storage: mixed, ..Case::new(shape(2, (2, 1), (40, 130), 128), Mask::FULL) });
}

#[test]
fn no_keys_give_zero_and_minus_infinity() {
    let case = Case::new(shape(2, (2, 1), (70, 0), 64), Mask::FULL);
    for stream in streams(3) {
        let outcome = case.run::<bf16>(&stream, &BlockPlan::dense()).unwrap();
        assert!(outcome.out.iter().all(|&x| x == 0.0));
        assert!(outcome.lse.iter().all(|&x| x == f32::NEG_INFINITY));
    }
}

#[test]
fn empty_calls_do_nothing() {
    for lens in [(0, 0), (0, 10)] {
        for stream in streams(4) {
            let case = Case::new(shape(1, (2, 1), lens, 64), Mask::CAUSAL);
            assert_eq!(case.run::<bf16>(&stream, &BlockPlan::dense()).unwrap().out.len(), 0);
        }
    }
    let case = Case::new(shape(0, (2, 1), (5, 5), 64), Mask::CAUSAL);
    assert_eq!(case.run::<bf16>(&streams(5)[0], &BlockPlan::dense()).unwrap().lse.len(), 0);
}

#[test]
fn large_logits() {
    // Logits of around +-80 without a scale that tames them.
    let case = Case { scale: Some(2.5), ..Case::new(shape(1, (2, 2), (80, 150), 64), Mask::CAUSAL) };
    check_dense::<bf16>(&case);
    check_dense::<f16>(&Case { scale: Some(-2.5), ..case.clone() });
    check_dense::<f16>(&Case { scale: Some(0.0), ..case });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_shape(
        batch in 1usize..3, group in 1usize..4, kv_heads in 1usize..3, q_len in 1usize..140, more in 0usize..140,
        head_dim in prop::sample::select(vec![32usize, 64, 96, 128, 256]), causal: bool, half: bool, seed: u64,
        storage in prop::array::uniform4(prop::sample::select(Storage::ALL.to_vec())),
    ) {
        let mask = if causal { Mask::CAUSAL } else { Mask::FULL };
        let shape = shape(batch, (group * kv_heads, kv_heads), (q_len, q_len + more), head_dim);
        let case = Case { storage, seed, ..Case::new(shape, mask) };
        if half { check_dense::<f16>(&case) } else { check_dense::<bf16>(&case) }
    }
}
