//! Paged K and V against the f64 reference over the same keys in order: page orders, tables, masks, plans, pages that
//! are not there. Everything the calls must not read is NaN.

use crate::harness::{Case, Storage, check_dense, shape, simt, streams, uniform};
use crate::pages::Pages;
use lacuna::{
    AttentionShape, BlockFormula, BlockPlan, BlockSize, Device, Error, ForwardOptions, KernelFamily, Mask, PagedKv,
    Result, Schedule, SimtAsync, SimtConfig, SimtPolicy, Tensor, attention, bf16, f16,
};
use proptest::prelude::*;

fn paged(case: Case, size: usize, heads: usize) -> Case {
    let pages = Pages::shuffled(&case.shape, size, heads, case.seed + 11);
    Case { pages: Some(pages), ..case }
}

#[test]
fn page_sizes_and_masks() {
    let window = Mask { window_left: Some(70), ..Mask::CAUSAL };
    let around = Mask { causal: false, window_left: Some(20), window_right: Some(33) };
    for size in [16, 48, 64, 128, 512] {
        for mask in [Mask::CAUSAL, Mask::FULL, window, around] {
            check_dense::<bf16>(&paged(Case::new(shape(2, (4, 2), (90, 203), 64), mask), size, 1));
        }
    }
    for head_dim in [32, 96, 128, 256] {
        check_dense::<f16>(&paged(Case::new(shape(1, (2, 1), (70, 150), head_dim), Mask::CAUSAL), 48, 1));
    }
}

#[test]
fn tables_of_each_head() {
    for heads in [(4, 4), (6, 2), (5, 1)] {
        check_dense::<bf16>(&paged(Case::new(shape(2, heads, (70, 130), 64), Mask::CAUSAL), 16, heads.1));
    }
}

#[test]
fn layouts_of_the_pool() {
    for storage in Storage::ALL {
        let case = Case { storage: [storage; 4], ..Case::new(shape(2, (4, 2), (60, 130), 64), Mask::CAUSAL) };
        check_dense::<bf16>(&paged(case.clone(), 64, 1));
        check_dense::<f16>(&paged(case, 16, 2));
    }
}

#[test]
fn options_and_splits() {
    for splits in [1, 3, 64] {
        let case = Case {
            splits,
            softcap: Some(20.0),
            sink: Some(vec![0.5, -1.0]),
            ..Case::new(shape(2, (2, 1), (1, 300), 64), Mask::CAUSAL)
        };
        check_dense::<bf16>(&paged(case, 32, 1));
    }
}

#[test]
fn formulas_and_lists() {
    for (q, k) in [(16, 16), (16, 128), (128, 32), (64, 64)] {
        let case = paged(Case::new(shape(2, (4, 2), (140, 200), 64), Mask::CAUSAL), 48, 2);
        let striped = BlockFormula { vertical_stride: 3, head_step: 1, head_offset: 0, ..BlockFormula::local(2, 1) };
        let dims = [2, 4, 140usize.div_ceil(q), 200usize.div_ceil(k)];
        let mut state = (q * k) as u64;
        let mask: Vec<u8> = (0..dims.iter().product()).map(|_| u8::from(uniform(&mut state) > 0.0)).collect();
        for stream in streams(3) {
            case.check::<bf16>(&stream, &BlockPlan::formula(striped, BlockSize::square(k), 2, true).unwrap());
            case.check::<bf16>(&stream, &BlockPlan::from_mask(&stream, &case.shape, q, k, dims, &mask).unwrap());
        }
    }
}

#[test]
fn pages_in_order_give_the_bits_of_contiguous_keys() {
    // Of the portable kernels: others may cut tiles at pages.
    // The pages of one sequence and KV head, in order, are the sequence itself.
    for (mask, splits) in [(Mask::CAUSAL, 1), (Mask { window_left: Some(40), ..Mask::CAUSAL }, 2)] {
        let family = KernelFamily::Portable;
        let plain = Case { splits, family, ..Case::new(shape(1, (2, 1), (100, 192), 64), mask) };
        let pages = Pages { size: 64, count: 3, heads: 1, table: vec![0, 1, 2] };
        let paged = Case { pages: Some(pages), ..plain.clone() };
        for stream in streams(4) {
            let run = |case: &Case| case.run::<bf16>(&stream, &BlockPlan::dense()).unwrap();
            assert!(run(&plain).same_bits(&run(&paged)));
        }
    }
}

#[test]
fn sequences_share_pages() {
    // A common prefix, a page in two places of one sequence, and a last page that another sequence uses whole.
    let table = vec![4, 2, 0, 0, 4, 2, 5, 3, 4, 2, 3, 5];
    let pages = Pages { size: 32, count: 6, heads: 1, table };
    check_dense::<bf16>(&Case { pages: Some(pages), ..Case::new(shape(3, (2, 2), (50, 110), 64), Mask::CAUSAL) });
}

