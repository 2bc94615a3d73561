//! Maps of largest probabilities against f64.

use crate::harness::{Case, Storage, shape, simt, streams, uniform};
use lacuna::attention::raw;
use lacuna::methods::seer::{BlockMaxOptions, block_max, block_max_map};
use lacuna::reference::{Problem, TokenMask};
use lacuna::{
    AttentionShape, Counters, DType, Device, Error, Half, Mask, SimtAsync, SimtConfig, SimtGuard, SimtPolicy, Stream,
    Tensor, bf16, f16,
};

const CAUSAL: BlockMaxOptions =
    BlockMaxOptions { mask: Mask::CAUSAL, scale: None, block_q: 64, block_k: 64, share_heads: false, absolute: true };

fn options(blocks: (usize, usize), share_heads: bool, mask: Mask) -> BlockMaxOptions {
    BlockMaxOptions { block_q: blocks.0, block_k: blocks.1, share_heads, mask, absolute: mask.causal, ..CAUSAL }
}

fn tensor<T: lacuna::Element>(stream: &Stream, values: &[T], storage: Storage, dims: [usize; 4]) -> Tensor<T> {
    let mut tensor = Tensor::with_layout(stream, storage.layout(dims)).unwrap();
    tensor.copy_from_slice(stream, values).unwrap();
    tensor
}

fn wide<T: Half>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// The rows' LSE in f64.
fn exact_lse<T: Half>(case: &Case, options: &BlockMaxOptions) -> Vec<f64> {
    let [q, k, v] = case.inputs::<T>().map(|values| wide(&values));
    let shape = AttentionShape { dtype: T::DTYPE, ..case.shape };
    let problem = Problem { scale: options.scale.map(f64::from), ..Problem::new(shape, &q, &k, &v) };
    problem.attend(&TokenMask { shape: &shape, mask: &options.mask }).unwrap().lse
}

/// The map for given LSE, poisoned before.
fn run<T: Half>(stream: &Stream, case: &Case, options: &BlockMaxOptions, lse: &[f32]) -> Vec<f32> {
    let [q, k, _] = case.inputs::<T>();
    map_of(stream, case, options, [&q, &k], lse)
}

fn map_of<T: Half>(
    stream: &Stream,
    case: &Case,
    options: &BlockMaxOptions,
    [q, k]: [&[T]; 2],
    lse: &[f32],
) -> Vec<f32> {
    let shape = AttentionShape { dtype: T::DTYPE, ..case.shape };
    let q = tensor(stream, q, case.storage[0], case.q_dims());
    let k = tensor(stream, k, case.storage[1], case.kv_dims());
    let lse = tensor(stream, lse, case.storage[2], [shape.batch, shape.q_heads, shape.q_len, 1]);
    let mut map = Tensor::uninit(stream, options.dims(&shape).unwrap()).unwrap();
    map.fill_bytes(stream, 0xFF).unwrap();
    block_max(stream, &shape, options, q.view(), k.view(), lse.view(), &mut map).unwrap();
    map.to_vec(stream).unwrap()
}

/// The least and the largest value that a cell may have, from each pair's probability and what rounding may do to it:
/// f32 sums of head_dim products (twice the bound for nearest rounding, as tensor cores cut), and an LSE that is off by
/// `lse_error` of its size.
fn bounds<T: Half>(case: &Case, options: &BlockMaxOptions, lse_error: f64) -> Vec<(f64, f64)> {
    let s = &case.shape;
    let [q, k, _] = case.inputs::<T>().map(|values| wide(&values));
    let lse = exact_lse::<T>(case, options);
    let scale = options.scale.map_or(1.0 / (s.head_dim as f64).sqrt(), f64::from);
    let [batch, heads, q_blocks, kv_blocks] = options.dims(s).unwrap();
    let shift = if options.absolute { (s.kv_len - s.q_len) % options.block_q } else { 0 };
    let mut bounds = vec![(0.0f64, 0.0f64); batch * heads * q_blocks * kv_blocks];
    for (row, &lse) in lse.iter().enumerate().filter(|(_, lse)| lse.is_finite()) {
        let (b, h, t) = (row / s.q_len / s.q_heads, row / s.q_len % s.q_heads, row % s.q_len);
        let query = &q[row * s.head_dim..][..s.head_dim];
        let kv_head = b * s.kv_heads + h / s.group();
        for key in options.mask.visible(s, t) {
            let products = query.iter().zip(&k[(kv_head * s.kv_len + key) * s.head_dim..]).map(|(q, k)| q * k);
            let (dot, size) = products.fold((0.0, 0.0), |(dot, size), x| (dot + x, size + x.abs()));
            let p = (scale * dot - lse).exp();
            let sums = scale.abs() * size * (s.head_dim + 2) as f64 * f64::from(f32::EPSILON);
            let error = p * (sums + lse_error * lse.abs().max(1.0) + 8.0 * f64::from(f32::EPSILON));
            let cell = ((b * heads + h * heads / s.q_heads) * q_blocks + (t + shift) / options.block_q) * kv_blocks;
            let bound = &mut bounds[cell + key / options.block_k];
            *bound = (bound.0.max(p - error), bound.1.max(p + error));
        }
    }
    bounds
}

