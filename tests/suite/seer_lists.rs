//! The prefill gate against its definition in f64: logits and lists, attention over them, and its traffic.

use crate::harness::{Case, Storage, shape, simt, streams};
use crate::seer_case::{ALL, AVG, Prefill, Tally, flags, logit_error, score_error};
use lacuna::seer::{Pools, Select, SelectOptions};
use lacuna::{AttentionShape, Device, Half, Mask, SimtAsync, SimtConfig, SimtPolicy, Stream, Tensor, bf16, f16};

const RULES: [Select; 6] = [
    Select::Threshold(0.08),
    Select::Density(0.3),
    Select::Blocks(3),
    Select::TopP(0.6),
    Select::TokenBudget(150),
    Select::Threshold(0.0),
];

/// Options of many kinds.
fn options() -> Vec<SelectOptions> {
    let mut all: Vec<SelectOptions> = RULES.map(SelectOptions::new).to_vec();
    let bare = |select| SelectOptions { last_rows_dense: 0, force_diagonal: false, ..SelectOptions::new(select) };
    all.extend([Select::Blocks(1), Select::Threshold(0.3), Select::TopP(0.9)].map(bare));
    all.push(SelectOptions { sink_blocks: 2, last_rows_dense: 1, ..bare(Select::Density(0.2)) });
    let shared = |select| SelectOptions { share_heads: true, ..SelectOptions::new(select) };
    all.extend([Select::Blocks(2), Select::TopP(0.5), Select::Threshold(0.1)].map(shared));
    all
}

fn check<T: Half>(stream: &Stream, case: &Prefill, options: &[SelectOptions], tally: &mut Tally) -> f64 {
    let case = Prefill { shape: AttentionShape { dtype: T::DTYPE, ..case.shape }, ..case.clone() };
    let inputs = case.inputs::<T>();
    let (logits, lists) = case.expected(&inputs, options);
    let gate = case.gate(stream, &inputs, case.shape.kv_len);
    let [q, k] = case.tensors(stream, &inputs);
    let got = gate.logits(stream, &case.shape, &case.mask(), q.view(), k.view()).unwrap();
    let error = logit_error(&got.to_vec(stream).unwrap(), &logits, true);
    for (options, lists) in options.iter().zip(&lists) {
        let plan = gate.plan(stream, &case.shape, &case.mask(), q.view(), k.view(), options).unwrap();
        assert_eq!(plan.overflow(stream).unwrap(), 0, "{options:?} {case:?}");
        let got = flags(stream, &plan, case.shape.kv_len.div_ceil(case.block));
        tally.compare(&got, lists, score_error(error, &logits), &(options, &case));
        for row in got.iter().filter(|_| options.force_diagonal) {
            assert!(row.contains(&true), "{options:?} {case:?}");
        }
    }
    error
}

#[test]
fn lists_are_those_of_the_definition() {
    let published = |heads, lens, dim, block| Prefill::new(shape(1, heads, lens, dim), block);
    let cases = [
        published((4, 2), (600, 600), 64, 64),
        Prefill { k_heads: 2, ..published((4, 2), (500, 500), 64, 32) },
        Prefill { project_q: true, gate_dim: 32, ..published((3, 1), (330, 330), 64, 16) },
        Prefill { project_q: true, q_pool: ALL, k_pool: AVG, gate_dim: 24, ..published((2, 2), (300, 300), 32, 16) },
        Prefill { q_pool: Pools { avg: false, max: true, min: false }, ..published((4, 1), (700, 700), 128, 128) },
        Prefill { k_pool: Pools { avg: false, ..ALL }, causal: false, ..published((2, 1), (200, 350), 32, 16) },
        Prefill {
            rotate: false,
            gate_dim: 128,
            q_pool: Pools { min: false, ..ALL },
            ..published((2, 2), (400, 400), 64, 32)
        },
        // Queries that start inside a block, and prompts of one block or less.
        published((2, 1), (130, 415), 64, 32),
        published((2, 1), (1, 300), 64, 64),
        Prefill { seed: 3, ..published((4, 2), (64, 64), 32, 64) },
        Prefill { seed: 4, ..published((4, 2), (7, 7), 32, 16) },
        Prefill { seed: 5, shape: shape(3, (2, 1), (150, 190), 32), ..published((2, 1), (1, 1), 32, 16) },
    ];
    let (mut tally, mut worst) = (Tally::default(), 0.0f64);
    for (index, case) in cases.iter().enumerate() {
        for stream in streams(index as u64) {
            worst = worst.max(check::<bf16>(&stream, case, &options(), &mut tally));
            if index % 3 == 0 {
                worst = worst.max(check::<f16>(&stream, case, &options()[..4], &mut tally));
            }
        }
    }
    println!("largest error of a logit: {worst:.1e}");
    tally.finish("prefill");
}

