//! Pooling of a gate's inputs through the raw entry, against plain f64 code.

use crate::harness::{Storage, simt, streams, uniform};
use lacuna::attention::raw;
use lacuna::{Device, Error, Half, Result, SimtAsync, SimtConfig, SimtGuard, SimtPolicy, Stream, Tensor, bf16, f16};

const MAX: i32 = 1;
const MIN: i32 = 2;
const AVG: i32 = 4;

/// A call on `len` tokens a sequence, of which sequence b has `lens[b]` from position `starts[b]` on.
#[derive(Debug, Clone)]
struct Call {
    heads: usize,
    dim: usize,
    block: usize,
    pools: i32,
    rows: usize,
    len: usize,
    starts: Vec<i32>,
    /// Starts are given as `start + len` of the call; negative ones then mean tokens that are not there.
    by_ends: bool,
    lens: Vec<i32>,
    storage: Storage,
}

impl Call {
    fn batch(&self) -> usize {
        self.starts.len()
    }

    fn x_dims(&self) -> [usize; 4] {
        [self.batch(), self.heads, self.len, self.dim]
    }

    fn width(&self) -> usize {
        self.pools.count_ones() as usize * self.dim
    }

    /// Rows that the longest call of this length can touch.
    fn most_rows(&self) -> usize {
        (self.len + 2 * self.block - 2) / self.block
    }

    fn x<T: Half>(&self, seed: u64) -> Vec<T> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..self.x_dims().iter().product()).map(|_| T::from_f32(uniform(&mut state) * 8.0)).collect()
    }

    /// The features, NaN where nothing was written.
    fn run<T: Half>(&self, stream: &Stream, x: &[T], open: Option<&mut Tensor<f32>>) -> Result<Vec<f32>> {
        let mut tensor = Tensor::<T>::with_layout(stream, self.storage.layout(self.x_dims()))?;
        tensor.fill_bytes(stream, 0xFF)?;
        tensor.copy_from_slice(stream, x)?;
        let mut features = Tensor::<f32>::uninit(stream, [self.batch(), self.heads, self.rows.max(1), self.width()])?;
        features.fill_bytes(stream, 0xFF)?;
        let ends: Vec<i32> = self.starts.iter().map(|start| start.saturating_add(self.len as i32)).collect();
        let places = Tensor::vector(stream, if self.by_ends { &ends } else { &self.starts })?;
        let lens = Tensor::vector(stream, &self.lens)?;
        let [batch, head, seq] = tensor.layout().strides();
        let params = raw::lacuna_gate_pool_params {
            span: raw::lacuna_gate_span {
                batch: self.batch() as i32,
                len: self.len as i32,
                block: self.block as i32,
                starts: if self.by_ends { std::ptr::null() } else { places.view().as_ptr() },
                ends: if self.by_ends { places.view().as_ptr() } else { std::ptr::null() },
                lens: lens.view().as_ptr(),
                ..Default::default()
            },
            heads: self.heads as i32,
            dim: self.dim as i32,
            dtype: T::DTYPE as i32,
            pools: self.pools,
            rows: self.rows as i32,
            x: tensor.view().as_ptr().cast(),
            x_stride: raw::lacuna_strides { batch, head, seq },
            features: features.view_mut().as_mut_ptr(),
            open: open.map_or(std::ptr::null_mut(), |open| open.view_mut().as_mut_ptr()),
            ..Default::default()
        };
        // SAFETY: every tensor has the extent that the parameters say and outlives the stream's work.
        unsafe { raw::gate_pool(stream, &params) }?;
        features.to_vec(stream)
    }

    /// Compares with pools over the call's tokens alone.
    fn check<T: Half>(&self, stream: &Stream, seed: u64) {
        let x = self.x::<T>(seed);
        let got = self.run(stream, &x, None).unwrap_or_else(|error| panic!("{error}\n{self:?}"));
        for (row, got) in got.chunks(self.width()).enumerate() {
            let (sequence, head, row) = (row / self.rows / self.heads, row / self.rows % self.heads, row % self.rows);
            let start = if self.by_ends { self.starts[sequence] } else { self.starts[sequence].max(0) };
            let len = self.lens[sequence].clamp(0, self.len as i32);
            let block = |token: usize| (start + token as i32).div_euclid(self.block as i32);
            let there = (0..len as usize).filter(|&token| start + token as i32 >= 0);
            let tokens: Vec<usize> = there.filter(|&token| block(token) == block(0) + row as i32).collect();
            let value = |t: usize, d: usize| {
                f64::from(x[((sequence * self.heads + head) * self.len + t) * self.dim + d].to_f32())
            };
            for (index, &got) in got.iter().enumerate() {
                let (pool, d) = (index / self.dim, index % self.dim);
                let names: Vec<i32> = [MAX, MIN, AVG].into_iter().filter(|name| self.pools & name != 0).collect();
                let values = tokens.iter().map(|&t| value(t, d));
                if tokens.is_empty() {
                    assert!(got.is_nan(), "row {row} was written: {self:?}");
                    continue;
                }
                let want = match names[pool] {
                    MAX => values.fold(f64::NEG_INFINITY, f64::max),
                    MIN => values.fold(f64::INFINITY, f64::min),
                    _ => values.sum::<f64>() / tokens.len() as f64,
                };
                // Values below 4; the sum of 128 of them has 128 roundings.
                let bound = if names[pool] == AVG { 4.0 * 128.0 * f64::from(f32::EPSILON) } else { 0.0 };
                assert!((f64::from(got) - want).abs() <= bound, "{got} for {want}: {self:?}");
            }
        }
    }
}