#[test]
fn keys_of_pages_that_are_not_there_are_masked() {
    let case = |size: usize, mask, absent: &[usize]| {
        let mut case = paged(Case::new(shape(2, (4, 2), (100, 160), 64), mask), size, 2);
        let pages = case.pages.as_mut().unwrap();
        let strange = [-1, pages.count as i32, i32::MAX, i32::MIN];
        for (number, &entry) in absent.iter().enumerate() {
            let len = pages.table.len();
            pages.table[entry % len] = strange[number % 4];
        }
        case
    };
    for size in [16, 48, 64] {
        for mask in [Mask::CAUSAL, Mask::FULL, Mask { window_left: Some(30), ..Mask::CAUSAL }] {
            check_dense::<bf16>(&case(size, mask, &[0, 3, 5, 6, 11]));
            // Some rows, or all, have nothing to attend.
            check_dense::<f16>(&case(size, mask, &[0, 1, 2, 3, 4, 8, 9, 10]));
            check_dense::<bf16>(&Case { splits: 3, ..case(size, mask, &(0..20).collect::<Vec<_>>()) });
        }
    }
    // Lists too: blocks of 64 over pages of 48.
    let case = case(48, Mask::CAUSAL, &[0, 2, 7, 9]);
    let dims = [1, 2, 7, 3];
    let mask: Vec<u8> = (0..42).map(|i| u8::from(i % 5 != 0)).collect();
    for stream in streams(6) {
        case.check::<bf16>(&stream, &BlockPlan::from_mask(&stream, &case.shape, 16, 64, dims, &mask).unwrap());
    }
}

#[test]
fn rows_without_a_page_give_zero_and_minus_infinity() {
    for count in [0, 2] {
        let pages = Pages { size: 32, count, heads: 1, table: vec![-1, 9, i32::MIN] };
        let case = Case { pages: Some(pages), ..Case::new(shape(1, (2, 1), (70, 90), 64), Mask::CAUSAL) };
        for stream in streams(7) {
            for case in case.for_kernels::<bf16>(&stream, &BlockPlan::dense()) {
                let outcome = case.run::<bf16>(&stream, &BlockPlan::dense()).unwrap();
                assert!(outcome.out.iter().all(|&x| x == 0.0));
                assert!(outcome.lse.iter().all(|&x| x == f32::NEG_INFINITY));
            }
        }
    }
}

#[test]
fn every_schedule_of_threads_gives_the_same_bits() {
    let case = Case { splits: 2, ..Case::new(shape(2, (4, 2), (100, 120), 64), Mask::CAUSAL) };
    let mut case = paged(case, 16, 2);
    case.pages.as_mut().unwrap().table[5] = -1;
    let run = |stream: &lacuna::Stream, case: &Case| {
        let mask: Vec<u8> = (0..56).map(|i| u8::from(i * i % 7 < 4)).collect();
        let plan = BlockPlan::from_mask(stream, &case.shape, 16, 32, [1, 2, 7, 4], &mask).unwrap();
        [BlockPlan::dense(), plan].map(|plan| case.run::<bf16>(stream, &plan).unwrap())
    };
    let fast = Device::simt().unwrap().new_stream().unwrap();
    for case in case.for_kernels::<bf16>(&fast, &BlockPlan::dense()) {
        let expected = run(&fast, &case);
        let policies = [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
        for (index, policy) in policies.into_iter().enumerate() {
            for (number, async_mode) in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed].into_iter().enumerate() {
                let config = SimtConfig { policy, async_mode, ..SimtConfig::checked((10 * index + number) as u64) };
                let outcomes = run(&Device::simt_with(config).unwrap().new_stream().unwrap(), &case);
                assert!(outcomes.iter().zip(&expected).all(|(a, b)| a.same_bits(b)), "{config:?}");
            }
        }
    }
}

const SHAPE: AttentionShape = AttentionShape {
    batch: 2,
    q_heads: 4,
    kv_heads: 2,
    q_len: 8,
    kv_len: 40,
    head_dim: 64,
    dtype: lacuna::DType::BF16,
};

