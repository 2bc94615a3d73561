//! Decode attention: against the reference for every kind of plan, and a sequence alone against the same one in a
//! batch.

use crate::harness::{Case, Storage, shape, simt, streams, uniform};
use crate::pages::Pages;
use lacuna::reference::TokenMask;
use lacuna::{
    AttentionShape, BlockFormula, BlockPlan, BlockSize, Device, ForwardOptions, ListRows, Mask, SimtAsync, SimtConfig,
    SimtPolicy, Stream, Tensor, attention, bf16, f16,
};

fn case(shape: AttentionShape, mask: Mask) -> Case {
    Case { decode: true, ..Case::new(shape, mask) }
}

fn check_dense(case: &Case) {
    for stream in streams(case.seed) {
        let visible = TokenMask { shape: &case.shape, mask: &case.mask };
        case.check_visible::<bf16>(&stream, &BlockPlan::dense(), &visible);
        case.check_visible::<f16>(&stream, &BlockPlan::dense(), &visible);
    }
}

/// A plan with random lists for `heads` plan heads, some of them empty.
fn lists(
    stream: &Stream,
    shape: &AttentionShape,
    block: BlockSize,
    heads: usize,
    absolute: bool,
    seed: u64,
) -> BlockPlan {
    let past = if absolute { (shape.kv_len - shape.q_len) % block.q } else { 0 };
    let dims = [shape.batch, heads, (shape.q_len + past).div_ceil(block.q), shape.kv_len.div_ceil(block.k)];
    let mut state = seed;
    let rows = dims[0] * dims[1] * dims[2];
    let mask: Vec<u8> = (0..rows)
        .flat_map(|row| (0..dims[3]).map(move |_| row))
        .map(|row| u8::from(row % 5 != 4 && uniform(&mut state) > 0.1))
        .collect();
    let rows = ListRows { block, batch: shape.batch, heads, absolute };
    BlockPlan::from_mask_with_capacity(stream, shape, rows, mask.len(), dims, &mask).unwrap()
}

#[test]
fn head_dims_and_groups() {
    for (head_dim, heads, q_len) in [
        (32, (4, 4), 1),
        (64, (8, 2), 1),
        (64, (4, 2), 16),
        (96, (6, 2), 5),
        (128, (32, 1), 1),
        (128, (8, 2), 16),
        (128, (10, 1), 2),
        (256, (4, 1), 1),
        (256, (3, 1), 7),
    ] {
        check_dense(&case(shape(2, heads, (q_len, 333), head_dim), Mask::CAUSAL));
    }
}

#[test]
fn lengths_and_masks() {
    for (q_len, kv_len) in [(1, 1), (3, 3), (16, 16), (1, 64), (2, 65), (1, 257), (4, 1000)] {
        check_dense(&case(shape(1, (4, 2), (q_len, kv_len), 64), Mask::CAUSAL));
    }
    for mask in [
        Mask::FULL,
        Mask { window_left: Some(100), ..Mask::CAUSAL },
        Mask { window_left: Some(3), window_right: Some(2), causal: false },
    ] {
        check_dense(&case(shape(1, (4, 2), (9, 700), 64), mask));
    }
    // More queries than keys, and none of the keys in reach.
    check_dense(&case(shape(1, (2, 2), (12, 5), 64), Mask::FULL));
    check_dense(&case(shape(1, (2, 2), (12, 5), 64), Mask { window_right: Some(0), ..Mask::FULL }));
}

#[test]
fn options_and_strides() {
    let base = case(shape(2, (4, 2), (3, 400), 64), Mask::CAUSAL);
    check_dense(&Case { scale: Some(0.5), softcap: Some(3.0), ..base.clone() });
    check_dense(&Case { sink: Some(vec![0.5, -1.0, 4.0, 0.0]), ..base.clone() });
    for storage in Storage::ALL {
        check_dense(&Case { storage: [storage; 4], ..base.clone() });
    }
}

