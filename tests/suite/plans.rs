//! Plans of every kind against the f64 reference: masks and lists of any block size, broken indices, overflow, S2.

use crate::harness::{Case, shape, simt, streams, uniform};
use lacuna::{
    AttentionShape, BlockFormula, BlockMask, BlockPlan, BlockSize, Error, ListRows, Mask, S2Columns, S2Config,
    S2Variant, Stream, Tensor, bf16, f16,
};
use proptest::prelude::*;

const SIZES: [usize; 4] = [16, 32, 64, 128];

fn dims(shape: &AttentionShape, block: BlockSize, batch: usize, heads: usize) -> [usize; 4] {
    [batch, heads, shape.q_len.div_ceil(block.q), shape.kv_len.div_ceil(block.k)]
}

/// Each block with the same chance, whatever its neighbours: nothing monotone about it.
fn random_mask(dims: [usize; 4], density: f32, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..dims.iter().product()).map(|_| u8::from(uniform(&mut state) + 0.5 < density)).collect()
}

/// What the mask says, from the host, against the kernels' result for a plan made of it.
fn check_mask(case: &Case, block: BlockSize, batch: usize, heads: usize, density: f32, stream: &Stream) {
    let dims = dims(&case.shape, block, batch, heads);
    let mask = random_mask(dims, density, case.seed);
    let plan = BlockPlan::from_mask(stream, &case.shape, block.q, block.k, dims, &mask).unwrap();
    assert_eq!(plan.overflow(stream).unwrap(), 0);
    let blocks = BlockMask::from_data(&case.shape, block.q, block.k, batch, heads, false, mask).unwrap();
    for case in case.for_kernels::<bf16>(stream, &plan) {
        let outcome = case.run::<bf16>(stream, &plan).unwrap_or_else(|error| panic!("{error}\n{block:?} {case:?}"));
        case.compare::<bf16>(&outcome, &blocks.visibility(&case.shape, &case.mask))
            .unwrap_or_else(|text| panic!("{block:?} x {heads}: {text}"));
    }
    // The kernel's own picture holds the same pairs.
    let drawn = plan.block_mask(stream, &case.shape, &case.mask).unwrap();
    assert_eq!(drawn.visited_pairs(&case.shape, &case.mask), blocks.visited_pairs(&case.shape, &case.mask));
    assert!(drawn.data.iter().zip(&blocks.data).all(|(drawn, given)| drawn <= given));
}

#[test]
fn masks_of_all_block_sizes() {
    for (q, k) in SIZES.iter().flat_map(|&q| SIZES.map(|k| (q, k))) {
        for mask in [Mask::CAUSAL, Mask::FULL] {
            for stream in streams((q + k) as u64) {
                let case = Case { seed: (q * k) as u64, ..Case::new(shape(2, (4, 2), (150, 150), 64), mask) };
                check_mask(&case, BlockSize { q, k }, 2, 4, 0.4, &stream);
            }
        }
    }
}

#[test]
fn shared_masks_and_plan_heads() {
    for (batch, heads) in [(1, 1), (1, 2), (1, 6), (3, 1), (3, 2), (3, 6)] {
        for stream in streams(7) {
            let case = Case::new(shape(3, (6, 2), (100, 140), 32), Mask::CAUSAL);
            check_mask(&case, BlockSize { q: 32, k: 16 }, batch, heads, 0.5, &stream);
        }
    }
}

#[test]
fn empty_and_full_masks() {
    for density in [0.0, 1.0] {
        for stream in streams(8) {
            check_mask(
                &Case::new(shape(1, (2, 2), (130, 130), 64), Mask::CAUSAL),
                BlockSize { q: 16, k: 64 },
                1,
                1,
                density,
                &stream,
            );
        }
    }
}

