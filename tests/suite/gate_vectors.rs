//! Projection of a gate's features through the raw entry, against plain f64 code.

use crate::harness::{simt, streams, uniform};
use lacuna::attention::raw;
use lacuna::{Device, Error, Half, Result, SimtAsync, SimtConfig, SimtPolicy, Stream, Tensor, bf16, f16};

/// Rotation tables: blocks of `block` tokens, of which the table has `rows`.
#[derive(Debug, Clone, Copy)]
struct Rope {
    rows: usize,
    block: usize,
}

#[derive(Debug, Clone)]
struct Call {
    block: usize,
    len: usize,
    starts: Vec<i32>,
    /// Starts are given as `start + len` of the call; negative ones then mean tokens that are not there.
    by_ends: bool,
    lens: Vec<i32>,
    in_heads: usize,
    heads: usize,
    join: bool,
    rows: usize,
    width: usize,
    gate_dim: usize,
    weight: bool,
    norm: bool,
    rope: Option<Rope>,
    rotate_last: bool,
    absolute: bool,
    out_rows: usize,
    seed: u64,
}

struct Data<T> {
    features: Vec<f32>,
    weight: Vec<T>,
    norm: Vec<f32>,
}

const EPS: f32 = 1e-3;

impl Call {
    fn batch(&self) -> usize {
        self.starts.len()
    }

    fn joined(&self) -> usize {
        if self.join { self.in_heads / self.heads } else { 1 }
    }

    fn inputs(&self) -> usize {
        self.width * self.joined()
    }

    fn data<T: Half>(&self) -> Data<T> {
        let mut state = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = |len: usize| (0..len).map(|_| uniform(&mut state)).collect::<Vec<f32>>();
        Data {
            features: draw(self.batch() * self.in_heads * self.rows * self.width),
            weight: draw(self.heads * self.inputs() * self.gate_dim).into_iter().map(T::from_f32).collect(),
            norm: draw(self.gate_dim),
        }
    }

    /// Angle of pair `pair` at a position.
    fn angle(&self, position: usize, pair: usize) -> f64 {
        position as f64 * 10_000f64.powf(-2.0 * pair as f64 / self.gate_dim as f64)
    }

