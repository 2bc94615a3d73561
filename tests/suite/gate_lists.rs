//! Selection of blocks through the raw entry: what a call is and does. Expectations are in `gate_expected`.

use crate::gate_expected::{Expected, expected};
use crate::harness::{simt, streams, uniform};
use lacuna::attention::raw;
use lacuna::{Device, Error, Result, SimtAsync, SimtConfig, SimtGuard, SimtPolicy, Stream, Tensor};

pub const THRESHOLD: i32 = 0;
pub const COUNT: i32 = 1;
pub const FRACTION: i32 = 2;
pub const TOP_P: i32 = 3;
pub const APART: i32 = 1;
pub const NEUTRAL: i32 = 2;

/// A call without its pointers, and what they point to.
#[derive(Debug, Clone)]
pub struct Call {
    pub p: raw::lacuna_gate_select_params,
    pub kv_lens: Option<Vec<i32>>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
}

#[derive(Debug, Clone, PartialEq)]
struct Lists {
    offsets: Vec<i32>,
    indices: Vec<i32>,
    overflow: i32,
    /// Bits.
    logits: Vec<u32>,
}

impl Lists {
    fn list(&self, index: usize) -> &[i32] {
        &self.indices[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }
}

impl Call {
    /// Random vectors, whose logits have a deviation of about 1.3, for parameters with room for all blocks.
    fn new(p: raw::lacuna_gate_select_params, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = |len: i32| (0..len).map(|_| uniform(&mut state) * 4.0).collect::<Vec<f32>>();
        let kv_blocks = (p.kv_len + p.block - 1) / p.block;
        let k_rows = p.k_rows.max(kv_blocks);
        let capacity = p.batch * p.plan_heads * (p.rows / p.rows_per_list) * kv_blocks;
        let q = draw(p.batch * p.q_heads * p.rows * p.gate_dim);
        let k = draw(p.batch * p.k_heads * k_rows * p.gate_dim);
        Self { p: raw::lacuna_gate_select_params { k_rows, capacity, ..p }, kv_lens: None, q, k }
    }

    fn with(&self, change: impl FnOnce(&mut raw::lacuna_gate_select_params)) -> Self {
        let mut call = self.clone();
        change(&mut call.p);
        call
    }

    pub fn kv_blocks(&self) -> usize {
        ((self.p.kv_len + self.p.block - 1) / self.p.block) as usize
    }

    pub fn lists(&self) -> usize {
        (self.p.batch * self.p.plan_heads * (self.p.rows / self.p.rows_per_list)) as usize
    }

    fn run(&self, stream: &Stream) -> Result<Lists> {
        let poisoned = |len: usize| -> Result<Tensor<i32>> {
            let mut tensor = Tensor::uninit(stream, [1, 1, 1, len])?;
            tensor.fill_bytes(stream, 0xFF)?;
            Ok(tensor)
        };
        let (lists, kv_blocks) = (self.lists(), self.kv_blocks());
        let q = Tensor::vector(stream, &self.q)?;
        let k = Tensor::vector(stream, &self.k)?;
        let kv_lens = self.kv_lens.as_ref().map(|lens| Tensor::vector(stream, lens)).transpose()?;
        let mut logits = Tensor::<f32>::uninit(
            stream,
            [self.p.batch as usize, self.p.q_heads as usize, self.p.rows as usize, kv_blocks],
        )?;
        logits.fill_bytes(stream, 0xFF)?;
        let mut offsets = poisoned(lists + 1)?;
        let mut indices = poisoned(self.p.capacity as usize)?;
        let mut counts = poisoned(lists)?;
        let mut selected = poisoned(lists * kv_blocks.div_ceil(32))?;
        let mut overflow = poisoned(1)?;
        let params = raw::lacuna_gate_select_params {
            kv_lens: kv_lens.as_ref().map_or(std::ptr::null(), |lens| lens.view().as_ptr()),
            q_gate: q.view().as_ptr(),
            k_gate: k.view().as_ptr(),
            logits: logits.view_mut().as_mut_ptr(),
            row_offsets: offsets.view_mut().as_mut_ptr(),
            indices: indices.view_mut().as_mut_ptr(),
            counts: counts.view_mut().as_mut_ptr(),
            selected: selected.view_mut().as_mut_ptr().cast(),
            overflow: overflow.view_mut().as_mut_ptr(),
            ..self.p
        };
        // SAFETY: every tensor has the extent that the parameters say and outlives the stream's work.
        unsafe { raw::gate_select(stream, &params) }?;
        let without = raw::lacuna_gate_select_params { logits: std::ptr::null_mut(), ..params };
        let lists = Lists {
            offsets: offsets.to_vec(stream)?,
            indices: indices.to_vec(stream)?,
            overflow: overflow.to_vec(stream)?[0],
            logits: logits.to_vec(stream)?.into_iter().map(f32::to_bits).collect(),
        };
        // Logits are an extra: the lists do not depend on them.
        // SAFETY: as above.
        unsafe { raw::gate_select(stream, &without) }?;
        assert_eq!(offsets.to_vec(stream)?, lists.offsets);
        assert_eq!(indices.to_vec(stream)?, lists.indices);
        Ok(lists)
    }

