//! `wgmma` against a scalar model: every N, A from shared memory and registers, both majors of B, three swizzles, both
//! types.

use lacuna::{bf16, f16};
use lacuna_simt_tests::{Config, EARLY, Family, LATE, MIXED, POLICIES, Run, assert_clean};

const DEPTH: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Shape {
    n: usize,
    /// 1, 2, 3: 32, 64, 128 bytes.
    swizzle: i64,
    mn_major: bool,
    a_in_registers: bool,
    half: bool,
    accumulate: bool,
}

impl Shape {
    /// As kernels/warpgroup_shapes.cu reads it.
    fn variant(self) -> i64 {
        let flags = [self.mn_major, self.a_in_registers, self.half, self.accumulate];
        let bits = flags.iter().enumerate().map(|(i, &flag)| i64::from(flag) << (8 + i)).sum::<i64>();
        self.n as i64 / 8 + (self.swizzle << 6) + bits
    }

    fn pattern(self, value: f32) -> u16 {
        if self.half { f16::from_f32(value).to_bits() } else { bf16::from_f32(value).to_bits() }
    }

    /// A launch with these operands, and its result: f32 sums over ascending k from C or zero.
    fn problem(self, a: &[f32], b: &[f32], c: &[f32]) -> (Run, Vec<u32>) {
        let patterns: Vec<u16> = a.iter().chain(b).map(|&value| self.pattern(value)).collect();
        let mut source: Vec<u32> =
            patterns.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect();
        source.extend(c.iter().map(|value| value.to_bits()));
        let expected = (0..64 * self.n)
            .map(|at| {
                let (row, column) = (at / self.n, at % self.n);
                let start = if self.accumulate { c[at] } else { 0.0 };
                (0..DEPTH).fold(start, |sum, k| sum + a[row * DEPTH + k] * b[column * DEPTH + k]).to_bits()
            })
            .collect();
        let run = Run {
            source,
            target_words: 64 * self.n,
            variant: self.variant(),
            smem_bytes: (64 * DEPTH * 2 + self.n.next_multiple_of(64) * DEPTH * 2) as i64,
            ..Run::new(Family::WarpgroupShapes, "product", 128)
        };
        (run, expected)
    }

    /// Small integers without symmetry: no two elements can be exchanged unnoticed.
    fn integers(self) -> (Run, Vec<u32>) {
        let a: Vec<f32> = (0..64 * DEPTH).map(|i| ((i * 37 + i / DEPTH * 17) % 251) as f32 - 125.0).collect();
        let b: Vec<f32> = (0..self.n * DEPTH).map(|i| ((i * 53 + i / DEPTH * 29) % 257) as f32 - 128.0).collect();
        let c: Vec<f32> = (0..64 * self.n).map(|i| i as f32 * 0.25 - 400.0).collect();
        self.problem(&a, &b, &c)
    }
}

fn shapes() -> impl Iterator<Item = Shape> {
    (1..=32).flat_map(|n| {
        (1..=3).flat_map(move |swizzle| {
            (0..8).map(move |flags: u32| Shape {
                n: 8 * n,
                swizzle,
                mn_major: flags & 1 != 0,
                a_in_registers: flags & 2 != 0,
                half: flags & 4 != 0,
                accumulate: (n + swizzle as usize + flags.count_ones() as usize) & 1 == 0,
            })
        })
    })
}

#[test]
fn every_shape() {
    for (i, shape) in shapes().enumerate() {
        let (run, expected) = shape.integers();
        let config =
            Config { async_mode: [LATE, EARLY, MIXED][i % 3], ..Config::checked(i as u64, POLICIES[i / 3 % 4]) };
        let outcome = run.run(&config);
        assert_eq!(outcome.failure, None, "{shape:?} under {config:?}");
        assert!(outcome.target == expected, "{shape:?} under {config:?}");
        assert_eq!(outcome.counters.mma_macs, (64 * shape.n * DEPTH) as u64, "{shape:?}");
    }
}

#[test]
fn all_schedules() {
    let from_shared = Shape { n: 40, swizzle: 3, mn_major: true, a_in_registers: false, half: false, accumulate: true };
    let from_registers = Shape { swizzle: 2, mn_major: false, a_in_registers: true, ..from_shared };
    for shape in [from_shared, from_registers] {
        let (run, expected) = shape.integers();
        assert_clean(&run, &expected);
    }
}

#[test]
fn sums_run_over_ascending_k() {
    // Magnitudes from 2^-12 to 2^12: another order of the sum gives other bits.
    let value = |i: usize| (((i * 2654435761) >> 7) % 255) as f32 * 2f32.powi((i * 7919 % 25) as i32 - 19);
    let n = 24;
    let rounded = |i: usize| bf16::from_f32(value(i) - 20.0).to_f32();
    let a: Vec<f32> = (0..64 * DEPTH).map(rounded).collect();
    let b: Vec<f32> = (0..n * DEPTH).map(|i| rounded(i + 77777)).collect();
    let c: Vec<f32> = (0..64 * n).map(|i| value(i + 5) * 3.7).collect();
    for (mn_major, a_in_registers) in [(false, false), (true, true)] {
        let shape = Shape { n, swizzle: 3, mn_major, a_in_registers, half: false, accumulate: true };
        let (run, expected) = shape.problem(&a, &b, &c);
        let outcome = run.run(&Config::checked(1, 0));
        assert_eq!(outcome.failure, None);
        assert_eq!(outcome.target, expected);
    }
    // And it is the order that matters.
    let reversed: Vec<f32> = a.chunks(DEPTH).flat_map(|row| row.iter().rev().copied()).collect();
    let reversed_b: Vec<f32> = b.chunks(DEPTH).flat_map(|row| row.iter().rev().copied()).collect();
    let shape = Shape { n, swizzle: 3, mn_major: false, a_in_registers: false, half: false, accumulate: true };
    assert_ne!(shape.problem(&a, &b, &c).1, shape.problem(&reversed, &reversed_b, &c).1);
}