/// A call with a table of `table` dims and pools of `k` and `v` dims.
fn call(table: [usize; 4], page_size: usize, k: [usize; 4], v: [usize; 4]) -> Result<()> {
    let stream = simt(8);
    let table = Tensor::<i32>::zeros(&stream, table).unwrap();
    let tensor = |dims| Tensor::<bf16>::zeros(&stream, dims).unwrap();
    let (q, k, v) = (tensor([2, 4, 8, 64]), tensor(k), tensor(v));
    let mut out = tensor([2, 4, 8, 64]);
    let paged = Some(PagedKv { block_table: table.view(), page_size });
    let (options, plan) = (ForwardOptions { paged, ..ForwardOptions::causal() }, BlockPlan::dense());
    let schedule = Schedule::build(&stream, &SHAPE, &options, &plan)?;
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&SHAPE, &options))?;
    let (q, k, v) = (q.view(), k.view(), v.view());
    attention::forward(&stream, &SHAPE, &options, &plan, &schedule, q, k, v, out.view_mut(), None, &mut workspace)
}

#[test]
fn arguments_that_do_not_fit() {
    let pool = [5, 2, 16, 64];
    let what = |result: Result<()>| match result {
        Err(Error::Shape { what, .. } | Error::Value { what, .. } | Error::Device { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    call([2, 1, 1, 3], 16, pool, pool).unwrap();
    call([2, 2, 1, 3], 16, pool, pool).unwrap();
    for table in [[1, 1, 1, 3], [2, 4, 1, 3], [2, 1, 3, 1], [2, 1, 1, 2], [2, 1, 1, 4], [2, 0, 1, 3]] {
        assert_eq!(what(call(table, 16, pool, pool)), "block_table", "{table:?}");
    }
    for size in [0, 8, 24, usize::MAX, (1 << 30) + 16] {
        assert_eq!(what(call([2, 1, 1, 3], size, pool, pool)), "page_size", "{size}");
    }
    for bad in [[5, 2, 32, 64], [5, 1, 16, 64], [5, 2, 16, 32]] {
        assert_eq!(what(call([2, 1, 1, 3], 16, bad, pool)), "k");
        assert_eq!(what(call([2, 1, 1, 3], 16, pool, bad)), "v");
    }
    // Pools of k and v with different pages; sequences where pages were promised.
    assert_eq!(what(call([2, 1, 1, 3], 16, pool, [6, 2, 16, 64])), "v");
    assert_eq!(what(call([2, 1, 1, 3], 16, [2, 2, 40, 64], [2, 2, 40, 64])), "k");
}

#[test]
fn a_table_may_belong_to_another_stream() {
    let (stream, other) = (simt(9), simt(10));
    let case = Case::new(shape(1, (1, 1), (16, 32), 64), Mask::CAUSAL);
    let tensor = |dims| Tensor::<bf16>::random(&stream, dims, 1).unwrap();
    let (q, pool) = (tensor(case.q_dims()), tensor([2, 1, 16, 64]));
    let mut outs = Vec::new();
    for owner in [&stream, &other] {
        let table = Tensor::from_slice(owner, &[1, 0], [1, 1, 1, 2]).unwrap();
        let paged = Some(PagedKv { block_table: table.view(), page_size: 16 });
        let (options, plan) = (ForwardOptions { paged, ..case.options(None) }, BlockPlan::dense());
        let schedule = Schedule::build(&stream, &case.shape, &options, &plan).unwrap();
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&case.shape, &options)).unwrap();
        let mut out = Tensor::<bf16>::uninit(&stream, case.q_dims()).unwrap();
        let (q, kv, shape) = (q.view(), pool.view(), &case.shape);
        attention::forward(&stream, shape, &options, &plan, &schedule, q, kv, kv, out.view_mut(), None, &mut workspace)
            .unwrap();
        outs.push(out.to_vec(&stream).unwrap());
    }
    assert_eq!(outs[0], outs[1]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_pages(
        batch in 1usize..3, group in 1usize..3, kv_heads in 1usize..3, q_len in 1usize..100, more in 0usize..160,
        size in 1usize..9, per_head: bool, absent in prop::collection::vec(0usize..64, 0..4), causal: bool,
        left in prop::option::of(0usize..120), splits in 1usize..4, half: bool, portable: bool, seed in 0u64..1 << 32,
    ) {
        let mask = Mask { causal, window_left: left, window_right: None };
        let shape = shape(batch, (group * kv_heads, kv_heads), (q_len, q_len + more), 64);
        let family = if portable { KernelFamily::Portable } else { KernelFamily::Auto };
        let case = Case { splits, seed, family, ..Case::new(shape, mask) };
        let mut case = paged(case, 16 * size, if per_head { kv_heads } else { 1 });
        let table = &mut case.pages.as_mut().unwrap().table;
        let len = table.len();
        absent.into_iter().for_each(|entry| table[entry % len] = -1 - entry as i32);
        if half { check_dense::<f16>(&case) } else { check_dense::<bf16>(&case) }
    }
}
