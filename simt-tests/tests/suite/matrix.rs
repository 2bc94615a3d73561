//! `ldmatrix`, `stmatrix` and `mma.sync`: fragment layouts against a scalar model, addresses, bank conflicts.

use lacuna::{bf16, f16};
use lacuna_simt_tests::{Config, Family, Run, assert_caught, assert_clean};

fn run(name: &'static str) -> Run {
    Run { smem_bytes: 8192, ..Run::new(Family::Matrix, name, 32) }
}

/// Two 16-bit patterns a word, the first in the low half.
fn packed(patterns: &[u16]) -> Vec<u32> {
    patterns.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect()
}

/// A [16, 32] and B [24, 32] of small integers without symmetry, so that every product is exact and no two elements
/// can be exchanged unnoticed; C [16, 24] distinct.
fn product(name: &'static str, pattern: impl Fn(f32) -> u16) {
    let a: Vec<f32> = (0..16 * 32).map(|i| ((i * 37 + i / 32 * 11) % 61) as f32 - 30.0).collect();
    let b: Vec<f32> = (0..24 * 32).map(|i| ((i * 53 + i / 32 * 29) % 59) as f32 - 29.0).collect();
    let c: Vec<f32> = (0..16 * 24).map(|i| i as f32 * 0.25 - 40.0).collect();
    let expected: Vec<u32> = (0..16 * 24)
        .map(|at| {
            let (m, n) = (at / 24, at % 24);
            let terms = (0..32).map(|k| a[m * 32 + k] * b[n * 32 + k]);
            (c[at] + terms.sum::<f32>()).to_bits()
        })
        .collect();
    let patterns: Vec<u16> = a.iter().chain(&b).map(|&value| pattern(value)).collect();
    let mut source = packed(&patterns);
    source.extend(c.iter().map(|value| value.to_bits()));
    let run = Run { source, target_words: 16 * 24, ..run(name) };
    assert_clean(&run, &expected);
    // kK * kN products of 16 x 8 x 16 in one collective.
    let counters = run.run(&Config::checked(1, 0)).counters;
    assert_eq!((counters.mma_macs, counters.collectives), (6 * 16 * 8 * 16, 1));
}

#[test]
fn product_fragments() {
    product("product_bf16", |value| bf16::from_f32(value).to_bits());
    product("product_f16", |value| f16::from_f32(value).to_bits());
}

#[test]
fn operands_of_all_patterns() {
    let patterns: Vec<u16> = (0..=u16::MAX).collect();
    let widen = |name, expected: &dyn Fn(u16) -> f32| {
        let run = Run { source: packed(&patterns), target_words: 65536, count: 4096, blocks: 8, ..run(name) };
        let outcome = run.run(&Config::fast());
        assert_eq!(outcome.failure, None);
        for (&pattern, &bits) in patterns.iter().zip(&outcome.target) {
            let (got, wanted) = (f32::from_bits(bits), expected(pattern));
            // The sum with the zeros of the other columns loses the sign of a zero only.
            assert!(got == wanted || (got.is_nan() && wanted.is_nan()), "{name} {pattern:#06x}: {got} not {wanted}");
        }
    };
    widen("widen_bf16", &|pattern| bf16::from_bits(pattern).to_f32());
    widen("widen_f16", &|pattern| f16::from_bits(pattern).to_f32());
}

#[test]
fn ldmatrix_fragments() {
    let elements: Vec<u16> = (0..4 * 64).map(|i| 1000 + 3 * i).collect();
    let fragment = |element: &dyn Fn(usize, usize, usize) -> u16| -> Vec<u32> {
        let lane = |l: usize| (0..4).map(move |q| (l, q));
        (0..32)
            .flat_map(lane)
            .map(|(l, q)| {
                let (row, column) = (l / 4, 2 * (l % 4));
                u32::from(element(q, row, column)) | u32::from(element(q, row, column + 1)) << 16
            })
            .collect()
    };
    let at = |q: usize, row: usize, column: usize| elements[64 * q + 8 * row + column];
    let source = packed(&elements);
    let load = |name| Run { source: source.clone(), target_words: 128, ..run(name) };
    assert_clean(&load("load_plain"), &fragment(&at));
    assert_clean(&load("load_transposed"), &fragment(&|q, row, column| at(q, column, row)));
}