#[test]
fn small_blocks_that_share_a_tile_do_not_leak() {
    // Query block 0 attends the last keys only, its neighbours in the tile the first only.
    let case = Case::new(shape(1, (1, 1), (64, 128), 64), Mask::FULL);
    let dims = [1, 1, 4, 8];
    let mut mask = vec![0; 32];
    mask[7] = 1;
    (1..4).for_each(|row| mask[row * 8] = 1);
    for stream in streams(9) {
        let plan = BlockPlan::from_mask(&stream, &case.shape, 16, 16, dims, &mask).unwrap();
        let blocks = BlockMask::from_data(&case.shape, 16, 16, 1, 1, false, mask.clone()).unwrap();
        case.check_visible::<f16>(&stream, &plan, &blocks.visibility(&case.shape, &case.mask));
    }
}

fn rows(size: usize, batch: usize, heads: usize) -> ListRows {
    ListRows { block: BlockSize::square(size), batch, heads, absolute: false }
}

#[test]
fn duplicates_count_twice() {
    for size in SIZES {
        let case = Case::new(shape(1, (2, 1), (100, 100), 64), Mask::CAUSAL);
        let q_blocks = 100usize.div_ceil(size);
        let lists: Vec<Vec<i32>> = (0..q_blocks as i32).map(|i| [0, 0, i / 2, i, i, i]).map(Vec::from).collect();
        let lists: Vec<Vec<i32>> = lists
            .into_iter()
            .map(|mut list| {
                list.sort_unstable();
                list
            })
            .collect();
        let offsets: Vec<i32> = (0..=q_blocks as i32).map(|row| row * 6).collect();
        for stream in streams(10) {
            let plan =
                BlockPlan::from_lists(&stream, &case.shape, rows(size, 1, 1), &offsets, &lists.concat()).unwrap();
            let blocks = BlockMask::from_lists(&case.shape, size, size, 1, 1, &offsets, &lists.concat()).unwrap();
            case.check_visible::<bf16>(&stream, &plan, &blocks.visibility(&case.shape, &case.mask));
        }
    }
}

#[test]
fn strange_ids_and_offsets_on_the_device_are_skipped() {
    let case = Case::new(shape(1, (2, 2), (64, 100), 64), Mask::FULL);
    for stream in streams(11) {
        let build = |offsets: &[i32], indices: &[i32]| {
            let offsets = Tensor::vector(&stream, offsets).unwrap();
            let indices = Tensor::vector(&stream, indices).unwrap();
            BlockPlan::from_device_lists(&case.shape, rows(32, 1, 1), offsets, indices).unwrap()
        };
        // Ids that are no block: both rows attend block 1 only, row 1 twice.
        let (offsets, indices) = ([0, 5, 9], [-1, 1, 4, i32::MAX, i32::MIN, 1, 1, 1000, -7]);
        let blocks = BlockMask::from_lists(&case.shape, 32, 32, 1, 1, &offsets, &indices).unwrap();
        case.check_visible::<bf16>(&stream, &build(&offsets, &indices), &blocks.visibility(&case.shape, &case.mask));
        // Offsets that leave the list, descend or overlap read nothing outside; unsorted ids are as good as sorted
        // ones.
        for offsets in [[i32::MIN, i32::MAX, i32::MIN], [0, i32::MAX, i32::MAX], [5, 0, 2], [-9, 4, 400], [7, 7, 9]] {
            let plan = build(&offsets, &indices);
            let outcome = case.run::<bf16>(&stream, &plan).unwrap();
            assert!(outcome.out.iter().all(|x| x.is_finite()), "{offsets:?}");
            plan.block_mask(&stream, &case.shape, &case.mask).unwrap();
        }
        let blocks = BlockMask::from_lists(&case.shape, 32, 32, 1, 1, &[0, 2, 4], &[0, 2, 1, 3]).unwrap();
        case.check_visible::<bf16>(
            &stream,
            &build(&[0, 2, 4], &[2, 0, 3, 1]),
            &blocks.visibility(&case.shape, &case.mask),
        );
    }
}

#[test]
fn lists_that_overlap_overflow_the_schedule_and_nothing_else() {
    // Rows 0 and 2 both hold all nine ids: more entries than the schedule has room for.
    let case = Case::new(shape(1, (1, 1), (384, 300), 64), Mask::FULL);
    let stream = simt(11);
    let offsets = Tensor::vector(&stream, &[0, 9, 0, 9]).unwrap();
    let indices = Tensor::vector(&stream, &[0, 0, 0, 1, 1, 1, 2, 2, 2]).unwrap();
    let plan = BlockPlan::from_device_lists(&case.shape, rows(128, 1, 1), offsets, indices).unwrap();
    let outcome = case.run::<bf16>(&stream, &plan).unwrap();
    assert!(outcome.out.iter().all(|x| x.is_finite()));
}