#[test]
fn formulas_where_queries_lie_in_two_blocks() {
    let formula = |local_blocks, vertical_stride, head_step| BlockFormula {
        local_blocks,
        vertical_stride,
        head_step,
        ..BlockFormula::dense()
    };
    for stream in streams(3) {
        for (q_len, kv_len) in [(1, 640), (16, 645), (7, 1030), (16, 647)] {
            for (block, heads) in [(16, 4), (64, 2), (32, 1)] {
                let case = case(shape(1, (4, 2), (q_len, kv_len), 64), Mask::CAUSAL);
                for formula in [formula(2, 5, 1), BlockFormula::local(1, 1), BlockFormula::dense()] {
                    let plan = BlockPlan::formula(formula, BlockSize::square(block), heads, true).unwrap();
                    case.check::<bf16>(&stream, &plan);
                }
            }
        }
    }
}

#[test]
fn lists_of_all_heads_and_blocks() {
    for stream in streams(4) {
        for (q, k, heads, q_len, absolute) in [
            (16, 64, 2, 1, false),
            (16, 16, 8, 3, false),
            (64, 128, 1, 16, false),
            (64, 32, 2, 16, true),
            (16, 64, 8, 12, true),
        ] {
            let case = case(shape(2, (8, 2), (q_len, 777), 64), Mask::CAUSAL);
            let plan = lists(&stream, &case.shape, BlockSize { q, k }, heads, absolute, 99);
            case.check::<bf16>(&stream, &plan);
        }
    }
}

#[test]
fn pages() {
    for stream in streams(5) {
        for page in [16, 48, 64] {
            let shape = shape(2, (4, 2), (2, 500), 64);
            let case = Case { pages: Some(Pages::shuffled(&shape, page, 1, 7)), ..case(shape, Mask::CAUSAL) };
            case.check_visible::<bf16>(&stream, &BlockPlan::dense(), &TokenMask { shape: &shape, mask: &Mask::CAUSAL });
            case.check::<bf16>(&stream, &lists(&stream, &shape, BlockSize { q: 16, k: 32 }, 2, false, 5));
        }
    }
}

/// out and lse of one causal call.
pub fn run(
    stream: &Stream,
    shape: &AttentionShape,
    plan: &BlockPlan,
    lens: Option<&[i32]>,
    [q, k, v]: [&[bf16]; 3],
) -> (Vec<bf16>, Vec<f32>) {
    let tensor =
        |values: &[bf16], heads, len| Tensor::from_slice(stream, values, [shape.batch, heads, len, shape.head_dim]);
    let q = tensor(q, shape.q_heads, shape.q_len).unwrap();
    let (k, v) = (tensor(k, shape.kv_heads, shape.kv_len).unwrap(), tensor(v, shape.kv_heads, shape.kv_len).unwrap());
    let mut out = Tensor::<bf16>::uninit(stream, q.dims()).unwrap();
    let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1]).unwrap();
    let lens = lens.map(|lens| Tensor::vector(stream, lens).unwrap());
    let options = ForwardOptions::causal();
    let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(shape, plan)).unwrap();
    workspace.fill(stream, 0xFF).unwrap();
    let (written, rows) = (out.view_mut(), Some(lse.view_mut()));
    attention::decode(
        stream,
        shape,
        &options,
        plan,
        lens.as_ref(),
        q.view(),
        k.view(),
        v.view(),
        written,
        rows,
        &mut workspace,
    )
    .unwrap();
    (out.to_vec(stream).unwrap(), lse.to_vec(stream).unwrap())
}