fn assert_inside(map: &[f32], bounds: &[(f64, f64)], what: &str) {
    assert_eq!(map.len(), bounds.len(), "{what}");
    for (index, (&value, &(low, high))) in map.iter().zip(bounds).enumerate() {
        assert!((low..=high).contains(&f64::from(value)), "cell {index}: {value:e} not in {low:e}..={high:e}: {what}");
    }
}

fn check<T: Half>(case: &Case, options: &BlockMaxOptions) {
    let lse: Vec<f32> = exact_lse::<T>(case, options).into_iter().map(|x| x as f32).collect();
    let bounds = bounds::<T>(case, options, f64::from(f32::EPSILON));
    for stream in streams(case.seed) {
        let map = run::<T>(&stream, case, options, &lse);
        assert_inside(&map, &bounds, &format!("{} {case:?} {options:?}", stream.device().name()));
    }
}

#[test]
fn every_head_dim_and_cell() {
    let mut seed = 0;
    for dim in [32, 64, 96, 128, 256] {
        for (block_q, block_k) in [(1, 16), (16, 128), (32, 32), (64, 64), (128, 16), (128, 128), (1, 64), (64, 32)] {
            seed += 1;
            let case = Case { seed, ..Case::new(shape(1, (2, 1), (150, 170), dim), Mask::CAUSAL) };
            let options = options((block_q, block_k), seed % 2 == 0, Mask::CAUSAL);
            if seed % 3 == 0 { check::<f16>(&case, &options) } else { check::<bf16>(&case, &options) }
        }
    }
}

#[test]
fn lengths_masks_and_layouts() {
    let window = |left, right| Mask { causal: false, window_left: left, window_right: right };
    let masks = [Mask::CAUSAL, Mask::FULL, window(Some(20), Some(5)), Mask { window_left: Some(70), ..Mask::CAUSAL }];
    let lens = [(1, 1), (1, 200), (17, 17), (40, 129), (129, 129), (130, 300), (65, 10), (200, 333)];
    let mut state = 99;
    for (number, (lens, storage)) in lens.into_iter().cycle().zip(Storage::ALL.into_iter().cycle()).take(32).enumerate()
    {
        let pick = |state: &mut u64, from: &[usize]| from[((uniform(state) + 0.5) * from.len() as f32) as usize];
        let mask = masks[(number / 8 + number) % 4];
        if mask.causal && lens.0 > lens.1 {
            continue;
        }
        let blocks = (pick(&mut state, &[1, 16, 32, 64, 128]), pick(&mut state, &[16, 32, 64, 128]));
        let heads = [(1, 1), (4, 2), (3, 1)][number % 3];
        let other = Storage::ALL[(number / 4) % 4];
        let storage = [storage, other, [Storage::Packed, Storage::SeqFirst, Storage::Gaps][number % 3], storage];
        let case = Case { storage, seed: number as u64, ..Case::new(shape(2, heads, lens, 64), mask) };
        check::<bf16>(&case, &options(blocks, number % 2 == 0, mask));
    }
}

#[test]
fn scales_of_any_sign() {
    let case = Case::new(shape(1, (2, 2), (70, 90), 64), Mask::CAUSAL);
    for scale in [0.0, -0.125, -2.0, 3.0, 1e-3] {
        check::<f16>(&case, &BlockMaxOptions { scale: Some(scale), ..options((16, 32), false, Mask::CAUSAL) });
    }
}

