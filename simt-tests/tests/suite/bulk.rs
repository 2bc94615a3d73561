//! `cp.async.bulk` between runs of bytes: loads, stores, additions, groups.

use lacuna_simt_tests::{Config, Family, Guard, Run, assert_caught, assert_clean, assert_garbage};

/// 1024 words and an mbarrier.
const SMEM_BYTES: i64 = 4096 + 8;

fn of(name: &'static str, words: usize, threads: i64) -> Run {
    Run {
        source: (0..words as u32).map(|i| i * 3 + 1).collect(),
        target_words: words,
        count: words as i64,
        smem_bytes: SMEM_BYTES,
        ..Run::new(Family::Bulk, name, threads)
    }
}

#[test]
fn loads() {
    let run = of("load_run", 100, 64);
    assert_clean(&run, &run.source);
    assert_eq!(run.run(&Config::checked(1, 0)).counters.copy_bytes, 400);
    let messages = [
        &["bulk load: global address", "is not 16-byte aligned"][..],
        &["bulk load: shared address 0x8 is not 16-byte aligned"],
        &["bulk load: 404 bytes, not a multiple of 16"],
        &["bulk load: shared address 0x1000 + 400 lies outside the block's 4104 bytes"],
        &["bulk load reads bytes 0 to 416 of a buffer of 400 bytes"],
        &["the block ends with a load in flight (issued by thread 0) that nobody waited for"],
        &["deadlock: block 0:", "lacks 0 of 1 arrivals, tx-count -16,"],
    ];
    for (bug, parts) in messages.iter().enumerate() {
        for guard in [Guard::End, Guard::Start] {
            assert_caught(&Run { variant: bug as i64 + 1, guard, ..run.clone() }, parts);
        }
    }
}

#[test]
fn groups_belong_to_a_thread_and_are_counted() {
    let (threads, tiles) = (32, 6);
    let run = Run { count: tiles, ..of("groups", (4 * threads * tiles) as usize, threads) };
    assert_clean(&run, &run.source);
    // The wait for the sources is one group too weak: buffers are written again before they are read.
    assert_garbage(&run, |outcome| outcome.target != run.source);
}

#[test]
fn an_empty_group_counts() {
    let threads = 32;
    let base = of("empty_group", 4 * threads, threads as i64);
    let run = Run { target_words: 5 * threads, ..base };
    let mut expected = run.source.clone();
    expected.extend(run.source.chunks(4).map(|words| words.iter().sum::<u32>()));
    assert_clean(&run, &expected);
    // The sum of four words that are not there yet.
    assert_garbage(&run, |outcome| outcome.target[4 * threads..].iter().all(|&sum| sum == 0xffff_fffc));
}

#[test]
fn stores() {
    let run = of("bad_store", 64, 32);
    assert_clean(&run, &run.source);
    let with = |variant| Run { variant, ..run.clone() };
    assert_caught(&with(0), &["bulk store writes bytes 0 to 272 of a buffer of 256 bytes"]);
    assert_caught(&with(1), &["the thread exits with a bulk store that it never committed"]);
    assert_caught(&with(2), &["the thread exits with a bulk store whose source it never waited for (wait_group.read)"]);
    assert_garbage(&with(3), |outcome| outcome.target[5] == 77);
}

#[test]
fn additions_are_exact_and_flush_subnormals() {
    let threads = 8;
    let subnormal = f32::from_bits(5);
    //             addend, start, sum
    let cases: [[f32; 3]; 8] = [
        [1.0, 100.0, 108.0],
        [-0.5, 4.0, 0.0],
        [0.25, f32::INFINITY, f32::INFINITY],
        [subnormal, 0.0, 0.0],
        [subnormal, 3.0, 3.0],
        [1.0, -subnormal, 8.0],
        [0.0, subnormal, 0.0],
        [-subnormal, -0.0, -0.0],
    ];
    let bits = |column: usize| cases.iter().map(move |case| case[column].to_bits());
    let run = Run { source: bits(0).chain(bits(1)).collect(), target_words: 8, ..of("add", 8, threads) };
    assert_clean(&run, &bits(2).collect::<Vec<u32>>());
    assert_eq!(run.run(&Config::checked(1, 0)).counters.copy_bytes, 32 + 8 * 32);
}

#[test]
fn blocks_add_to_one_another() {
    let run = Run {
        source: vec![2.0_f32.to_bits(); 8],
        target_start: Some(5.0_f32.to_bits()),
        target_words: 4,
        variant: 1,
        blocks: 40,
        ..of("add", 4, 8)
    };
    for (threads, resident) in [(1, 1), (4, 1), (2, 3)] {
        let config = Config { threads, resident, ..Config::checked(1, 1) };
        let outcome = run.run(&config);
        assert_eq!(outcome.failure, None);
        assert_eq!(f32::from_bits(outcome.target[0]), 5.0 + 40.0 * 8.0 * 2.0);
        // What was NaN stays so.
        assert!(outcome.target[1..].iter().all(|&word| f32::from_bits(word).is_nan()));
    }
}