#[test]
fn a_sequence_gives_the_same_bits_alone_and_in_a_batch() {
    let lens = [700, 0, 1, 63, 64, 300, -5, 9999];
    let (batch, maximum) = (lens.len(), 900);
    let whole = shape(batch, (4, 2), (2, maximum), 64);
    let inputs = case(whole, Mask::CAUSAL).inputs::<bf16>();
    let formula = BlockFormula { local_blocks: 3, vertical_stride: 4, head_step: 1, ..BlockFormula::dense() };
    for stream in streams(6) {
        let plans = || [BlockPlan::dense(), BlockPlan::formula(formula, BlockSize::square(16), 2, true).unwrap()];
        for (plan, alone) in plans().into_iter().zip(plans()) {
            let [q, k, v] = [0, 1, 2].map(|i: usize| inputs[i].as_slice());
            let (out, lse) = run(&stream, &whole, &plan, Some(&lens), [q, k, v]);
            for (b, &len) in lens.iter().enumerate() {
                let keys = usize::try_from(len).unwrap_or(0).min(maximum);
                let rows = |x: &[bf16], heads: usize, from: usize, len: usize| -> Vec<bf16> {
                    let head = |h: usize| &x[((b * heads + h) * from) * 64..][..len * 64];
                    (0..heads).flat_map(|h| head(h).to_vec()).collect()
                };
                let size = 4 * 2;
                let (mine, mine_lse) = (&out[b * size * 64..][..size * 64], &lse[b * size..][..size]);
                if keys < 2 {
                    // No keys at all, or none before the first query.
                    assert!(mine[..64].iter().all(|x| x.to_f32() == 0.0) && mine_lse[0] == f32::NEG_INFINITY);
                    continue;
                }
                let one = AttentionShape { batch: 1, kv_len: keys, ..whole };
                let (k, v) = (rows(k, 2, maximum, keys), rows(v, 2, maximum, keys));
                let (single, single_lse) = run(&stream, &one, &alone, None, [&rows(q, 4, 2, 2), &k, &v]);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(mine_lse), bits(&single_lse), "sequence {b} of {len} keys");
                assert!(mine.iter().zip(&single).all(|(a, b)| a.to_bits() == b.to_bits()), "sequence {b}");
            }
        }
    }
}

#[test]
fn same_bits_under_every_schedule() {
    let case = case(shape(1, (4, 2), (3, 600), 64), Mask::CAUSAL);
    let plain = simt(1);
    let plan = |stream: &Stream| lists(stream, &case.shape, BlockSize { q: 16, k: 32 }, 2, false, 3);
    let expected = case.run::<bf16>(&plain, &plan(&plain)).unwrap();
    for policy in [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority] {
        for async_mode in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed] {
            for seed in 0..3 {
                let config = SimtConfig { policy, async_mode, ..SimtConfig::checked(seed) };
                let stream = Device::simt_with(config).unwrap().new_stream().unwrap();
                let got = case.run::<bf16>(&stream, &plan(&stream)).unwrap();
                assert!(got.same_bits(&expected), "{policy:?} {async_mode:?} {seed}");
            }
        }
    }
}

#[test]
fn work_is_that_of_the_visited_blocks() {
    let stream = simt(2);
    // 8 query heads of 2 KV heads: 4 packed rows in a tile of 16.
    let case = case(shape(1, (8, 2), (1, 4096), 64), Mask::CAUSAL);
    let block = BlockSize { q: 16, k: 64 };
    let mut mask = vec![0u8; 2 * 64];
    for block in [3, 10, 40, 64 + 7, 64 + 63] {
        mask[block] = 1;
    }
    let plan = BlockPlan::from_mask(&stream, &case.shape, block.q, block.k, [1, 2, 1, 64], &mask).unwrap();
    stream.reset_counters();
    case.run::<bf16>(&stream, &plan).unwrap();
    let counters = stream.counters().unwrap();
    let keys = 5 * 64;
    assert_eq!(counters.mma_macs, keys * 16 * 64 * 2);
    // K and V once; the queries once: each head has one split with blocks.
    let queries = 8 * 64 * 2;
    assert_eq!(counters.copy_bytes, keys * 64 * 2 * 2 + queries);
}

#[test]
fn refusals() {
    let stream = simt(1);
    let run = |case: Case, plan: &BlockPlan| case.run::<bf16>(&stream, plan).unwrap_err().to_string();
    let base = case(shape(1, (4, 2), (17, 64), 64), Mask::CAUSAL);
    assert!(run(base.clone(), &BlockPlan::dense()).contains("at most 16 in decode"));
    let splits = Case { splits: 2, shape: shape(1, (4, 2), (1, 64), 64), ..base.clone() };
    assert!(run(splits, &BlockPlan::dense()).contains("decode splits by itself"));
    let dim = Case { shape: shape(1, (4, 2), (1, 64), 80), ..base.clone() };
    assert!(run(dim, &BlockPlan::dense()).contains("head_dim 80"));
    let family = lacuna::KernelFamily::Hopper;
    let hopper = Case { family, shape: shape(1, (4, 2), (1, 64), 64), ..base };
    assert!(run(hopper, &BlockPlan::dense()).contains("portable ones alone"));
}