fn call(block: usize, len: usize) -> Call {
    let call = Call {
        heads: 2,
        dim: 64,
        block,
        pools: MAX | MIN | AVG,
        rows: 0,
        len,
        starts: vec![0, 5, 1000],
        by_ends: false,
        lens: vec![len as i32, len as i32 / 2, len as i32 - 1],
        storage: Storage::Packed,
    };
    Call { rows: call.most_rows(), ..call }
}

#[test]
fn blocks_subsets_and_storages() {
    let mut seed = 0;
    for block in [1, 16, 32, 64, 128] {
        for (pools, dim) in (1..=7).zip([8, 24, 32, 64, 96, 128, 256]) {
            for len in [1, block + 3, 150] {
                seed += 1;
                let storage = Storage::ALL[seed % 4];
                let call = Call { pools, dim, storage, ..call(block, len) };
                for stream in streams(seed as u64) {
                    call.check::<bf16>(&stream, seed as u64);
                    call.check::<f16>(&stream, seed as u64);
                }
            }
        }
    }
}

#[test]
fn starts_and_lens_are_data() {
    let most = i32::MAX;
    let bad = Call { starts: vec![-5, most, 7, 0], lens: vec![20, 30, most, i32::MIN], ..call(16, 30) };
    for stream in streams(1) {
        // Position 2^31 - 1 is cut to 2^30 - 1.
        let cut = Call { starts: vec![0, (1 << 30) - 1, 7, 0], lens: vec![20, 30, 30, 0], ..bad.clone() };
        let x = bad.x::<bf16>(3);
        let [bad, good] = [&bad, &cut].map(|call| call.run(&stream, &x, None).unwrap());
        assert!(bad.iter().zip(&good).all(|(x, y)| x.to_bits() == y.to_bits()));
        cut.check::<bf16>(&stream, 3);
    }
}

