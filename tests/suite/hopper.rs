//! The Hopper forward kernel: which rows share a tile, exact work, every schedule of its pipeline, and what it leaves
//! to the portable one. The suites for plans, options and paging run on it as well, wherever it serves their requests.

use crate::harness::{Case, Outcome, Storage, shape, streams, uniform};
use crate::pages::Pages;
use lacuna::{
    AttentionShape, BlockFormula, BlockMask, BlockPlan, BlockSize, Device, Error, ForwardOptions, KernelFamily, Mask,
    SimtAsync, SimtConfig, SimtPolicy, Stream, attention, bf16, f16,
};

const SIZES: [(usize, usize); 4] = [(64, 64), (64, 128), (128, 64), (128, 128)];

fn hopper(shape: AttentionShape, mask: Mask) -> Case {
    Case { family: KernelFamily::Hopper, ..Case::new(shape, mask) }
}

/// Streams of the devices that have Hopper instructions.
fn hopper_streams(seed: u64) -> Vec<Stream> {
    let case = hopper(shape(1, (1, 1), (64, 64), 64), Mask::FULL);
    let serves = |stream: &Stream| match attention::kernel(
        stream.device(),
        &case.shape,
        &case.options(None),
        &BlockPlan::dense(),
    ) {
        Ok(_) => true,
        Err(Error::NoKernel { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    streams(seed).into_iter().filter(serves).collect()
}

/// The fast SIMT host, whose counters are exact.
fn simt() -> Stream {
    Device::simt().unwrap().new_stream().unwrap()
}

fn random_mask(dims: [usize; 4], density: f32, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..dims.iter().product()).map(|_| u8::from(uniform(&mut state) + 0.5 < density)).collect()
}

/// A plan of random blocks, and the same blocks as the host sees them.
fn random_plan(
    stream: &Stream,
    case: &Case,
    (q, k): (usize, usize),
    heads: usize,
    density: f32,
) -> (BlockPlan, BlockMask) {
    let dims = [1, heads, case.shape.q_len.div_ceil(q), case.shape.kv_len.div_ceil(k)];
    let mask = random_mask(dims, density, case.seed);
    let plan = BlockPlan::from_mask(stream, &case.shape, q, k, dims, &mask).unwrap();
    (plan, BlockMask::from_data(&case.shape, q, k, 1, heads, false, mask).unwrap())
}

#[test]
fn the_tile_table_says_which_rows_share_a_tile() {
    let stream = simt();
    let device = stream.device();
    let lists =
        |size, heads| random_plan(&stream, &hopper(shape(1, (8, 2), (256, 256), 64), Mask::FULL), size, heads, 0.5).0;
    let tile = |plan: &BlockPlan| {
        let case = hopper(shape(1, (8, 2), (256, 256), 64), Mask::FULL);
        let info = attention::kernel(device, &case.shape, &case.options(None), plan).unwrap();
        assert_eq!((info.family, info.tile_q, info.tile_k, info.threads), (KernelFamily::Hopper, 128, 128, 384));
        (info.heads, info.schedule_q)
    };
    // One list for several heads of a group: two of them share a tile, 64 rows each.
    assert_eq!(tile(&lists((64, 64), 1)), (2, 64));
    assert_eq!(tile(&lists((64, 128), 2)), (2, 64));
    // A list for each head: adjacent query blocks share a tile over the union of their lists.
    assert_eq!(tile(&lists((64, 64), 8)), (1, 128));
    // Query blocks of 128 rows are a tile.
    assert_eq!(tile(&lists((128, 64), 1)), (1, 128));
    assert_eq!(tile(&lists((128, 128), 8)), (1, 128));
    assert_eq!(tile(&BlockPlan::dense()), (1, 128));
    // An odd group cannot be paired.
    let odd = hopper(shape(1, (3, 1), (256, 256), 128), Mask::FULL);
    let plan = random_plan(&stream, &odd, (64, 64), 1, 0.5).0;
    let info = attention::kernel(device, &odd.shape, &odd.options(None), &plan).unwrap();
    assert_eq!((info.name.as_str(), info.heads, info.schedule_q), ("sm90_forward_d128_bf16", 1, 128));
}

#[test]
fn every_way_to_share_rows() {
    for (number, size) in SIZES.into_iter().enumerate() {
        for (q_heads, kv_heads, heads) in [(4, 2, 1), (4, 2, 2), (4, 2, 4), (3, 1, 1), (2, 2, 2), (6, 1, 1)] {
            for (dim, mask) in [(64, Mask::CAUSAL), (128, Mask::FULL)] {
                let seed = (100 * number + 10 * q_heads + heads) as u64;
                for stream in hopper_streams(seed) {
                    let case = Case { seed, ..hopper(shape(2, (q_heads, kv_heads), (200, 330), dim), mask) };
                    let (plan, blocks) = random_plan(&stream, &case, size, heads, 0.4);
                    let outcome = case.run::<bf16>(&stream, &plan).unwrap();
                    case.compare::<bf16>(&outcome, &blocks.visibility(&case.shape, &case.mask))
                        .unwrap_or_else(|text| panic!("{size:?} x {heads}: {text}"));
                }
            }
        }
    }
}

#[test]
fn ragged_lengths() {
    for (number, (q_len, kv_len)) in
        [(1, 1), (1, 300), (63, 63), (64, 65), (65, 128), (127, 129), (128, 128), (129, 257), (300, 300), (5, 0)]
            .into_iter()
            .enumerate()
    {
        for mask in [Mask::CAUSAL, Mask::FULL, Mask { window_left: Some(70), window_right: Some(3), causal: false }] {
            if mask.causal && kv_len < q_len {
                continue;
            }
            for stream in hopper_streams(number as u64) {
                let dim = if number % 2 == 0 { 64 } else { 128 };
                hopper(shape(1, (2, 1), (q_len, kv_len), dim), mask).check::<f16>(&stream, &BlockPlan::dense());
            }
        }
    }
}

#[test]
fn formulas() {
    let strided = BlockFormula { local_blocks: 2, vertical_stride: 4, head_step: 1, ..BlockFormula::dense() };
    for (formula, heads) in [
        (BlockFormula::local(2, 1), 1),
        (strided, 4),
        (strided, 2),
        (BlockFormula { local_blocks: 0, ..strided }, 4),
        (BlockFormula { sink_blocks: 2, head_offset: 3, dense_from: 1, ..strided }, 2),
        (BlockFormula { vertical_stride: 7, head_offset: 5, ..strided }, 1),
    ] {
        for size in [64, 128] {
            for absolute in [false, true] {
                for stream in hopper_streams(size as u64 + u64::from(absolute)) {
                    let case = hopper(shape(2, (4, 2), (200, 690), 64), Mask::CAUSAL);
                    let plan = BlockPlan::formula(formula, BlockSize::square(size), heads, absolute).unwrap();
                    let blocks =
                        BlockMask::from_formula(&case.shape, &case.mask, &formula, heads, size, size, absolute)
                            .unwrap();
                    let outcome = case.run::<bf16>(&stream, &plan).unwrap();
                    case.compare::<bf16>(&outcome, &blocks.visibility(&case.shape, &case.mask))
                        .unwrap_or_else(|text| panic!("{formula:?} {size}: {text}"));
                }
            }
        }
    }
}

#[test]
fn splits_sinks_and_empty_rows() {
    for (splits, sink) in [(1, true), (2, false), (3, true), (64, false)] {
        for stream in hopper_streams(splits as u64) {
            let case = Case {
                splits,
                sink: sink.then(|| vec![0.5, -1.0, 3.0, f32::NEG_INFINITY]),
                ..hopper(shape(2, (4, 2), (150, 400), 128), Mask::CAUSAL)
            };
            let (plan, blocks) = random_plan(&stream, &case, (64, 64), 4, 0.15);
            let outcome = case.run::<bf16>(&stream, &plan).unwrap();
            case.compare::<bf16>(&outcome, &blocks.visibility(&case.shape, &case.mask)).unwrap();
            case.check::<bf16>(&stream, &BlockPlan::dense());
        }
    }
}

/// Boxes of 64 x 64 that some row group and the mask name, as (products, loads): a load is shared by the two halves of
/// a tile.
fn boxes(case: &Case, blocks: &BlockMask, heads_in_tile: usize) -> (u64, u64, u64) {
    let shape = &case.shape;
    let (mut products, mut keys, mut rows) = (0, 0, 0);
    let past = shape.kv_len - shape.q_len;
    let plan_head = |head: usize| head * blocks.heads / shape.q_heads;
    let wants = |b: usize, head: usize, half: usize, column: usize| {
        let (first, last) = (half * 64, (half * 64 + 64).min(shape.q_len));
        let sees = first < last && (!case.mask.causal || column * 64 <= last - 1 + past);
        let b = if blocks.batch == 1 { 0 } else { b };
        sees && blocks.get(b, plan_head(head), half * 64 / blocks.block_q, column * 64 / blocks.block_k) != 0
    };
    for b in 0..shape.batch {
        let mut tile = |halves: [(usize, usize); 2]| {
            let mut any = false;
            for column in 0..shape.kv_len.div_ceil(64) {
                let wanted = halves.iter().filter(|&&(head, half)| wants(b, head, half, column)).count() as u64;
                products += wanted;
                any |= wanted > 0;
                keys += if wanted > 0 { 64.min(shape.kv_len - column * 64) as u64 } else { 0 };
            }
            let existing = |half: usize| 64.min(shape.q_len.saturating_sub(half * 64)) as u64;
            let of_tile = halves.iter().map(|&(_, half)| existing(half)).sum::<u64>();
            // Q in if there is a key, O out always.
            rows += of_tile * (1 + u64::from(any));
        };
        let halves = shape.q_len.div_ceil(64);
        for head in (0..shape.q_heads).step_by(heads_in_tile) {
            if heads_in_tile == 2 {
                (0..halves).for_each(|half| tile([(head, half), (head + 1, half)]));
            } else {
                (0..halves).step_by(2).for_each(|half| tile([(head, half), (head, half + 1)]));
            }
        }
    }
    (products, keys, rows)
}

#[test]
fn work_and_bytes_are_those_of_the_plan() {
    let stream = simt();
    for (size, heads, heads_in_tile) in [((64, 64), 4, 1), ((64, 64), 2, 2), ((128, 64), 4, 1), ((128, 128), 1, 1)] {
        for (q_len, kv_len) in [(512, 512), (400, 700)] {
            for dim in [64, 128] {
                let case = hopper(shape(2, (4, 2), (q_len, kv_len), dim), Mask::CAUSAL);
                let (plan, blocks) = random_plan(&stream, &case, size, heads, 0.3);
                // Building the plan and its schedule moves nothing that is counted.
                stream.reset_counters();
                case.run::<bf16>(&stream, &plan).unwrap();
                let counters = stream.counters().unwrap();
                let (products, keys, rows) = boxes(&case, &blocks, heads_in_tile);
                let dim = dim as u64;
                assert_eq!(counters.mma_macs, products * 2 * 64 * 64 * dim, "{size:?} {heads}");
                assert_eq!(counters.copy_bytes, (keys * 2 + rows) * dim * 2, "{size:?} {heads}");
                assert_eq!(counters.bank_conflicts, 0);
            }
        }
    }
}

fn same_everywhere(case: &Case, plan: impl Fn(&Stream) -> BlockPlan) {
    let fast = simt();
    let made = plan(&fast);
    fast.reset_counters();
    let expected = case.run::<bf16>(&fast, &made).unwrap();
    let counts = fast.counters().unwrap();
    let run = |config: SimtConfig| -> Outcome {
        let stream = Device::simt_with(config).unwrap().new_stream().unwrap();
        let made = plan(&stream);
        stream.reset_counters();
        let outcome = case.run::<bf16>(&stream, &made).unwrap_or_else(|error| panic!("{error}\n{config:?}"));
        let counted = stream.counters().unwrap();
        assert_eq!((counted.mma_macs, counted.copy_bytes), (counts.mma_macs, counts.copy_bytes), "{config:?}");
        outcome
    };
    let policies = [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
    for (index, policy) in policies.into_iter().enumerate() {
        for async_mode in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed] {
            for seed in 0..3 {
                let config = SimtConfig { policy, async_mode, ..SimtConfig::checked(seed + 10 * index as u64) };
                assert!(run(config).same_bits(&expected), "{config:?}");
            }
        }
    }
    // A persistent block takes many tiles, or each tile has its own block.
    for sm_count in [1, 2, 5, 100] {
        let config = SimtConfig { sm_count, ..SimtConfig::checked(u64::from(sm_count)) };
        assert!(run(config).same_bits(&expected), "{config:?}");
    }
}

#[test]
fn every_schedule_gives_the_same_bits_and_counts_dense() {
    same_everywhere(&hopper(shape(1, (4, 2), (300, 500), 64), Mask::CAUSAL), |_| BlockPlan::dense());
}

#[test]
fn every_schedule_gives_the_same_bits_and_counts_union() {
    let case = hopper(shape(1, (2, 2), (250, 400), 128), Mask::CAUSAL);
    same_everywhere(&case, |stream| random_plan(stream, &case, (64, 64), 2, 0.5).0);
}

#[test]
fn every_schedule_gives_the_same_bits_and_counts_paired_heads() {
    let case = Case { splits: 2, ..hopper(shape(1, (4, 2), (190, 400), 64), Mask::FULL) };
    same_everywhere(&case, |stream| random_plan(stream, &case, (64, 128), 2, 0.5).0);
}

#[test]
fn every_schedule_gives_the_same_bits_and_counts_gathered() {
    let case = hopper(shape(1, (2, 1), (150, 300), 64), Mask::CAUSAL);
    let pages = Some(Pages::shuffled(&case.shape, 16, 1, 5));
    let case = Case { pages, ..case };
    same_everywhere(&case, |stream| random_plan(stream, &case, (64, 64), 2, 0.6).0);
}

#[test]
fn pages_of_whole_boxes_come_by_tma_and_smaller_ones_are_gathered() {
    for (size, name) in [
        (16, "sm90_forward_gather_d128_bf16"),
        (96, "sm90_forward_gather_d128_bf16"),
        (64, "sm90_forward_d128_bf16"),
        (192, "sm90_forward_d128_bf16"),
    ] {
        for stream in hopper_streams(size as u64) {
            let case = hopper(shape(2, (4, 2), (130, 333), 128), Mask::CAUSAL);
            let case = Case { pages: Some(Pages::shuffled(&case.shape, size, 2, 9)), ..case };
            let pages = case.pages.as_ref().unwrap();
            let table = pages.table(&stream, &case.shape);
            let options = ForwardOptions { paged: Some(pages.of(&table)), ..case.options(None) };
            let info = attention::kernel(stream.device(), &case.shape, &options, &BlockPlan::dense()).unwrap();
            assert_eq!(info.name, name);
            case.check::<bf16>(&stream, &BlockPlan::dense());
        }
    }
}

/// Every kernel that serves a case, on every device: within the bound of the reference, and of each other.
#[test]
fn devices_and_families_agree() {
    for (number, size) in SIZES.into_iter().enumerate() {
        let case = Case { seed: number as u64, ..Case::new(shape(2, (4, 2), (200, 330), 128), Mask::CAUSAL) };
        let mut outcomes: Vec<(String, Outcome)> = Vec::new();
        for stream in streams(number as u64) {
            let (plan, blocks) = random_plan(&stream, &case, size, 2, 0.4);
            for case in case.for_kernels::<bf16>(&stream, &plan) {
                let outcome = case.run::<bf16>(&stream, &plan).unwrap();
                case.compare::<bf16>(&outcome, &blocks.visibility(&case.shape, &case.mask)).unwrap();
                outcomes.push((format!("{} {:?}", stream.device().name(), case.family), outcome));
            }
        }
        assert!(outcomes.len() >= 2, "the SIMT host has two families");
        for (name, outcome) in &outcomes[1..] {
            let (first, expected) = &outcomes[0];
            let far = |x: &f32, y: &f32| f64::from(x - y).powi(2);
            let sum: f64 = outcome.out.iter().zip(&expected.out).map(|(x, y)| far(x, y)).sum();
            let norm: f64 = expected.out.iter().map(|x| f64::from(*x).powi(2)).sum();
            // Two roundings of bf16, each of at most 2^-9 relative, and of P before them.
            let distance = (sum / norm).sqrt();
            assert!(distance < 4.0 / 512.0, "{name} and {first}: {distance:e}");
            let lse = outcome.lse.iter().zip(&expected.lse).filter(|(x, y)| x.is_finite() || y.is_finite());
            lse.for_each(|(x, y)| assert!((x - y).abs() <= 1e-4 * y.abs().max(1.0), "{name} and {first}: {x} {y}"));
        }
    }
}

#[test]
fn huge_logits() {
    // Up to 2^24 an exponential is one fused multiply-add; beyond, its rounding would show.
    for scale in [1e3, 1e6, 1e7, 1e12, 1e30] {
        for stream in streams(5) {
            let case = Case { scale: Some(scale), ..Case::new(shape(1, (2, 1), (100, 200), 64), Mask::CAUSAL) };
            case.check::<bf16>(&stream, &BlockPlan::dense());
        }
    }
}

#[test]
fn rows_that_tma_cannot_address_go_to_the_portable_kernel() {
    let case = Case { storage: [Storage::Odd; 4], ..Case::new(shape(1, (4, 2), (150, 200), 64), Mask::CAUSAL) };
    for stream in streams(3) {
        // The schedule was made for the kernel that serves packed tensors.
        let (plan, blocks) = random_plan(&stream, &case, (64, 64), 4, 0.5);
        let outcome = case.run::<bf16>(&stream, &plan).unwrap();
        case.compare::<bf16>(&outcome, &blocks.visibility(&case.shape, &case.mask)).unwrap();
    }
    for stream in hopper_streams(4) {
        let error = Case { family: KernelFamily::Hopper, ..case.clone() }.run::<bf16>(&stream, &BlockPlan::dense());
        assert!(matches!(error, Err(Error::Unsupported { .. })), "{error:?}");
    }
}

#[test]
fn what_it_does_not_serve_is_said() {
    let stream = simt();
    let case = hopper(shape(1, (2, 2), (100, 100), 96), Mask::CAUSAL);
    let error = case.run::<bf16>(&stream, &BlockPlan::dense()).unwrap_err();
    assert!(error.to_string().contains("head_dim 64 or 128"), "{error}");
    let case = hopper(shape(1, (2, 2), (128, 128), 64), Mask::CAUSAL);
    let (plan, _) = random_plan(&stream, &case, (32, 64), 1, 0.5);
    let error = case.run::<bf16>(&stream, &plan).unwrap_err();
    assert!(error.to_string().contains("blocks of 64 or 128"), "{error}");
}

#[test]
fn softcaps_and_scales() {
    for (softcap, scale) in [(Some(20.0), None), (Some(1.0), Some(2.0)), (None, Some(-0.1)), (None, Some(0.0))] {
        for dim in [64, 128] {
            for stream in hopper_streams(dim as u64) {
                let case = Case { softcap, scale, ..hopper(shape(1, (4, 2), (200, 330), dim), Mask::CAUSAL) };
                case.check::<bf16>(&stream, &BlockPlan::dense());
                let (plan, blocks) = random_plan(&stream, &case, (64, 64), 4, 0.4);
                let outcome = case.run::<f16>(&stream, &plan).unwrap();
                case.compare::<f16>(&outcome, &blocks.visibility(&case.shape, &case.mask)).unwrap();
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_stay_in_their_tile() {
    // Keys behind the sequence and boxes that nobody wants must not be multiplied: NaN in V would reach the output.
    let case = hopper(shape(1, (1, 1), (128, 200), 64), Mask::FULL);
    for stream in hopper_streams(6) {
        let outcome = case.run::<bf16>(&stream, &BlockPlan::dense()).unwrap();
        assert!(outcome.out.iter().all(|x| x.is_finite()));
    }
}