    fn table(&self, positions: impl Iterator<Item = usize>) -> Vec<f32> {
        let half = self.gate_dim / 2;
        positions
            .flat_map(|position| {
                let angles = (0..half).map(move |pair| self.angle(position, pair));
                angles.clone().map(f64::cos).chain(angles.map(f64::sin)).map(|x| x as f32).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The vectors, NaN where nothing was written.
    fn run<T: Half>(&self, stream: &Stream, data: &Data<T>) -> Result<Vec<f32>> {
        let dims = [self.batch(), self.in_heads, self.rows, self.width];
        let features = Tensor::from_slice(stream, &data.features, dims)?;
        let weight = Tensor::from_slice(stream, &data.weight, [1, self.heads, self.inputs(), self.gate_dim])?;
        let norm = Tensor::vector(stream, &data.norm)?;
        let rope = self.rope.unwrap_or(Rope { rows: 1, block: 1 });
        let starts_table = Tensor::vector(stream, &self.table((0..rope.rows).map(|row| row * rope.block)))?;
        let offsets_table = Tensor::vector(stream, &self.table(0..rope.block))?;
        let ends: Vec<i32> = self.starts.iter().map(|start| start.saturating_add(self.len as i32)).collect();
        let places = Tensor::vector(stream, if self.by_ends { &ends } else { &self.starts })?;
        let lens = Tensor::vector(stream, &self.lens)?;
        let mut out = Tensor::<f32>::uninit(stream, [self.batch(), self.heads, self.out_rows, self.gate_dim])?;
        out.fill_bytes(stream, 0xFF)?;
        let present = |given: bool, pointer: *const f32| if given { pointer } else { std::ptr::null() };
        let params = raw::lacuna_gate_project_params {
            span: raw::lacuna_gate_span {
                batch: self.batch() as i32,
                len: self.len as i32,
                block: self.block as i32,
                starts: if self.by_ends { std::ptr::null() } else { places.view().as_ptr() },
                ends: if self.by_ends { places.view().as_ptr() } else { std::ptr::null() },
                lens: lens.view().as_ptr(),
                ..Default::default()
            },
            in_heads: self.in_heads as i32,
            heads: self.heads as i32,
            join: i32::from(self.join),
            rows: self.rows as i32,
            width: self.width as i32,
            gate_dim: self.gate_dim as i32,
            dtype: T::DTYPE as i32,
            features: features.view().as_ptr(),
            weight: present(self.weight, weight.view().as_ptr().cast()).cast(),
            norm: present(self.norm, norm.view().as_ptr()),
            norm_eps: EPS,
            rope: present(self.rope.is_some(), starts_table.view().as_ptr()),
            rope_offset: present(self.rope.is_some(), offsets_table.view().as_ptr()),
            rope_rows: rope.rows as i32,
            rope_block: rope.block as i32,
            rotate_last: i32::from(self.rotate_last),
            absolute: i32::from(self.absolute),
            out_rows: self.out_rows as i32,
            out: out.view_mut().as_mut_ptr(),
            ..Default::default()
        };
        // SAFETY: every tensor has the extent that the parameters say and outlives the stream's work.
        unsafe { raw::gate_project(stream, &params) }?;
        out.to_vec(stream)
    }

    fn start(&self, sequence: usize) -> i32 {
        if self.by_ends { self.starts[sequence] } else { self.starts[sequence].max(0) }
    }

    /// The vector of a row and what bounds the error of its elements.
    fn vector<T: Half>(&self, data: &Data<T>, sequence: usize, head: usize, row: usize) -> (Vec<f64>, f64) {
        let first_head = if self.join { head * self.joined() } else { head * self.in_heads / self.heads };
        let input: Vec<f64> = (0..self.joined())
            .flat_map(|part| {
                let at = (sequence * self.in_heads + first_head + part) * self.rows + row;
                data.features[at * self.width..][..self.width].iter().map(|&x| f64::from(x))
            })
            .collect();
        let mut most = 0f64;
        let mut vector: Vec<f64> = (0..self.gate_dim)
            .map(|k| {
                if !self.weight {
                    most = most.max(input[k].abs());
                    return input[k];
                }
                let weight = &data.weight[head * self.inputs() * self.gate_dim..];
                let terms = input.iter().enumerate();
                let terms = terms.map(|(i, x)| x * f64::from(weight[i * self.gate_dim + k].to_f32()));
                most = most.max(terms.clone().map(f64::abs).sum());
                terms.sum()
            })
            .collect();
        if self.norm {
            let squares: f64 = vector.iter().map(|x| x * x).sum();
            let inverse = 1.0 / (squares / self.gate_dim as f64 + f64::from(EPS)).sqrt();
            vector.iter_mut().zip(&data.norm).for_each(|(x, &weight)| *x *= inverse * f64::from(weight));
            most *= inverse;
        }
        let block = (self.start(sequence).div_euclid(self.block as i32) + row as i32) as usize;
        let position = block * self.block + if self.rotate_last { self.block - 1 } else { 0 };
        if let Some(rope) = self.rope {
            if position / rope.block >= rope.rows {
                return (vec![0.0; self.gate_dim], 0.0);
            }
            let half = self.gate_dim / 2;
            for pair in 0..half {
                let (sin, cos) = self.angle(position, pair).sin_cos();
                let (x, y) = (vector[pair], vector[pair + half]);
                (vector[pair], vector[pair + half]) = (x * cos - y * sin, y * cos + x * sin);
            }
        }
        // A rounding for each term of the sum (and of the norm's), some for the rest; two elements make one.
        let roundings = self.inputs() + self.gate_dim + 32;
        (vector, 2.0 * most * roundings as f64 * f64::from(f32::EPSILON))
    }

    fn check<T: Half>(&self, stream: &Stream) {
        let data = self.data::<T>();
        let got = self.run(stream, &data).unwrap_or_else(|error| panic!("{error}\n{self:?}"));
        let mut seen = 0;
        for (sequence, head) in (0..self.batch()).flat_map(|b| (0..self.heads).map(move |h| (b, h))) {
            let start = self.start(sequence);
            let len = self.lens[sequence].clamp(0, self.len as i32);
            let block = |position: i32| position.div_euclid(self.block as i32);
            let first = block(start);
            let touched = if len == 0 { 0 } else { block(start + len - 1) - first + 1 };
            for out_row in 0..self.out_rows {
                let at = (sequence * self.heads + head) * self.out_rows + out_row;
                let got = &got[at * self.gate_dim..][..self.gate_dim];
                let row = out_row as i32 - if self.absolute { first } else { 0 };
                if row < 0 || first + row < 0 || row >= touched.min(self.rows as i32) {
                    assert!(got.iter().all(|x| x.is_nan()), "row {out_row} was written: {self:?}");
                    continue;
                }
                let (want, bound) = self.vector(&data, sequence, head, row as usize);
                for (got, want) in got.iter().zip(want) {
                    assert!((f64::from(*got) - want).abs() <= bound, "{got} for {want} +- {bound}: {self:?}");
                }
                seen += 1;
            }
        }
        assert!(seen > 0, "no row was checked: {self:?}");
    }
}

/// Two sequences of some rows each, K features of four KV heads for eight query heads.
fn call(gate_dim: usize, width: usize) -> Call {
    Call {
        block: 16,
        len: 100,
        starts: vec![0, 37],
        by_ends: false,
        lens: vec![100, 50],
        in_heads: 2,
        heads: 4,
        join: false,
        rows: 8,
        width,
        gate_dim,
        weight: true,
        norm: false,
        rope: None,
        rotate_last: false,
        absolute: false,
        out_rows: 8,
        seed: (gate_dim * 1000 + width) as u64,
    }
}

#[test]
fn sizes() {
    for (gate_dim, width) in
        [(2, 8), (6, 5), (32, 33), (64, 192), (66, 24), (96, 7), (128, 384), (130, 40), (200, 31), (256, 64)]
    {
        for stream in streams(gate_dim as u64) {
            call(gate_dim, width).check::<bf16>(&stream);
            Call { norm: true, ..call(gate_dim, width) }.check::<f16>(&stream);
        }
    }
}

#[test]
fn heads_joined_and_repeated() {
    for stream in streams(1) {
        for (in_heads, heads, join) in [(1, 1, false), (1, 6, false), (3, 3, true), (6, 2, true), (4, 1, true)] {
            Call { in_heads, heads, join, ..call(64, 48) }.check::<bf16>(&stream);
            // The features as they are.
            let gate_dim = if join { 24 * in_heads / heads } else { 24 };
            let copied = Call { in_heads, heads, join, weight: false, width: 24, gate_dim, ..call(64, 48) };
            copied.check::<bf16>(&stream);
            Call { norm: true, rope: Some(Rope { rows: 8, block: 16 }), ..copied }.check::<bf16>(&stream);
        }
    }
}

#[test]
fn rotation_at_every_position() {
    for stream in streams(2) {
        for norm in [false, true] {
            let base = Call { norm, ..call(64, 40) };
            // Rows are blocks, at their first and at their last tokens.
            for rotate_last in [false, true] {
                let rope = Some(Rope { rows: 8, block: 16 });
                Call { rope, rotate_last, ..base.clone() }.check::<bf16>(&stream);
                // The table ends before the rows do.
                let rope = Some(Rope { rows: 3, block: 16 });
                Call { rope, rotate_last, ..base.clone() }.check::<bf16>(&stream);
            }
            // Rows are tokens, and rotation blocks of another size.
            for block in [1, 5, 64] {
                let rope = Some(Rope { rows: 100 / block + 2, block });
                Call { block: 1, rows: 100, out_rows: 100, rope, ..base.clone() }.check::<bf16>(&stream);
            }
        }
    }
}

#[test]
fn rows_go_to_their_blocks() {
    for stream in streams(3) {
        let rope = Some(Rope { rows: 20, block: 16 });
        let cache = Call {
            absolute: true,
            out_rows: 20,
            starts: vec![3, 170, 64],
            lens: vec![40, 100, 0],
            rope,
            ..call(64, 40)
        };
        cache.check::<bf16>(&stream);
        // Rows that do not fit, of either side.
        Call { out_rows: 12, ..cache.clone() }.check::<bf16>(&stream);
        Call { rows: 2, ..cache.clone() }.check::<bf16>(&stream);
        // One token a sequence: decoding.
        Call { len: 1, rows: 1, lens: vec![1, 1, 1], ..cache }.check::<bf16>(&stream);
        Call { starts: vec![-3, i32::MAX], lens: vec![i32::MAX, -1], ..call(64, 40) }.check::<bf16>(&stream);
    }
}

#[test]
fn tokens_before_the_first_position_are_not_there() {
    for stream in streams(6) {
        let rope = Some(Rope { rows: 20, block: 16 });
        let base = Call { by_ends: true, starts: vec![-3, 0, 40], lens: vec![7; 3], rope, ..call(64, 40) };
        for absolute in [false, true] {
            // Tokens are rows, as in decoding; then blocks are.
            let tokens = Call { block: 1, len: 7, rows: 7, out_rows: 50, absolute, ..base.clone() };
            tokens.check::<bf16>(&stream);
            let starts = vec![-40, -16, 3];
            Call { starts, len: 60, lens: vec![60, 50, 60], absolute, out_rows: 9, ..base.clone() }
                .check::<bf16>(&stream);
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_tile() {
    // 240 rows take tiles of 32, the first 5 rows of each sequence tiles of 4.
    for (gate_dim, width) in [(64, 70), (128, 96), (256, 40)] {
        let base = call(gate_dim, width);
        let many =
            Call { starts: vec![0; 2], lens: vec![1920; 2], len: 1920, rows: 120, out_rows: 120, norm: true, ..base };
        let few = Call { len: 80, ..many.clone() };
        for stream in streams(4) {
            let data = many.data::<bf16>();
            let [all, some] = [&many, &few].map(|call| call.run(&stream, &data).unwrap());
            for (all, some) in all.chunks(120 * gate_dim).zip(some.chunks(120 * gate_dim)) {
                let bits = |rows: &[f32]| rows[..5 * gate_dim].iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(all), bits(some));
            }
            many.check::<bf16>(&stream);
        }
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    for (gate_dim, width) in [(64, 100), (6, 5)] {
        let rope = Some(Rope { rows: 10, block: 16 });
        let few = Call { norm: true, rope, ..call(gate_dim, width) };
        let many = Call { len: 1000, lens: vec![1000; 2], rows: 64, out_rows: 64, ..few.clone() };
        for call in [few, many] {
            let data = call.data::<bf16>();
            let bits =
                |stream: &Stream| call.run(stream, &data).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let expected = bits(&Device::simt().unwrap().new_stream().unwrap());
            let policies =
                [SimtPolicy::RoundRobin, SimtPolicy::RandomLane, SimtPolicy::WarpFirst, SimtPolicy::Priority];
            for (index, policy) in policies.into_iter().enumerate() {
                for async_mode in [SimtAsync::Late, SimtAsync::Early, SimtAsync::Mixed] {
                    let config = SimtConfig { policy, async_mode, ..SimtConfig::checked(index as u64) };
                    assert_eq!(bits(&Device::simt_with(config).unwrap().new_stream().unwrap()), expected, "{config:?}");
                }
            }
        }
    }
}

#[test]
fn parameters_outside_their_ranges_are_refused() {
    let stream = simt(5);
    let something = [0f32; 4];
    let good = raw::lacuna_gate_project_params {
        span: raw::lacuna_gate_span { batch: 1, len: 8, block: 16, ..Default::default() },
        in_heads: 2,
        heads: 2,
        rows: 1,
        width: 8,
        gate_dim: 8,
        rope_rows: 1,
        rope_block: 16,
        out_rows: 1,
        ..Default::default()
    };
    let rope = raw::lacuna_gate_project_params { rope: something.as_ptr(), ..good };
    for bad in [
        raw::lacuna_gate_project_params { in_heads: 0, ..good },
        raw::lacuna_gate_project_params { heads: 3, ..good },
        raw::lacuna_gate_project_params { heads: -2, ..good },
        raw::lacuna_gate_project_params { in_heads: 4, ..good },
        raw::lacuna_gate_project_params { heads: 4, join: 1, ..good },
        raw::lacuna_gate_project_params { join: 2, ..good },
        raw::lacuna_gate_project_params { rows: -1, ..good },
        raw::lacuna_gate_project_params { out_rows: -1, ..good },
        raw::lacuna_gate_project_params { width: 0, ..good },
        raw::lacuna_gate_project_params { width: i32::MAX, ..good },
        // Without weight the inputs are the vector.
        raw::lacuna_gate_project_params { width: 16, ..good },
        raw::lacuna_gate_project_params { gate_dim: 7, ..good },
        raw::lacuna_gate_project_params { gate_dim: 0, ..good },
        raw::lacuna_gate_project_params { gate_dim: 258, ..good },
        raw::lacuna_gate_project_params { dtype: -1, ..good },
        raw::lacuna_gate_project_params { absolute: 2, ..good },
        raw::lacuna_gate_project_params { rotate_last: -1, ..good },
        raw::lacuna_gate_project_params { norm: something.as_ptr(), norm_eps: f32::NAN, ..good },
        raw::lacuna_gate_project_params { norm: something.as_ptr(), norm_eps: -1.0, ..good },
        raw::lacuna_gate_project_params { rope_rows: -1, ..rope },
        raw::lacuna_gate_project_params { rope_block: 0, ..rope },
        // Rows off the table's positions, and no offsets.
        raw::lacuna_gate_project_params { rope_block: 32, ..rope },
        raw::lacuna_gate_project_params { rotate_last: 1, ..rope },
        // features is null.
        good,
    ] {
        // SAFETY: refused before anything is read.
        let result = unsafe { raw::gate_project(&stream, &bad) };
        assert!(matches!(&result, Err(Error::Value { .. })), "{result:?} for {bad:?}");
    }
}