#[test]
fn stmatrix_is_the_inverse_of_ldmatrix() {
    let fragments: Vec<u32> = (0..128).map(|i| (2 * i + 1) << 16 | (2 * i)).collect();
    // Lane 4r + c holds columns 2c and 2c + 1 of row r.
    let at = |q: usize, row: usize, column: usize| {
        let word = fragments[4 * (4 * row + column / 2) + q];
        (word >> (16 * (column % 2))) as u16
    };
    let rows = |element: &dyn Fn(usize, usize, usize) -> u16| -> Vec<u32> {
        packed(&(0..256).map(|i| element(i / 64, i / 8 % 8, i % 8)).collect::<Vec<u16>>())
    };
    let store = |name| Run { source: fragments.clone(), target_words: 128, ..run(name) };
    assert_clean(&store("store_plain"), &rows(&at));
    assert_clean(&store("store_transposed"), &rows(&|q, row, column| at(q, column, row)));
}

#[test]
fn stmatrix_addresses() {
    let run = Run { threads: 64, target_words: 64, ..run("store_address") };
    assert_clean(&run, &[0; 64]);
    let with = |variant| Run { variant, ..run.clone() };
    let lane = "lane 9), line ";
    assert_caught(&with(0), &[lane, "stmatrix: shared address 0x98 is not 16-byte aligned"]);
    assert_caught(&with(1), &[lane, "stmatrix: shared address 0x2000 + 16 lies outside the block's 8192 bytes"]);
    assert_caught(&with(2), &[lane, "stmatrix: shared address", "lies outside the block's 8192 bytes"]);
}

#[test]
fn ldmatrix_addresses() {
    let run = Run { threads: 64, target_words: 64, source: vec![0; 64], ..run("load_address") };
    assert_clean(&run, &[0; 64]);
    let with = |variant| Run { variant, ..run.clone() };
    assert_caught(&with(0), &["ldmatrix: lane 9: shared address 0x98 is not 16-byte aligned"]);
    assert_caught(&with(1), &["ldmatrix: lane 9: shared address 0x2000 + 16 lies outside the block's 8192 bytes"]);
    assert_caught(&with(2), &["ldmatrix: lane 9: shared address", "lies outside the block's 8192 bytes"]);
}

#[test]
fn bank_conflicts_are_counted_exactly() {
    // 8 x4 loads are 32 groups of eight rows: 128-byte rows in one bank group cost 7 extra cycles each.
    for (variant, extra) in [(0, 32 * 7), (1, 0), (2, 0), (3, 32 * 3)] {
        let run = Run { variant, target_words: 256, ..run("conflicts") };
        let outcome = run.run(&Config::checked(1, 0));
        assert_eq!(outcome.failure, None);
        assert_eq!(outcome.counters.bank_conflicts, extra, "variant {variant}");
        assert_clean(&run, &outcome.target);
    }
}

#[test]
fn bank_conflicts_of_stmatrix() {
    for (variant, extra) in [(0, 4 * 7), (1, 0)] {
        let run = Run { variant, ..run("store_conflicts") };
        assert_eq!(run.run(&Config::checked(1, 0)).counters.bank_conflicts, extra, "variant {variant}");
        assert_clean(&run, &[0; 32]);
    }
}

#[test]
fn divergent_products() {
    let run = run("divergent_product");
    assert_clean(&run, &[0; 32]);
    assert_caught(&run, &["divergent warp: mma.sync meets mma.sync of line "]);
}
