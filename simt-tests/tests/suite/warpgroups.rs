//! The protocol of `wgmma`: one planted bug for each rule, and its correct twin.

use lacuna::bf16;
use lacuna_simt_tests::{
    Config, EARLY, Family, LATE, MIXED, Outcome, POLICIES, Run, assert_caught, assert_clean, assert_garbage,
};

const TILE: usize = 64 * 64;

fn element(i: usize) -> f32 {
    ((i * 37 + i / 64 * 17) % 251) as f32 - 125.0
}

fn packed(values: &[f32]) -> Vec<u32> {
    let bits: Vec<u16> = values.iter().map(|&value| bf16::from_f32(value).to_bits()).collect();
    bits.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect()
}

/// One warpgroup with A, B and B' of 64 x 64 in shared memory.
fn tiles(name: &'static str) -> Run {
    let values: Vec<f32> = (0..3 * TILE).map(element).collect();
    Run { source: packed(&values), target_words: TILE, smem_bytes: 3 * 8192, ..Run::new(Family::Warpgroups, name, 128) }
}

fn with(run: &Run, variant: i64) -> Run {
    Run { variant, ..run.clone() }
}

/// The sum of k products in [64][columns]: a by row and k, b by column and k.
fn product(columns: usize, a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let dot = |row: usize, column: usize| (0..64).map(|k| a(row, k) * b(column, k)).sum();
    (0..64 * columns).map(|at| dot(at / columns, at % columns)).collect()
}

/// A B^T for the first or second B.
fn product_of_tile(which: usize) -> Vec<f32> {
    product(64, |row, k| element(64 * row + k), |column, k| element(TILE * (1 + which) + 64 * column + k))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(x, y)| x + y).collect()
}

fn wrong(expected: &[u32]) -> impl Fn(&Outcome) -> bool + use<'_> {
    move |outcome| outcome.target != expected
}

#[test]
fn missing_fence() {
    let (first, second) = (product_of_tile(0), product_of_tile(1));
    let run = tiles("fence");
    assert_clean(&with(&run, 0), &bits(&first));
    assert_clean(&with(&run, 1), &bits(&sum(&first, &second)));
    assert_clean(&with(&run, 2), &bits(&sum(&first, &second)));
    assert_caught(&with(&run, 0), &["wgmma: no wgmma.fence since the kernel began"]);
    assert_caught(&with(&run, 1), &["wgmma: no wgmma.fence since the wgmma.wait_group of line "]);
    assert_caught(&with(&run, 2), &["wgmma: no wgmma.fence since the wgmma.wait_group of line "]);
}

#[test]
fn accumulators_in_flight() {
    let expected = bits(&product_of_tile(0));
    let run = tiles("accumulators_in_flight");
    assert_clean(&run, &expected);
    assert_garbage(&with(&run, 0), |outcome| {
        // Thread 77 is lane 13 of warp 2; its register 5 is row 32 + 3, column 8 + 2 + 1.
        let read = 64 * 35 + 11;
        let others = outcome.target.iter().zip(&expected).enumerate().all(|(i, (got, want))| i == read || got == want);
        f32::from_bits(outcome.target[read]).is_nan() && others
    });
    let message = ["thread 77 ", "accumulators of the wgmma of line ", " were written while it was in flight"];
    assert_caught(&with(&run, 1), &message);
    assert_caught(&with(&run, 2), &message);
    // Early completion does not hide them.
    for variant in [1, 2] {
        let outcome = with(&run, variant).planted().run(&Config { async_mode: EARLY, ..Config::checked(1, 0) });
        assert!(outcome.message().contains(message[2]), "{}", outcome.message());
    }
}

#[test]
fn a_registers_in_flight() {
    let run = tiles("a_registers_in_flight");
    assert_clean(&run, &bits(&product_of_tile(0)));
    assert_caught(&run, &["A registers of the wgmma of line ", " were written while it was in flight"]);
}

#[test]
fn stage_overwritten_before_the_wait() {
    let expected = bits(&product_of_tile(0));
    let run = tiles("stage_in_flight");
    for variant in [0, 1] {
        assert_clean(&with(&run, variant), &expected);
        assert_garbage(&with(&run, variant), wrong(&expected));
    }
    // Why the gate is late.
    let early = run.planted().run(&Config { async_mode: EARLY, ..Config::checked(1, 0) });
    assert!(early.failure.is_none() && early.target == expected);
}

#[test]
fn wait_one_too_weak() {
    let (first, second) = (bits(&product_of_tile(0)), bits(&product_of_tile(1)));
    let run = Run { target_words: 2 * TILE, ..tiles("weak_wait") };
    assert_clean(&run, &[&first[..], &second].concat());
    assert_garbage(&run, |outcome| {
        let (covered, early) = outcome.target.split_at(TILE);
        covered == first && early.iter().all(|&word| f32::from_bits(word).is_nan())
    });
}

#[test]
fn unequal_operands() {
    let run = tiles("unequal");
    assert_clean(&run, &bits(&product_of_tile(0)));
    let named = ["A descriptor", "B descriptor", "N", "bf16", "MN-major B", "accumulate", "A in registers"];
    for (variant, name) in named.into_iter().enumerate() {
        let message = format!("divergent warpgroup: this thread's wgmma has {name} 0x");
        assert_caught(&with(&run, variant as i64), &[&message]);
    }
    assert_caught(&with(&run, 7), &["divergent warpgroup: wgmma.mma_async meets wgmma.mma_async of line "]);
}