#[test]
fn absolute_rows_start_inside_a_block() {
    // 100 cached keys before the first query: blocks of 64 start at key 64, 36 rows before the first query.
    for (size, seed) in SIZES.into_iter().zip(12..) {
        let case = Case::new(shape(2, (2, 1), (90, 190), 64), Mask::CAUSAL);
        let rows = ListRows { absolute: true, ..rows(size, 1, 2) };
        let q_blocks = (90 + 100 % size).div_ceil(size);
        let dims = [1, 2, q_blocks, 190usize.div_ceil(size)];
        let mask = random_mask(dims, 0.5, seed);
        let capacity = mask.iter().filter(|&&x| x != 0).count();
        for stream in streams(seed) {
            let plan = BlockPlan::from_mask_with_capacity(&stream, &case.shape, rows, capacity, dims, &mask).unwrap();
            let blocks = BlockMask::from_data(&case.shape, size, size, 1, 2, true, mask.clone()).unwrap();
            case.check_visible::<bf16>(&stream, &plan, &blocks.visibility(&case.shape, &case.mask));
        }
    }
}

#[test]
fn overflow_is_counted_and_the_rest_attended() {
    let case = Case::new(shape(1, (1, 1), (128, 128), 64), Mask::FULL);
    let dims = [1, 1, 4, 4];
    for stream in streams(13) {
        for capacity in [0, 1, 7, 15, 16, 100] {
            let plan =
                BlockPlan::from_mask_with_capacity(&stream, &case.shape, rows(32, 1, 1), capacity, dims, &[1; 16])
                    .unwrap();
            assert_eq!(plan.overflow(&stream).unwrap(), 16 - capacity.min(16));
            let kept: Vec<u8> = (0..16).map(|block| u8::from(block < capacity)).collect();
            let blocks = BlockMask::from_data(&case.shape, 32, 32, 1, 1, false, kept).unwrap();
            assert_eq!(plan.block_mask(&stream, &case.shape, &case.mask).unwrap().data, blocks.data);
            case.check_visible::<bf16>(&stream, &plan, &blocks.visibility(&case.shape, &case.mask));
        }
    }
}

#[test]
fn lists_can_be_refilled_on_the_device() {
    let case = Case::new(shape(1, (1, 1), (64, 64), 64), Mask::FULL);
    for stream in streams(14) {
        let mut plan = BlockPlan::with_capacity(&stream, &case.shape, rows(32, 1, 1), 4).unwrap();
        assert_eq!(plan.lists(&stream).unwrap().unwrap().0, [0, 0, 0]);
        let mask = Tensor::from_slice(&stream, &[0u8, 1, 1, 1], [1, 1, 2, 2]).unwrap();
        plan.set_mask(&stream, mask.view()).unwrap();
        let (offsets, indices) = plan.lists(&stream).unwrap().unwrap();
        assert_eq!((offsets, &indices[..3]), (vec![0, 1, 3], &[1, 0, 1][..]));
        let wrong = Tensor::from_slice(&stream, &[0u8, 1], [1, 1, 1, 2]).unwrap();
        assert!(matches!(plan.set_mask(&stream, wrong.view()), Err(Error::Shape { .. })));
    }
}

#[test]
fn formulas_are_evaluated_in_the_kernel() {
    let shape = shape(2, (4, 2), (150, 280), 64);
    for stream in streams(15) {
        for (formula, heads) in [
            (BlockFormula::local(2, 1), 1),
            (BlockFormula { local_blocks: 1, vertical_stride: 3, head_step: 1, ..BlockFormula::dense() }, 4),
            (BlockFormula { vertical_stride: 4, head_offset: 3, dense_from: 1, ..BlockFormula::dense() }, 2),
        ] {
            for size in SIZES {
                let case = Case::new(shape, Mask::CAUSAL);
                let plan = BlockPlan::formula(formula, BlockSize::square(size), heads, true).unwrap();
                let blocks = BlockMask::from_formula(&shape, &case.mask, &formula, heads, size, size, true).unwrap();
                assert_eq!(plan.block_mask(&stream, &shape, &case.mask).unwrap(), blocks);
                case.check_visible::<bf16>(&stream, &plan, &blocks.visibility(&shape, &case.mask));
            }
        }
    }
}