/// A threshold that nothing passes, and a plan whose diagonal keeps every row alive; without it rows are empty and
/// their output is 0.
#[test]
fn empty_rows_have_an_output() {
    for stream in streams(3) {
        let case = Prefill::new(shape(1, (2, 1), (200, 200), 64), 32);
        let inputs = case.inputs::<bf16>();
        let gate = case.gate(&stream, &inputs, 200);
        let [q, k] = case.tensors(&stream, &inputs);
        for force_diagonal in [true, false] {
            let select = Select::Threshold(1.0);
            let options = SelectOptions { last_rows_dense: 0, force_diagonal, ..SelectOptions::new(select) };
            let plan = gate.plan(&stream, &case.shape, &Mask::CAUSAL, q.view(), k.view(), &options).unwrap();
            let rows: Vec<usize> =
                flags(&stream, &plan, 7).iter().map(|row| row.iter().filter(|&&on| on).count()).collect();
            // The first row has one block, of P 1.
            assert!(rows.iter().all(|&count| count == usize::from(force_diagonal)), "{rows:?}");
            let attention = Case::new(case.shape, Mask::CAUSAL);
            let outcome = attention.run::<bf16>(&stream, &plan).unwrap();
            assert!(outcome.out.iter().all(|x| x.is_finite()));
            assert_eq!(outcome.lse.iter().all(|x| x.is_finite()), force_diagonal);
            attention.check::<bf16>(&stream, &plan);
        }
    }
}

/// NaN in the inputs: rows that see it lose its blocks, the forced ones stay.
#[test]
fn bad_inputs_select_nothing_and_end() {
    for stream in streams(4) {
        let case = Prefill::new(shape(1, (2, 1), (160, 160), 32), 32);
        let mut inputs = case.inputs::<bf16>();
        inputs.k[40 * 32 + 5] = bf16::NAN;
        inputs.q[..32].fill(bf16::INFINITY);
        let gate = case.gate(&stream, &inputs, 160);
        let [q, k] = case.tensors(&stream, &inputs);
        for select in RULES {
            let options = SelectOptions { last_rows_dense: 0, ..SelectOptions::new(select) };
            let plan = gate.plan(&stream, &case.shape, &Mask::CAUSAL, q.view(), k.view(), &options).unwrap();
            for (row, list) in flags(&stream, &plan, 5).iter().enumerate() {
                assert!(list[row % 5], "{select:?} {row}");
            }
        }
    }
}

/// What does not fit is cut: all lists to one length or one more, forced blocks first, then the best.
#[test]
fn a_plan_too_small_keeps_the_best() {
    for stream in streams(5) {
        let case = Prefill::new(shape(1, (2, 2), (640, 640), 32), 32);
        let inputs = case.inputs::<bf16>();
        let gate = case.gate(&stream, &inputs, 640);
        let [q, k] = case.tensors(&stream, &inputs);
        let options = SelectOptions { last_rows_dense: 1, sink_blocks: 1, ..SelectOptions::new(Select::Blocks(6)) };
        let lists = |capacity: Option<usize>| {
            let mut plan = gate.empty_plan(&stream, &case.shape, &Mask::CAUSAL, &options, capacity).unwrap();
            let mut workspace = stream.alloc_bytes(gate.workspace_bytes(&case.shape, &options)).unwrap();
            let (q, k) = (q.view(), k.view());
            gate.select_into(&stream, &case.shape, &Mask::CAUSAL, q, k, &options, &mut plan, &mut workspace).unwrap();
            (flags(&stream, &plan, 20), plan.overflow(&stream).unwrap())
        };
        let count = |lists: &[Vec<bool>]| lists.iter().flatten().filter(|&&on| on).count();
        let (whole, none) = lists(None);
        assert_eq!(none, 0);
        let (logits, _) = case.expected(&inputs, &[]);
        for capacity in [0, 1, 40, 41, 100, 200, count(&whole) - 1, count(&whole)] {
            let (cut, overflow) = lists(Some(capacity));
            assert_eq!(count(&cut), capacity.min(count(&whole)), "{capacity}");
            assert_eq!(overflow, count(&whole) - count(&cut));
            let longest = cut.iter().map(|row| row.iter().filter(|&&on| on).count()).max().unwrap();
            for (index, (cut, whole)) in cut.iter().zip(&whole).enumerate() {
                let kept = cut.iter().filter(|&&on| on).count();
                let had = whole.iter().filter(|&&on| on).count();
                assert!(kept == had || kept + 1 >= longest, "{capacity}: {cut:?}");
                let row = index % 20;
                let forced = |block: usize| block == 0 || block == row;
                let worth = |block: usize| if forced(block) { f64::INFINITY } else { logits[index * 20 + block] };
                let least = (0..20).filter(|&j| cut[j]).map(worth).fold(f64::INFINITY, f64::min);
                for lost in (0..20).filter(|&j| whole[j] && !cut[j]) {
                    assert!(kept == 0 || worth(lost) <= least + 1e-4, "{capacity}: row {index} lost {lost}");
                }
                assert!((0..20).all(|j| whole[j] || !cut[j]));
            }
        }
    }
}