#[test]
fn missing_threads() {
    let run = tiles("missing");
    assert_clean(&run, &bits(&product_of_tile(0)));
    let parts = ["deadlock", "wait in wgmma.wait_group", "warp 3 lanes 0xffffffff have not issued the wgmma of line "];
    assert_caught(&with(&run, 0), &parts);
    assert_caught(&with(&run, 1), &["(warp 1, lane ", "the thread exits with a wgmma that it never waited for"]);
}

#[test]
fn left_at_exit() {
    let run = tiles("left_at_exit");
    assert_clean(&run, &bits(&product_of_tile(0)));
    for variant in [0, 1] {
        assert_caught(&with(&run, variant), &["the thread exits with a wgmma that it never waited for"]);
    }
}

#[test]
fn overlapping_accumulators() {
    let first = product_of_tile(0);
    // 32 columns of the first 16 k of the other tile on top.
    let more =
        |row, column| -> f32 { (0..16).map(|k| element(64 * row + k) * element(2 * TILE + 64 * column + k)).sum() };
    let expected: Vec<f32> =
        (0..TILE).map(|at| if at % 64 < 32 { first[at] + more(at / 64, at % 64) } else { first[at] }).collect();
    let run = tiles("other_shape");
    assert_clean(&run, &bits(&expected));
    assert_caught(&run, &["accumulators overlap those of the wgmma of line ", " in flight, which has another shape"]);
}

#[test]
fn descriptors() {
    let expected = bits(&product_of_tile(0));
    let run = tiles("descriptor");
    assert_clean(&run, &expected);
    let messages = [
        "descriptor of B with base offset 3, supported is 0",
        "descriptor of B without swizzle, supported are 128, 64 and 32 bytes",
        "sets bits outside of its fields",
        "B starts at shared address 0x2080, not in the first row of a pattern of 1024 bytes",
        "row 0 of B lies at 24576, outside the block's 24576 bytes of shared memory",
        "row 0 of B lies at -1024, outside the block's 24576 bytes of shared memory",
        "row 32 of B lies at 24576, outside the block's 24576 bytes of shared memory",
        // The fourth step reaches over the end of the span.
        "B: 16 values of k at byte 112 of a span of 128",
    ];
    for (variant, message) in messages.into_iter().enumerate() {
        assert_caught(&with(&run, variant as i64), &[message]);
    }
    // Swizzle of 64 bytes: the step over its span is seen.
    assert_caught(
        &with(&run, 8),
        &["B starts at shared address 0x2040, not in the first row of a pattern of 512 bytes"],
    );
    // Stride, address and major that mean another matrix.
    for variant in 9..=11 {
        assert_garbage(&with(&run, variant), wrong(&expected));
    }
}

#[test]
fn descriptors_of_mn_major() {
    let value = |column: usize, k: usize| element(TILE * (1 + column / 64) + 64 * k + column % 64);
    let expected = bits(&product(128, |row, k| element(64 * row + k), value));
    let run = Run { target_words: 2 * TILE, ..tiles("mn_descriptor") };
    assert_clean(&run, &expected);
    assert_garbage(&with(&run, 0), wrong(&expected));
    assert_caught(&with(&run, 1), &["B: MN-major from byte 32 of a span of 128, supported is its start"]);
}

#[test]
fn two_products_in_flight() {
    const STEPS: usize = 3;
    // Small enough that P is exact in bf16.
    let value = |i: usize| ((i * 31 + i / 64 * 7) % 5) as f32 - 2.0;
    let values: Vec<f32> = (0..(2 + 2 * STEPS) * TILE)
        .map(|i| if i / TILE < 2 { f32::from(u8::from(i % 7 == i / 64 % 3)) } else { value(i) })
        .collect();
    let at = |tile: usize, row: usize, column: usize| values[TILE * tile + 64 * row + column];
    let mut expected = Vec::new();
    for group in 0..2 {
        let mut o = vec![0f32; TILE];
        for step in 0..STEPS {
            let p = product(64, |row, k| at(group, row, k), |column, k| at(2 + step, column, k));
            assert!(p.iter().all(|&x| bf16::from_f32(x).to_f32() == x));
            o = sum(&o, &product(64, |row, k| p[64 * row + k], |column, k| at(2 + STEPS + step, k, column)));
        }
        expected.extend(bits(&o));
    }
    let run = Run {
        source: packed(&values),
        target_words: 2 * TILE,
        smem_bytes: (2 + 2 * STEPS as i64) * 8192,
        ..Run::new(Family::Warpgroups, "overlapped", 256)
    };
    assert_clean(&run, &expected);
    assert_caught(&run, &["A registers of the wgmma of line ", " were written while it was in flight"]);
    // Blocks beside each other on one CPU thread keep their operations apart.
    let blocks = Run { blocks: 7, ..run.clone() };
    for (policy, async_mode) in POLICIES.into_iter().zip([LATE, EARLY, MIXED, MIXED]) {
        let outcome = blocks.run(&Config { resident: 3, async_mode, ..Config::checked(1, policy) });
        assert_eq!(outcome.failure, None);
        assert!(outcome.target == expected);
    }
    let macs = run.run(&Config::checked(1, 0)).counters.mma_macs;
    assert_eq!(macs, 2 * 2 * STEPS as u64 * 64 * 64 * 64);
}

#[test]
fn impossible_shapes() {
    let run = Run { target_words: 0, ..tiles("impossible") };
    assert_clean(&run, &[]);
    assert_caught(&run, &["wgmma: N = 12, possible are multiples of 8 up to 256"]);
    let three_warps = Run { threads: 96, ..run };
    assert_caught(&three_warps, &["wgmma in a block of 96 threads: it needs whole warpgroups of 128"]);
}