#[test]
fn tokens_before_the_first_position_are_not_there() {
    for stream in streams(5) {
        for block in [1, 16, 64] {
            for starts in [vec![-1, -40, -99], vec![-64, -100, 7], vec![-16, 0, -17]] {
                let call = Call { by_ends: true, starts, lens: vec![100, 100, 70], ..call(block, 100) };
                call.check::<bf16>(&stream, 9);
                // No state to resume from, but one to leave.
                let dims = [3, call.heads, 3, call.dim];
                let mut open = Tensor::<f32>::uninit(&stream, dims).unwrap();
                open.fill_bytes(&stream, 0xFF).unwrap();
                let x = call.x::<bf16>(9);
                let with_state = call.run(&stream, &x, Some(&mut open)).unwrap();
                let alone = call.run(&stream, &x, None).unwrap();
                for (head, (with_state, alone)) in
                    with_state.chunks(call.rows * call.width()).zip(alone.chunks(call.rows * call.width())).enumerate()
                {
                    // The third of the second starts resumes.
                    let bits = |rows: &[f32]| rows.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    if call.starts[head / call.heads] <= 0 {
                        assert_eq!(bits(with_state), bits(alone), "{call:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_that_do_not_fit_are_left_out() {
    let whole = call(16, 100);
    let few = Call { rows: 3, ..whole.clone() };
    for stream in streams(2) {
        let x = whole.x::<bf16>(4);
        let [whole_rows, few_rows] = [&whole, &few].map(|call| call.run(&stream, &x, None).unwrap());
        let part = |rows: &[f32], call: &Call| -> Vec<u32> {
            rows.chunks(call.rows * call.width())
                .flat_map(|head| &head[..3 * call.width()])
                .map(|x| x.to_bits())
                .collect()
        };
        assert_eq!(part(&few_rows, &few), part(&whole_rows, &whole));
        assert_eq!(Call { rows: 0, ..whole.clone() }.run(&stream, &x, None).unwrap().len(), 6 * whole.width());
    }
}

/// What a sequence is after pooling it piece by piece: the last row written for each block, and the open state.
fn in_pieces(stream: &Stream, whole: &Call, x: &[bf16], cuts: &[usize]) -> (Vec<f32>, Vec<u32>) {
    let (batch, total) = (whole.batch(), whole.len);
    let mut open = Tensor::<f32>::uninit(stream, [batch, whole.heads, 3, whole.dim]).unwrap();
    open.fill_bytes(stream, 0xFF).unwrap();
    let width = whole.width();
    let mut rows = vec![f32::NAN; batch * whole.heads * whole.rows * width];
    let mut from = 0;
    for &to in cuts.iter().chain([&total]) {
        let len = to - from;
        let piece = Call { len, starts: vec![from as i32; batch], lens: vec![len as i32; batch], ..whole.clone() };
        let piece = Call { rows: piece.most_rows(), ..piece };
        let x: Vec<bf16> =
            x.chunks(total * whole.dim).flat_map(|head| &head[from * whole.dim..to * whole.dim]).copied().collect();
        let got = piece.run(stream, &x, Some(&mut open)).unwrap();
        for head in 0..batch * whole.heads {
            for row in 0..(to.div_ceil(whole.block) - from / whole.block) {
                let got = &got[(head * piece.rows + row) * width..][..width];
                assert!(got.iter().all(|x| !x.is_nan()), "row {row} of {piece:?}");
                rows[(head * whole.rows + from / whole.block + row) * width..][..width].copy_from_slice(got);
            }
        }
        from = to;
    }
    let open = open.to_vec(stream).unwrap();
    (rows, open.into_iter().map(f32::to_bits).collect())
}

#[test]
fn pieces_give_the_bits_of_the_whole() {
    for (block, total) in [(16, 75), (32, 128), (64, 200), (128, 300)] {
        let whole = call(block, total);
        let batch = whole.batch();
        let whole = Call { starts: vec![0; batch], lens: vec![total as i32; batch], ..whole };
        let x = whole.x::<bf16>(block as u64);
        let mut state = 1 + block as u64;
        for round in 0..8 {
            for stream in streams(round) {
                let (rows, open) = in_pieces(&stream, &whole, &x, &[]);
                let mut cuts: Vec<usize> =
                    (0..round).map(|_| 1 + ((uniform(&mut state) + 0.5) * (total - 2) as f32) as usize).collect();
                cuts.sort_unstable();
                cuts.dedup();
                let (pieces, state) = in_pieces(&stream, &whole, &x, &cuts);
                let bits = |rows: &[f32]| rows.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&pieces), bits(&rows), "cut at {cuts:?}, blocks of {block}");
                if total % block != 0 {
                    assert_eq!(state, open, "cut at {cuts:?}, blocks of {block}");
                }
            }
        }
    }
}

#[test]
fn the_open_state_waits_for_its_sequence() {
    // Sequence 0 has no tokens, 1 resumes and ends in the same block, 2 begins at a boundary and fills its block.
    let whole = Call { starts: vec![5, 5, 16], lens: vec![0, 4, 16], ..call(16, 16) };
    for stream in streams(3) {
        let dims = [3, whole.heads, 3, whole.dim];
        let before: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| i as f32).collect();
        let mut open = Tensor::from_slice(&stream, &before, dims).unwrap();
        let x = whole.x::<bf16>(5);
        let got = whole.run(&stream, &x, Some(&mut open)).unwrap();
        let after = open.to_vec(&stream).unwrap();
        let state = whole.heads * 3 * whole.dim;
        assert_eq!(after[..state], before[..state]);
        assert_eq!(after[2 * state..], before[2 * state..]);
        // Head 0, dimension 7 of sequence 1.
        let tokens: Vec<f32> = (0..4).map(|t| x[((2 * 16) + t) * 64 + 7].to_f32()).collect();
        let sum = tokens.iter().fold(before[state + 135], |sum, x| sum + x);
        let most = tokens.iter().fold(before[state + 7], |most, &x| most.max(x));
        let least = tokens.iter().fold(before[state + 71], |least, &x| least.min(x));
        assert_eq!([after[state + 7], after[state + 71], after[state + 135]], [most, least, sum]);
        let row = 2 * whole.rows * whole.width();
        assert_eq!([got[row + 7], got[row + 71], got[row + 135]], [most, least, sum / 9.0]);
    }
}

#[test]
fn x_is_read_once() {
    for (block, dim) in [(1, 64), (16, 128), (64, 128), (128, 256)] {
        let call = Call { dim, ..call(block, 300) };
        let stream = simt(9);
        let x = call.x::<bf16>(6);
        stream.reset_counters();
        call.run(&stream, &x, None).unwrap();
        let tokens: usize = call.lens.iter().map(|&len| len as usize).sum();
        assert_eq!(stream.counters().unwrap().copy_bytes, (tokens * call.heads * dim * 2) as u64);
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let whole = Call { starts: vec![3; 3], lens: vec![150, 75, 0], ..call(64, 150) };
    let x = whole.x::<bf16>(7);
    let run = |stream: &Stream| {
        let mut open = Tensor::<f32>::zeros(stream, [3, whole.heads, 3, whole.dim]).unwrap();
        let mut bits = whole.run(stream, &x, Some(&mut open)).unwrap();
        bits.extend(open.to_vec(stream).unwrap());
        bits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let expected = run(&Device::simt().unwrap().new_stream().unwrap());
    let policies = [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
    for (index, policy) in policies.into_iter().enumerate() {
        for async_mode in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed] {
            for guard in [SimtGuard::End, SimtGuard::Start] {
                let config = SimtConfig { policy, async_mode, guard, ..SimtConfig::checked(index as u64) };
                let stream = Device::simt_with(config).unwrap().new_stream().unwrap();
                assert_eq!(run(&stream), expected, "{config:?}");
            }
        }
    }
}

#[test]
fn parameters_outside_their_ranges_are_refused() {
    let stream = simt(4);
    let good = raw::lacuna_gate_pool_params {
        span: raw::lacuna_gate_span { batch: 1, len: 8, block: 16, ..Default::default() },
        heads: 1,
        dim: 8,
        pools: 1,
        ..Default::default()
    };
    let spans = [
        raw::lacuna_gate_span { batch: 0, ..good.span },
        raw::lacuna_gate_span { len: -1, ..good.span },
        raw::lacuna_gate_span { len: i32::MAX, ..good.span },
        raw::lacuna_gate_span { block: 0, ..good.span },
        raw::lacuna_gate_span { block: 48, ..good.span },
        raw::lacuna_gate_span { start: -1, ..good.span },
        raw::lacuna_gate_span { start: i32::MAX, ..good.span },
    ];
    let others = [
        raw::lacuna_gate_pool_params { heads: 0, ..good },
        raw::lacuna_gate_pool_params { dim: 12, ..good },
        raw::lacuna_gate_pool_params { dim: 264, ..good },
        raw::lacuna_gate_pool_params { dim: 0, ..good },
        raw::lacuna_gate_pool_params { dtype: 2, ..good },
        raw::lacuna_gate_pool_params { pools: 0, ..good },
        raw::lacuna_gate_pool_params { pools: 8, ..good },
        raw::lacuna_gate_pool_params { rows: -1, ..good },
        // x is null.
        good,
    ];
    for bad in spans.map(|span| raw::lacuna_gate_pool_params { span, ..good }).into_iter().chain(others) {
        // SAFETY: refused before anything is read.
        let result = unsafe { raw::gate_pool(&stream, &bad) };
        assert!(matches!(&result, Err(Error::Value { .. })), "{result:?} for {bad:?}");
    }
    // No tokens: nothing to do, nothing to read.
    let span = raw::lacuna_gate_span { len: 0, ..good.span };
    // SAFETY: no pointer is used.
    unsafe { raw::gate_pool(&stream, &raw::lacuna_gate_pool_params { span, ..good }) }.unwrap();
}