#[test]
fn both_passes_on_the_device() {
    for (dim, blocks, share) in [(64, (64, 64), false), (128, (1, 64), true)] {
        let case = Case::new(shape(2, (4, 2), (140, 200), dim), Mask::CAUSAL);
        let options = options(blocks, share, Mask::CAUSAL);
        let bounds = bounds::<bf16>(&case, &options, 1e-4);
        for stream in streams(3) {
            let [q, k, _] = case.inputs::<bf16>();
            let q = Tensor::from_slice(&stream, &q, case.q_dims()).unwrap();
            let k = Tensor::from_slice(&stream, &k, case.kv_dims()).unwrap();
            let map = block_max_map(&stream, &case.shape, &options, q.view(), k.view()).unwrap();
            assert_inside(&map.to_vec(&stream).unwrap(), &bounds, stream.device().name().as_str());
        }
    }
}

/// Chunks of queries, each against the keys up to its end, give the rows of the whole.
#[test]
fn chunks_give_the_whole() {
    let case = Case::new(shape(1, (4, 2), (200, 200), 64), Mask::CAUSAL);
    let decode = BlockMaxOptions::decode(32);
    let stream = simt(4);
    let [q, k, _] = case.inputs::<bf16>();
    let rows: Vec<f32> = exact_lse::<bf16>(&case, &decode).into_iter().map(|x| x as f32).collect();
    let whole = map_of(&stream, &case, &decode, [&q, &k], &rows);
    let q = Tensor::from_slice(&stream, &q, case.q_dims()).unwrap();
    let k = Tensor::from_slice(&stream, &k, case.kv_dims()).unwrap();
    let rows = Tensor::from_slice(&stream, &rows, [1, 4, 200, 1]).unwrap();
    let columns = 200usize.div_ceil(32);
    for start in (0..200).step_by(48) {
        let len = 48.min(200 - start);
        let shape = AttentionShape { q_len: len, kv_len: start + len, ..case.shape };
        let [q, k] =
            [(&q, start, len), (&k, 0, start + len)].map(|(x, from, len)| x.view().narrow(2, from, len).unwrap());
        let rows = rows.view().narrow(2, start, len).unwrap();
        let mut part = Tensor::uninit(&stream, decode.dims(&shape).unwrap()).unwrap();
        block_max(&stream, &shape, &decode, q, k, rows, &mut part).unwrap();
        let [_, heads, part_rows, blocks] = part.dims();
        assert_eq!([heads, part_rows], [2, len]);
        for (index, row) in part.to_vec(&stream).unwrap().chunks(blocks).enumerate() {
            let expected = &whole[(index / len * 200 + start + index % len) * columns..][..columns];
            assert_eq!(row, &expected[..blocks], "row {index} from {start}");
            assert!(expected[blocks..].iter().all(|&x| x == 0.0));
        }
    }
}

#[test]
fn rows_without_keys_and_invisible_blocks_are_zero() {
    let stream = simt(5);
    // Keys end before the windows of the last queries begin.
    let mask = Mask { causal: false, window_left: Some(0), window_right: Some(0) };
    let case = Case::new(shape(1, (1, 1), (100, 40), 32), mask);
    check::<bf16>(&case, &options((16, 16), false, mask));
    let case = Case::new(shape(1, (2, 1), (64, 64), 32), Mask::CAUSAL);
    let mut lse = vec![f32::NEG_INFINITY; 128];
    let options = options((16, 32), true, Mask::CAUSAL);
    assert_eq!(run::<bf16>(&stream, &case, &options, &lse), [0.0; 8]);
    lse[20] = 1.0;
    let map = run::<bf16>(&stream, &case, &options, &lse);
    assert!(map[2] > 0.0 && map.iter().filter(|&&x| x > 0.0).count() == 1, "{map:?}");
}

