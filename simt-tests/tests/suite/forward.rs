//! The library's forward kernel: the same bits and counts under every schedule, right against f64.

use lacuna_simt_tests::{Config, EARLY, ForwardCase, LATE, MIXED, POLICIES, Stream};

/// `lacuna_family`.
const PORTABLE: i32 = 80;
const HOPPER: i32 = 90;

const CASES: [ForwardCase; 4] =
    [case(64, 1, 1, [100, 150]), case(64, 0, 0, [130, 130]), case(128, 1, 0, [70, 97]), case(128, 0, 1, [65, 65])];

const fn case(head_dim: i32, dtype: i32, causal: i32, [q_len, kv_len]: [i32; 2]) -> ForwardCase {
    ForwardCase { q_heads: 2, kv_heads: 1, q_len, kv_len, head_dim, dtype, causal, guard: 1, family: PORTABLE }
}

fn schedules() -> Vec<Config> {
    let mut all = Vec::new();
    for policy in POLICIES {
        for async_mode in [LATE, EARLY, MIXED] {
            for (threads, resident, random_blocks) in [(1, 1, 0), (2, 1, 1), (4, 3, 0), (1, 3, 1)] {
                let seed = all.len() as u64;
                all.push(Config { async_mode, threads, resident, random_blocks, ..Config::checked(seed, policy) });
            }
        }
    }
    all
}

fn bits_and_counts_do_not_depend_on_the_schedule(family: i32) {
    for case in CASES.map(|case| ForwardCase { family, ..case }) {
        let fast = Stream::new(&Config::fast()).unwrap();
        let expected = case.run(&fast).unwrap();
        let (out, lse) = case.compare(&expected);
        assert!(out < if case.dtype == 1 { 5e-3 } else { 7e-4 } && lse < 1e-5, "{case:?}: {out:e} {lse:e}");
        for config in schedules() {
            let stream = Stream::new(&config).unwrap();
            let result = case.run(&stream).unwrap();
            assert!(result == expected, "{case:?} under {config:?}");
            assert_eq!(stream.counters(), fast.counters(), "{case:?} under {config:?}");
        }
        // Underflow of the tensors.
        let before = ForwardCase { guard: 2, ..case };
        assert!(before.run(&Stream::new(&Config::checked(1, 3)).unwrap()).unwrap() == expected);
    }
}

#[test]
fn bits_and_counts_of_the_portable_family() {
    bits_and_counts_do_not_depend_on_the_schedule(PORTABLE);
}

#[test]
fn bits_and_counts_of_the_hopper_family() {
    bits_and_counts_do_not_depend_on_the_schedule(HOPPER);
}

#[test]
fn counts_are_those_of_the_tiles() {
    let case = ForwardCase { q_heads: 4, kv_heads: 2, ..case(64, 1, 0, [128, 200]) };
    let stream = Stream::new(&Config::checked(1, 0)).unwrap();
    case.run(&stream).unwrap();
    let counters = stream.counters();
    assert_eq!(counters.mma_macs, case.dense_macs());
    // Q once; K and V for each of the two query tiles of each head; keys beyond the last are zero fill.
    assert_eq!(counters.copy_bytes, 4 * (128 + 2 * 2 * 200) * 64 * 2);
    assert_eq!(counters.bank_conflicts, 0);
    assert_eq!(counters.launches, 1);
    // Two barriers before the first key tile, one for each of the ceil(200 / 64) tiles; 8 blocks.
    assert_eq!(counters.barriers, 8 * (2 + 4));
    case.run(&stream).unwrap();
    assert_eq!(stream.counters().mma_macs, 2 * case.dense_macs());
    stream.reset_counters();
    assert_eq!(stream.counters().launches, 0);
}