    /// Compares logits, and lists away from ties; returns how many lists were too close to tell.
    fn check(&self, stream: &Stream) -> usize {
        let got = self.run(stream).unwrap_or_else(|error| panic!("{error}\n{:?}", self.p));
        let Expected { logits, error, lists, overflow, lengths_close } = expected(self);
        assert_eq!(got.offsets[0], 0);
        for (got, want) in got.logits.iter().zip(&logits) {
            let got = f64::from(f32::from_bits(*got));
            assert!(got == *want || (got - want).abs() <= error, "logit {got} for {want} +- {error}: {:?}", self.p);
        }
        if lengths_close && overflow > 0 {
            return lists.len();
        }
        if !lengths_close {
            let kept: usize = lists.iter().map(|list| list.blocks.len()).sum();
            assert_eq!((*got.offsets.last().unwrap() as usize, got.overflow), (kept, overflow), "{:?}", self.p);
        }
        let mut close = 0;
        for (index, want) in lists.iter().enumerate() {
            if want.close {
                close += 1;
            } else {
                assert_eq!(got.list(index), want.blocks, "list {index} of {:?}", self.p);
            }
        }
        close
    }

    /// For calls of many lists: few of them are too close to tell.
    fn check_most(&self, stream: &Stream) {
        let close = self.check(stream);
        assert!(close * 20 <= self.lists(), "{close} of {} lists are close to ties: {:?}", self.lists(), self.p);
    }
}

/// A prefill of `len` tokens, four query heads over two KV heads.
fn prefill(len: i32) -> raw::lacuna_gate_select_params {
    raw::lacuna_gate_select_params {
        batch: 1,
        q_heads: 4,
        k_heads: 2,
        plan_heads: 4,
        gate_dim: 32,
        rows: (len + 15) / 16,
        rows_per_list: 1,
        row_tokens: 16,
        block: 16,
        kv_len: len,
        q_len: len,
        causal: 1,
        rule: COUNT,
        count: 3,
        ..Default::default()
    }
}

/// Every rule with settings that select some blocks, all, and one.
fn rules() -> Vec<(i32, i32, f64)> {
    let mut rules: Vec<_> = [1, 3, 1000].map(|count| (COUNT, count, 0.0)).into();
    rules.extend([0.0, 0.1, 0.37, 1.0].map(|value| (FRACTION, 0, value)));
    rules.extend([0.0, 0.3, 0.9, 0.99, 1.0, 7.0].map(|value| (TOP_P, 0, value)));
    rules.extend([-1.0, 0.0, 1e-30, 0.02, 0.2, 1.0].map(|value| (THRESHOLD, 0, value)));
    rules
}

#[test]
fn rules_and_currents() {
    for (index, (rule, count, value)) in rules().into_iter().enumerate() {
        for current in [0, APART, NEUTRAL] {
            let p = raw::lacuna_gate_select_params { rule, count, value, current, ..prefill(323) };
            for stream in streams(index as u64) {
                Call::new(p, index as u64 + 1).check_most(&stream);
            }
        }
    }
}

#[test]
fn forced_blocks() {
    for (index, (sink_blocks, last_rows_dense, force_diagonal)) in
        [(0, 0, 1), (2, 0, 0), (100, 0, 0), (0, 2, 0), (0, 100, 0), (1, 1, 1), (i32::MAX, i32::MAX, 1)]
            .into_iter()
            .enumerate()
    {
        for (current, causal) in [(0, 1), (APART, 1), (NEUTRAL, 0), (APART, 0)] {
            let p = raw::lacuna_gate_select_params {
                sink_blocks,
                last_rows_dense,
                force_diagonal,
                current,
                causal,
                ..prefill(200)
            };
            for stream in streams(index as u64) {
                Call::new(p, index as u64 + 50).check_most(&stream);
            }
        }
    }
}

#[test]
fn shapes() {
    let mut seed = 100;
    for gate_dim in [2, 6, 30, 64, 128, 254, 256] {
        for (block, len) in [(16, 1), (16, 90), (32, 300), (64, 64), (128, 50), (128, 1000)] {
            for causal in [0, 1] {
                seed += 1;
                let base = prefill(len);
                let p = raw::lacuna_gate_select_params {
                    batch: 2,
                    gate_dim,
                    block,
                    row_tokens: block,
                    rows: (len + block - 1) / block,
                    k_rows: (len + block - 1) / block + (seed % 3) as i32,
                    causal,
                    rule: if seed % 2 == 0 { COUNT } else { TOP_P },
                    value: 0.6,
                    ..base
                };
                for stream in streams(seed) {
                    Call::new(p, seed).check(&stream);
                }
            }
        }
    }
}

#[test]
fn heads_of_all_ratios() {
    for (index, (q_heads, k_heads, plan_heads)) in
        [(1, 1, 1), (6, 6, 6), (6, 2, 6), (6, 6, 2), (6, 3, 2), (6, 2, 3), (6, 1, 1), (8, 2, 2)].into_iter().enumerate()
    {
        for (rule, value) in [(COUNT, 0.0), (TOP_P, 0.7), (THRESHOLD, 0.08)] {
            let p = raw::lacuna_gate_select_params { q_heads, k_heads, plan_heads, rule, value, ..prefill(250) };
            for stream in streams(index as u64) {
                Call::new(p, 200 + index as u64).check_most(&stream);
            }
        }
    }
}

/// The last `q_len` tokens of sequences of other lengths.
#[test]
fn chunks_and_lengths() {
    let mut seed = 300;
    for (q_len, rows) in [(1, 1), (40, 4), (33, 3), (200, 13)] {
        for lens in [None, Some(vec![200, 17, 0]), Some(vec![-7, 300, 45])] {
            for (current, causal) in [(0, 1), (NEUTRAL, 1), (APART, 0)] {
                seed += 1;
                let base = raw::lacuna_gate_select_params { q_len, rows, current, causal, ..prefill(200) };
                let p = raw::lacuna_gate_select_params { batch: 3, force_diagonal: 1, last_rows_dense: 1, ..base };
                let call = Call { kv_lens: lens.clone(), ..Call::new(p, seed) };
                for stream in streams(seed) {
                    call.check(&stream);
                }
            }
        }
    }
}

/// Decoding: rows are tokens, and one list serves all of them and the heads of a group.
#[test]
fn tokens_that_share_a_list() {
    let mut seed = 400;
    for q_len in [1, 2, 7, 16] {
        for (q_heads, k_heads, plan_heads) in [(2, 2, 2), (8, 2, 2), (8, 8, 2), (4, 4, 1)] {
            for current in [0, APART, NEUTRAL] {
                for (rule, value) in [(COUNT, 0.0), (TOP_P, 0.7), (THRESHOLD, 0.05)] {
                    seed += 1;
                    let p = raw::lacuna_gate_select_params {
                        batch: 3,
                        q_heads,
                        k_heads,
                        plan_heads,
                        rows: q_len,
                        rows_per_list: q_len,
                        row_tokens: 1,
                        q_len,
                        force_diagonal: (seed % 2) as i32,
                        current,
                        rule,
                        value,
                        ..prefill(333)
                    };
                    // Of the second, rows lie on both sides of a block's start; the third is shorter than the rows.
                    let call = Call { kv_lens: Some(vec![333, 164, 5]), ..Call::new(p, seed) };
                    for stream in streams(seed) {
                        call.check(&stream);
                        call.with(|p| p.rows_per_list = 1).check(&stream);
                    }
                }
            }
        }
    }
}

#[test]
fn long_rows() {
    // Tiles of 8, 4, 2 rows and of one, with six stages and with two.
    for (kv_blocks, rows) in [(1500, 9), (3000, 9), (5000, 9), (1000, 1), (12000, 3)] {
        let base = prefill(16 * kv_blocks);
        let p =
            raw::lacuna_gate_select_params { q_heads: 1, k_heads: 1, plan_heads: 1, q_len: 16 * rows, rows, ..base };
        for (rule, count, value) in [(COUNT, 500, 0.0), (TOP_P, 0, 0.5)] {
            let p = raw::lacuna_gate_select_params { rule, count, value, gate_dim: 16, ..p };
            let fast = Device::simt().unwrap().new_stream().unwrap();
            let mut call = Call::new(p, kv_blocks as u64);
            if rule == TOP_P {
                // A mass of few blocks, which rounding does not change.
                call.q.iter_mut().for_each(|x| *x *= 3.0);
            }
            let close = call.check(&fast);
            assert!(2 * close <= call.lists(), "{close} of {} lists are close to ties", call.lists());
        }
    }
}

/// A row of scores lies in shared memory: so many blocks and no more, and half of that where a list has several
/// members.
#[test]
fn the_longest_row() {
    let fast = Device::simt().unwrap().new_stream().unwrap();
    let p = |blocks: i32, heads: i32| {
        let base = prefill(16 * blocks);
        let one = raw::lacuna_gate_select_params { rows: 1, q_len: 1, count: 100, gate_dim: 2, ..base };
        raw::lacuna_gate_select_params { q_heads: heads, k_heads: 1, plan_heads: 1, ..one }
    };
    for (most, heads) in [(18_928, 1), (9_464, 2)] {
        assert!(Call::new(p(most, heads), 3).run(&fast).is_ok());
        let text = Call::new(p(most + 1, heads), 3).run(&fast).unwrap_err().to_string();
        assert!(text.contains(&format!("at most {most} KV blocks, got {}", most + 1)), "{text}");
    }
}

#[test]
fn ties_go_to_the_lower_block() {
    // Vectors of small integers: products and sums are exact, and there are few different ones.
    for (index, (rule, count, value)) in [(COUNT, 3, 0.0), (COUNT, 6, 0.0), (FRACTION, 0, 0.5)].into_iter().enumerate()
    {
        let p = raw::lacuna_gate_select_params { rule, count, value, gate_dim: 4, ..prefill(400) };
        let mut call = Call::new(p, 500 + index as u64);
        call.q.iter_mut().chain(&mut call.k).for_each(|x| *x = x.round());
        for stream in streams(6) {
            assert_eq!(call.check(&stream), 0);
        }
    }
    // All equal, also -0 and +0: the mass of 0.5 is that of half the blocks.
    for (rule, value) in [(TOP_P, 0.5 - 1e-6), (THRESHOLD, 0.03)] {
        let p = raw::lacuna_gate_select_params { rule, value, causal: 0, ..prefill(16 * 32) };
        let mut call = Call::new(p, 1);
        call.q.iter_mut().for_each(|x| *x = if *x > 0.0 { 0.0 } else { -0.0 });
        for stream in streams(7) {
            let lists = call.run(&stream).unwrap();
            let taken = if rule == TOP_P { 16 } else { 32 };
            for list in 0..call.lists() {
                assert_eq!(lists.list(list), (0..taken).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn lists_are_cut_to_the_capacity() {
    for (index, capacity) in [0, 1, 7, 60, 61, 150, 400, 2000].into_iter().enumerate() {
        for (rule, count, value) in [(COUNT, 5, 0.0), (TOP_P, 0, 0.8)] {
            for (sink_blocks, last_rows_dense, force_diagonal, current) in
                [(0, 0, 0, 0), (2, 2, 1, APART), (3, 0, 1, NEUTRAL)]
            {
                let p = raw::lacuna_gate_select_params {
                    rule,
                    count,
                    value,
                    sink_blocks,
                    last_rows_dense,
                    force_diagonal,
                    current,
                    ..prefill(320)
                };
                for plan_heads in [4, 2] {
                    let p = raw::lacuna_gate_select_params { plan_heads, ..p };
                    let call = Call::new(p, 600 + index as u64).with(|p| p.capacity = capacity);
                    for stream in streams(index as u64) {
                        call.check(&stream);
                    }
                }
            }
        }
    }
}

#[test]
fn contents_are_data() {
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -f32::MAX, -0.0, f32::from_bits(0xFFFF_FFFF)];
    for (index, (rule, count, value)) in rules().into_iter().enumerate() {
        for every in [1, 3, 50] {
            let p = raw::lacuna_gate_select_params { rule, count, value, current: index as i32 % 3, ..prefill(323) };
            let mut call = Call::new(p, 700);
            for (x, &bad) in call.q.iter_mut().chain(&mut call.k).step_by(every).zip(bad.iter().cycle()) {
                *x = bad;
            }
            for capacity in [call.p.capacity, 100] {
                let call = call.with(|p| p.capacity = capacity);
                let lists = call.run(&simt(index as u64)).unwrap();
                for list in 0..call.lists() {
                    let row = list as i32 % call.p.rows;
                    let blocks = lists.list(list);
                    assert!(blocks.windows(2).all(|pair| pair[0] < pair[1]), "{blocks:?}");
                    assert!(blocks.iter().all(|&block| block >= 0 && block <= row), "{blocks:?}");
                    if rule == COUNT && call.p.capacity > 100 {
                        let sees = if call.p.current == APART { row } else { row + 1 };
                        assert_eq!(blocks.len() as i32, count.min(sees));
                    }
                }
            }
        }
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let base = raw::lacuna_gate_select_params { batch: 2, rule: TOP_P, value: 0.7, ..prefill(410) };
    let decode =
        raw::lacuna_gate_select_params { rows: 5, rows_per_list: 5, row_tokens: 1, q_len: 5, plan_heads: 1, ..base };
    let shared = raw::lacuna_gate_select_params { plan_heads: 2, ..base };
    for p in [base, decode, shared] {
        let fast = Device::simt().unwrap().new_stream().unwrap();
        let call = Call::new(p, 800);
        let blocks = *call.run(&fast).unwrap().offsets.last().unwrap();
        let call = call.with(|p| p.capacity = blocks / 2);
        let expected = call.run(&fast).unwrap();
        assert!(expected.overflow > 0);
        let policies = [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
        for (index, policy) in policies.into_iter().enumerate() {
            for async_mode in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed] {
                for guard in [SimtGuard::End, SimtGuard::Start] {
                    let config = SimtConfig { policy, async_mode, guard, ..SimtConfig::checked(index as u64) };
                    let lists = call.run(&Device::simt_with(config).unwrap().new_stream().unwrap()).unwrap();
                    assert_eq!(lists, expected, "{config:?}");
                }
            }
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    let stream = simt(8);
    let p = raw::lacuna_gate_select_params { batch: 3, rule: TOP_P, value: 0.7, ..prefill(300) };
    let call = Call { kv_lens: Some(vec![300, 250, 301]), ..Call::new(p, 900) };
    let together = call.run(&stream).unwrap();
    let lists = call.lists() / 3;
    for sequence in 0..3 {
        let part = |values: &[f32]| values.chunks(values.len() / 3).nth(sequence).unwrap().to_vec();
        let lens = Some(vec![call.kv_lens.as_ref().unwrap()[sequence]]);
        let alone = Call { kv_lens: lens, q: part(&call.q), k: part(&call.k), ..call.with(|p| p.batch = 1) };
        let alone = alone.run(&stream).unwrap();
        for list in 0..lists {
            assert_eq!(alone.list(list), together.list(sequence * lists + list));
        }
        let size = together.logits.len() / 3;
        assert_eq!(alone.logits, together.logits[sequence * size..][..size]);
    }
}

#[test]
fn parameters_outside_their_ranges_are_refused() {
    let stream = simt(9);
    let good = raw::lacuna_gate_select_params { k_rows: 4, ..prefill(64) };
    type Change = fn(&mut raw::lacuna_gate_select_params);
    let changes: [Change; 29] = [
        |p| p.batch = 0,
        |p| p.q_heads = 0,
        |p| p.k_heads = 3,
        |p| p.k_heads = 0,
        |p| p.plan_heads = 3,
        |p| p.plan_heads = -4,
        |p| p.gate_dim = 31,
        |p| p.gate_dim = 512,
        |p| p.rows = 0,
        |p| p.rows = i32::MAX,
        |p| p.rows_per_list = 2,
        |p| p.row_tokens = 8,
        |p| p.block = 1,
        |p| p.kv_len = -1,
        |p| p.kv_len = i32::MAX,
        |p| p.q_len = 0,
        |p| p.causal = 2,
        |p| p.rule = 4,
        |p| p.count = 0,
        |p| (p.rule, p.value) = (FRACTION, 1.5),
        |p| (p.rule, p.value) = (FRACTION, f64::NAN),
        |p| (p.rule, p.value) = (TOP_P, -0.1),
        |p| (p.rule, p.value) = (THRESHOLD, f64::NAN),
        |p| p.current = 3,
        |p| p.last_rows_dense = -1,
        |p| p.force_diagonal = 2,
        |p| p.sink_blocks = -1,
        |p| p.k_rows = 3,
        // Pointers are null.
        |_| (),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut bad = good;
        change(&mut bad);
        // SAFETY: refused before anything is read.
        let result = unsafe { raw::gate_select(&stream, &bad) };
        assert!(matches!(&result, Err(Error::Value { .. })), "{index}: {result:?}");
    }
}