#[test]
fn nan_reaches_the_cells_that_see_it_and_no_other() {
    let case = Case::new(shape(1, (2, 2), (96, 96), 64), Mask::CAUSAL);
    let [q, mut k, _] = case.inputs::<bf16>();
    let stream = simt(6);
    for (block_q, rows) in [(16, 6), (1, 96), (32, 3)] {
        let options = options((block_q, 16), false, Mask::CAUSAL);
        let lse: Vec<f32> = exact_lse::<bf16>(&case, &options).into_iter().map(|x| x as f32).collect();
        let clean = map_of(&stream, &case, &options, [&q, &k], &lse);
        let before = k[50 * 64 + 7];
        k[50 * 64 + 7] = bf16::NAN; // key 50 of head 0
        let map = map_of(&stream, &case, &options, [&q, &k], &lse);
        k[50 * 64 + 7] = before;
        for (cell, (value, clean)) in map.iter().zip(clean).enumerate() {
            let (head, row, column) = (cell / 6 / rows, cell / 6 % rows, cell % 6);
            let sees = head == 0 && column == 3 && (row + 1) * block_q > 50;
            assert!(if sees { value.is_nan() } else { *value == clean }, "{block_q}: cell {cell}: {value}");
        }
    }
    // Whatever the LSE is, the call ends and stays inside its tensors.
    let mut state = 7;
    let wild = [f32::NAN, f32::INFINITY, -f32::INFINITY, f32::MAX, f32::MIN, 0.0];
    let lse: Vec<f32> = (0..192).map(|_| wild[((uniform(&mut state) + 0.5) * 6.0) as usize]).collect();
    map_of(&stream, &case, &CAUSAL, [&q, &k], &lse);
}

fn counted(stream: &Stream, case: &Case, options: &BlockMaxOptions, lse: &[f32]) -> (Vec<f32>, Counters) {
    stream.reset_counters();
    let map = run::<bf16>(stream, case, options, lse);
    (map, stream.counters().unwrap())
}

#[test]
fn every_schedule_gives_the_same_bits_and_counts() {
    let case = Case::new(shape(1, (4, 2), (150, 200), 64), Mask::CAUSAL);
    for options in [options((128, 128), false, Mask::CAUSAL), options((1, 32), true, Mask::CAUSAL)] {
        let lse: Vec<f32> = exact_lse::<bf16>(&case, &options).into_iter().map(|x| x as f32).collect();
        let (expected, counts) = counted(&Device::simt().unwrap().new_stream().unwrap(), &case, &options, &lse);
        let policies = [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
        for (index, policy) in policies.into_iter().enumerate() {
            for (number, async_mode) in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed].into_iter().enumerate() {
                for guard in [SimtGuard::End, SimtGuard::Start] {
                    let seed = (100 * index + 10 * number) as u64;
                    let config = SimtConfig { policy, async_mode, guard, ..SimtConfig::checked(seed) };
                    let stream = Device::simt_with(config).unwrap().new_stream().unwrap();
                    assert_eq!(counted(&stream, &case, &options, &lse), (expected.clone(), counts), "{config:?}");
                }
            }
        }
    }
}

/// Matrix work: each 16 rows times each 16 keys that one of them sees, once; and no bank conflicts.
#[test]
fn the_work_is_one_pass_over_visible_pairs() {
    for dim in [32, 64, 96, 128, 256] {
        let case = Case::new(shape(1, (4, 2), (200, 200), dim), Mask::CAUSAL);
        let options = options((64, 64), true, Mask::CAUSAL);
        let stream = Device::simt().unwrap().new_stream().unwrap();
        let (_, counts) = counted(&stream, &case, &options, &[1.0; 800]);
        let pieces: u64 = (0..200u64.div_ceil(16)).map(|i| i + 1).sum();
        assert_eq!((counts.launches, counts.bank_conflicts), (1, 0));
        assert_eq!(counts.mma_macs, 4 * pieces * 16 * 16 * dim as u64, "{dim}");
    }
}