/// Attention visits what the plan says and nothing else.
#[test]
fn attention_over_the_plan() {
    for stream in streams(6) {
        for (gate, share_heads) in [
            (Prefill::new(shape(1, (4, 2), (512, 512), 64), 64), false),
            (Prefill { k_heads: 1, ..Prefill::new(shape(2, (2, 1), (200, 333), 64), 32) }, true),
        ] {
            let inputs = gate.inputs::<bf16>();
            let planner = gate.gate(&stream, &inputs, gate.shape.kv_len);
            let [q, k] = gate.tensors(&stream, &inputs);
            let options = SelectOptions { share_heads, ..SelectOptions::new(Select::Density(0.2)) };
            let plan = planner.plan(&stream, &gate.shape, &Mask::CAUSAL, q.view(), k.view(), &options).unwrap();
            let case = Case::new(gate.shape, Mask::CAUSAL);
            case.check::<bf16>(&stream, &plan);
            let blocks = plan.block_mask(&stream, &gate.shape, &Mask::CAUSAL).unwrap().blocks();
            stream.reset_counters();
            case.run::<bf16>(&stream, &plan).unwrap();
            if let Some(counters) = stream.counters().filter(|_| gate.shape.q_len == 512) {
                // Q K^T and P V of 64 x 64 x 64 each.
                assert_eq!(counters.mma_macs, blocks * 2 * 64 * 64 * 64);
            }
        }
    }
}

/// Rows of odd addresses take loads that the machine does not count: what is left is one read of Q and K.
#[test]
fn gate_traffic_is_one_read_of_q_and_k() {
    let stream = simt(7);
    let case = Prefill::new(shape(2, (4, 2), (300, 300), 64), 64);
    let inputs = case.inputs::<bf16>();
    let gate = case.gate(&stream, &inputs, 300);
    let options = SelectOptions::new(Select::Blocks(2));
    let copied = |storage: Storage| {
        let tensor = |values: &[bf16], heads| {
            let mut tensor = Tensor::with_layout(&stream, storage.layout([2, heads, 300, 64])).unwrap();
            tensor.copy_from_slice(&stream, values).unwrap();
            tensor
        };
        let (q, k) = (tensor(&inputs.q, 4), tensor(&inputs.k, 2));
        stream.reset_counters();
        let plan = gate.plan(&stream, &case.shape, &Mask::CAUSAL, q.view(), k.view(), &options).unwrap();
        (stream.counters().unwrap().copy_bytes, plan.lists(&stream).unwrap())
    };
    let (packed, expected) = copied(Storage::Packed);
    for storage in [Storage::SeqFirst, Storage::Gaps] {
        assert_eq!(copied(storage), (packed, expected.clone()), "{storage:?}");
    }
    let (odd, lists) = copied(Storage::Odd);
    assert_eq!(lists, expected);
    assert_eq!(packed - odd, 2 * (4 + 2) * 300 * 64 * 2);
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let case = Prefill { k_heads: 2, ..Prefill::new(shape(2, (4, 2), (150, 210), 32), 32) };
    let inputs = case.inputs::<bf16>();
    let options = SelectOptions { share_heads: true, ..SelectOptions::new(Select::TopP(0.5)) };
    let run = |stream: &Stream| {
        let gate = case.gate(stream, &inputs, 210);
        let [q, k] = case.tensors(stream, &inputs);
        stream.reset_counters();
        let logits = gate.logits(stream, &case.shape, &Mask::CAUSAL, q.view(), k.view()).unwrap();
        let plan = gate.plan(stream, &case.shape, &Mask::CAUSAL, q.view(), k.view(), &options).unwrap();
        let bits: Vec<u32> = logits.to_vec(stream).unwrap().into_iter().map(f32::to_bits).collect();
        (bits, flags(stream, &plan, 7), stream.counters().unwrap())
    };
    let expected = run(&Device::simt().unwrap().new_stream().unwrap());
    let policies = [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
    for (index, policy) in policies.into_iter().enumerate() {
        for (number, async_mode) in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed].into_iter().enumerate() {
            let config = SimtConfig { policy, async_mode, ..SimtConfig::checked((10 * index + number) as u64) };
            let got = run(&Device::simt_with(config).unwrap().new_stream().unwrap());
            assert!(got == expected, "{config:?}");
        }
    }
}