#[test]
fn work_is_proportional_to_the_blocks() {
    let case = Case::new(shape(1, (4, 4), (1024, 1024), 64), Mask::CAUSAL);
    let stream = lacuna::Device::simt().unwrap().new_stream().unwrap();
    let macs = |plan: &BlockPlan| {
        stream.reset_counters();
        case.run::<bf16>(&stream, plan).unwrap();
        stream.counters().unwrap().mma_macs as f64
    };
    let dense = macs(&BlockPlan::dense());
    let config = S2Config { local_blocks: 2, vertical_stride: 8, ..S2Config::default() };
    let plan = config.plan(&case.shape).unwrap();
    let blocks = plan.block_mask(&stream, &case.shape, &case.mask).unwrap().blocks() as f64;
    let causal_blocks = 4.0 * (16.0 * 17.0 / 2.0);
    let share = macs(&plan) / dense;
    assert!(share <= 1.05 * blocks / causal_blocks, "{share} of the dense work for {}", blocks / causal_blocks);
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    let stream = simt(16);
    let shape = shape(2, (4, 2), (64, 64), 64);
    let from_mask = |block_q, block_k, dims: [usize; 4]| {
        let mask = vec![1; dims.iter().product()];
        BlockPlan::from_mask(&stream, &shape, block_q, block_k, dims, &mask)
    };
    assert!(from_mask(32, 32, [1, 1, 2, 2]).is_ok());
    assert!(matches!(from_mask(48, 32, [1, 1, 2, 2]), Err(Error::Value { what: "block_q", .. })));
    assert!(matches!(from_mask(32, 0, [1, 1, 2, 2]), Err(Error::Value { what: "block_k", .. })));
    assert!(matches!(from_mask(32, 32, [3, 1, 2, 2]), Err(Error::Value { what: "plan batch", .. })));
    assert!(matches!(from_mask(32, 32, [1, 3, 2, 2]), Err(Error::Value { what: "plan heads", .. })));
    assert!(matches!(from_mask(32, 32, [1, 1, 2, 3]), Err(Error::Shape { what: "block mask", .. })));
    let lists = |offsets: &[i32], indices: &[i32]| {
        BlockPlan::from_lists(&stream, &shape, rows(32, 1, 1), offsets, indices).map(|_| ())
    };
    assert_eq!(lists(&[0, 1, 3], &[0, 0, 1]), Ok(()));
    let error = lists(&[0, 1, 3], &[0, 1, 2]).unwrap_err();
    assert_eq!(error.to_string(), "indices: row 1: expected block ids in 0..2, got 2");
    assert!(BlockPlan::formula(BlockFormula::dense(), BlockSize { q: 32, k: 64 }, 1, true).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_mask(
        batch in 1usize..3, group in 1usize..4, kv_heads in 1usize..3, q_len in 1usize..180, more in 0usize..100,
        block in (0usize..4, 0usize..4), per_sequence: bool, heads in 0usize..3, density in 0.0f32..1.0, causal: bool,
        seed: u64,
    ) {
        let mask = if causal { Mask::CAUSAL } else { Mask::FULL };
        let shape = shape(batch, (group * kv_heads, kv_heads), (q_len, q_len + more), 64);
        let block = BlockSize { q: SIZES[block.0], k: SIZES[block.1] };
        let heads = [1, kv_heads, group * kv_heads][heads];
        let case = Case { seed, ..Case::new(shape, mask) };
        for stream in streams(seed) {
            check_mask(&case, block, if per_sequence { batch } else { 1 }, heads, density, &stream);
        }
    }

    /// The kernels and the host evaluate formulas alike, wherever the queries stand.
    #[test]
    fn any_formula(
        lens in (1usize..300, 1usize..300), position in -200i64..400, size in 0usize..4, stride in 1usize..7,
        window in (0usize..4, 0usize..4), relative: bool, shift in (0usize..7, 0usize..7, 1usize..3), sinks in 0usize..3,
        dense in 0usize..6, mask in 0usize..3, seed: u64,
    ) {
        let mut shape = shape(1, (4, 2), lens, 32);
        let mask = [Mask::FULL, Mask::CAUSAL, Mask { window_left: Some(70), window_right: Some(35), ..Mask::FULL }][mask];
        if mask.causal {
            shape.q_len = shape.q_len.min(shape.kv_len);
        }
        let formula = BlockFormula {
            local_blocks: window.0,
            local_right: window.1.max(window.0.min(1)),
            vertical_stride: stride,
            relative,
            head_step: shift.0 % stride,
            head_offset: shift.1 % stride,
            heads_per_step: shift.2,
            dense_from: dense,
            sink_blocks: sinks,
        };
        let size = SIZES[size];
        let plan = BlockPlan::formula_at(formula, BlockSize::square(size), 4, position).unwrap();
        let case = Case { seed, ..Case::new(shape, mask) };
        for stream in streams(seed) {
            let blocks = plan.block_mask(&stream, &shape, &mask).unwrap();
            let (first, shift) = (position.div_euclid(size as i64), position.rem_euclid(size as i64) as usize);
            prop_assert_eq!((blocks.first_row, blocks.row_shift), (first, shift));
            for (p, r) in (0..4).flat_map(|p| (0..blocks.q_blocks).map(move |r| (p, r))) {
                for j in 0..blocks.kv_blocks {
                    let (low, high) = (j * size, ((j + 1) * size).min(shape.kv_len));
                    let seen = blocks.queries(&shape, r).any(|t| {
                        let keys = mask.visible(&shape, t);
                        keys.start.max(low) < keys.end.min(high)
                    });
                    let expected = seen && formula.attends(p, first + r as i64, j, false);
                    prop_assert_eq!(blocks.get(0, p, r, j) != 0, expected, "head {}, block ({}, {})", p, r, j);
                }
            }
            case.check_visible::<bf16>(&stream, &plan, &blocks.visibility(&shape, &mask));
        }
    }

    #[test]
    fn any_s2(
        kv_heads in 1usize..4, group in 1usize..3, q_len in 1usize..200, past in 0usize..150, size in 0usize..4,
        pattern in (0usize..4, 1usize..6, 0usize..3), step in prop::option::of(-4i64..5), offset in -5i64..6,
        dense in 0usize..3, homogeneous: bool, phi3: bool, columns in 0usize..3, right in prop::option::of(1usize..4),
        causal: bool, seed: u64,
    ) {
        // Without a causal mask there may be fewer keys than queries.
        let lens = if causal || seed % 2 == 0 { (q_len, q_len + past) } else { (q_len + past, q_len) };
        let shape = shape(1, (group * kv_heads, kv_heads), lens, 32);
        let config = S2Config {
            block_size: SIZES[size],
            local_blocks: pattern.0,
            local_right: right.filter(|_| !causal),
            vertical_stride: pattern.1,
            columns: [None, Some(S2Columns::Absolute), Some(S2Columns::Relative)][columns],
            head_sliding_step: step,
            head_sliding_offset: offset,
            num_dense_kv_heads: dense.min(kv_heads),
            homogeneous,
            sink_blocks: pattern.2,
            variant: if phi3 { S2Variant::Phi3 } else { S2Variant::Dkernel },
            causal,
        };
        let case = Case { seed, ..Case::new(shape, config.mask()) };
        let blocks = config.block_mask(&shape).unwrap();
        let plan = config.plan(&shape).unwrap();
        for stream in streams(seed) {
            prop_assert_eq!(&plan.block_mask(&stream, &shape, &case.mask).unwrap(), &blocks);
            case.check_visible::<bf16>(&stream, &plan, &blocks.visibility(&shape, &case.mask));
        }
    }
}