#[test]
fn bad_arguments_are_named() {
    let stream = simt(8);
    let s = shape(1, (4, 2), (40, 60), 64);
    let zeros = |dims| Tensor::<bf16>::zeros(&stream, dims).unwrap();
    let (q, k) = (zeros([1, 4, 40, 64]), zeros([1, 2, 60, 64]));
    let lse = Tensor::<f32>::zeros(&stream, [1, 4, 40, 1]).unwrap();
    let call = |options: &BlockMaxOptions, s: &AttentionShape, dims| {
        let mut map = Tensor::<f32>::uninit(&stream, dims).unwrap();
        block_max(&stream, s, options, q.view(), k.view(), lse.view(), &mut map)
    };
    let dims = CAUSAL.dims(&s).unwrap();
    assert_eq!(dims, [1, 4, 1, 1]);
    call(&CAUSAL, &s, dims).unwrap();
    for block_q in [0, 2, 8, 48, 256, usize::MAX] {
        let options = BlockMaxOptions { block_q, ..CAUSAL };
        assert!(matches!(call(&options, &s, dims), Err(Error::Value { what: "block_q", .. })));
    }
    for block_k in [0, 1, 256] {
        let options = BlockMaxOptions { block_k, ..CAUSAL };
        assert!(matches!(call(&options, &s, dims), Err(Error::Value { what: "block_k", .. })));
    }
    let options = BlockMaxOptions { scale: Some(f32::NAN), ..CAUSAL };
    assert!(matches!(call(&options, &s, dims), Err(Error::Value { what: "scale", .. })));
    assert!(matches!(call(&CAUSAL, &s, [1, 4, 2, 1]), Err(Error::Shape { what: "map", .. })));
    let other = AttentionShape { q_len: 41, ..s };
    assert!(matches!(call(&CAUSAL, &other, dims), Err(Error::Shape { what: "q", .. })));
    let other = AttentionShape { dtype: DType::F16, ..s };
    assert!(matches!(call(&CAUSAL, &other, dims), Err(Error::Value { what: "dtype", .. })));
    let full = BlockMaxOptions { mask: Mask::FULL, ..CAUSAL };
    let short = AttentionShape { kv_len: 30, ..s };
    assert!(matches!(full.dims(&short), Err(Error::Value { what: "q_len", .. })));
    assert!(matches!(CAUSAL.dims(&short), Err(Error::Value { what: "q_len", .. })));
    // Nothing to do is no error.
    let empty = AttentionShape { batch: 0, ..s };
    let (q, k) = (zeros([0, 4, 40, 64]), zeros([0, 2, 60, 64]));
    assert_eq!(block_max_map(&stream, &empty, &CAUSAL, q.view(), k.view()).unwrap().dims(), [0, 4, 1, 1]);
}

#[test]
fn raw_calls_are_checked() {
    let stream = simt(9);
    let shape = raw::lacuna_shape {
        batch: 1,
        q_heads: 4,
        kv_heads: 2,
        q_len: 5,
        kv_len: 7,
        head_dim: 64,
        ..Default::default()
    };
    let good = raw::lacuna_block_max_params {
        shape,
        mask: raw::lacuna_mask { causal: 1, window_left: -1, window_right: -1 },
        block_q: 64,
        block_k: 64,
        heads: 4,
        scale: 1.0,
        ..Default::default()
    };
    // SAFETY: no pointer is given, and the launcher refuses before it starts anything.
    let call = |params: &raw::lacuna_block_max_params| unsafe { raw::block_max(&stream, params) };
    let value = |params| matches!(call(&params), Err(Error::Value { what: "block_max", .. }));
    assert!(value(good), "null tensors");
    for block in [i32::MIN, -1, 0, 2, 24, 256] {
        assert!(value(raw::lacuna_block_max_params { block_q: block, ..good }));
        assert!(value(raw::lacuna_block_max_params { block_k: block, ..good }));
    }
    assert!(value(raw::lacuna_block_max_params { block_k: 1, ..good }));
    for heads in [-4, 0, 1, 3, i32::MAX] {
        assert!(value(raw::lacuna_block_max_params { heads, ..good }));
    }
    for row_shift in [-1, 64, i32::MAX] {
        assert!(value(raw::lacuna_block_max_params { row_shift, ..good }));
    }
    assert!(value(raw::lacuna_block_max_params { scale: f32::INFINITY, ..good }));
    assert!(value(raw::lacuna_block_max_params { shape: raw::lacuna_shape { q_len: 8, ..shape }, ..good }));
    let lengths = [3];
    for bad in [
        raw::lacuna_shape { kv_lens: lengths.as_ptr(), ..shape },
        raw::lacuna_shape { cu_seqlens_k: lengths.as_ptr(), ..shape },
        raw::lacuna_shape { block_table: lengths.as_ptr(), page_size: 16, ..shape },
    ] {
        let params = raw::lacuna_block_max_params { shape: bad, ..good };
        assert!(matches!(call(&params), Err(Error::Unsupported { .. })));
    }
    // The head dim is looked at last, behind the tensors: these are never read.
    let values = [0.0f32; 1];
    let params = raw::lacuna_block_max_params {
        shape: raw::lacuna_shape { head_dim: 80, ..shape },
        q: values.as_ptr().cast(),
        k: values.as_ptr().cast(),
        lse: values.as_ptr(),
        map: values.as_ptr().cast_mut(),
        ..good
    };
    assert!(matches!(call(&params), Err(Error::Unsupported { .. })));
}
