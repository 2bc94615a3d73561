//! `cp.async`: waits, groups, sizes, and what a copy may touch.

use lacuna_simt_tests::{
    Config, EARLY, Family, Guard, Outcome, POLICIES, Run, assert_caught, assert_clean, assert_garbage,
};

const THREADS: usize = 64;
const SMEM_BYTES: i64 = 3 * 4 * 256 * 4;
/// The sum of four poisoned words.
const POISONED_SUM: u32 = 0xffff_fffc;

fn tiles(name: &'static str, tiles: usize) -> Run {
    Run {
        source: (0..tiles * THREADS * 4).map(|i| i as u32 * 5 + 2).collect(),
        target_words: tiles * THREADS,
        count: tiles as i64,
        smem_bytes: SMEM_BYTES,
        ..Run::new(Family::Copies, name, THREADS as i64)
    }
}

fn own_sums(run: &Run) -> Vec<u32> {
    run.source.chunks(4).map(|words| words.iter().sum()).collect()
}

fn poisoned(outcome: &Outcome) -> bool {
    outcome.target.contains(&POISONED_SUM)
}

#[test]
fn missing_wait() {
    let run = tiles("missing_wait", 1);
    assert_clean(&run, &own_sums(&run));
    assert_garbage(&run, poisoned);
}

#[test]
fn wait_one_too_weak() {
    let run = tiles("weak_wait", 2);
    assert_clean(&run, &own_sums(&run));
    assert_garbage(&run, |outcome| {
        let (first, second) = outcome.target.split_at(THREADS);
        // The first group is covered by the weak wait, the second is not.
        first == &own_sums(&run)[..THREADS] && second.iter().all(|&word| word == POISONED_SUM)
    });
}

#[test]
fn tail_without_its_empty_commit() {
    let run = tiles("tail_without_commit", 5);
    assert_clean(&run, &own_sums(&run));
    assert_garbage(&run, |outcome| outcome.target[4 * THREADS..].contains(&POISONED_SUM));
}

#[test]
fn early_completion_hides_missing_waits() {
    // Why the gate is late: the same bugs pass when copies complete at issue.
    for policy in POLICIES {
        let config = Config { async_mode: EARLY, ..Config::checked(1, policy) };
        assert!(!poisoned(&tiles("weak_wait", 2).planted().run(&config)));
    }
}

#[test]
fn exit_with_a_copy_in_flight() {
    let run = Run { target_words: 0, ..tiles("exit_without_wait", 1) };
    assert_clean(&run, &[]);
    assert_caught(&run, &["the thread exits with a cp.async that it never waited for", ", line "]);
}

#[test]
fn copy_that_is_never_committed() {
    let run = tiles("never_committed", 1);
    assert_clean(&run, &own_sums(&run));
    assert_caught(&run, &["the thread exits with a cp.async that it never waited for"]);
}

#[test]
fn junk_pointer_with_source_size_0_is_legal() {
    assert_clean(&tiles("junk_pointer", 1), &[0; THREADS]);
}

#[test]
fn past_and_before_a_tensor() {
    // 98 words: 24 whole pieces and a half one. Threads 25 and on copy nothing.
    let words = 98;
    let mut run = Run { count: words as i64, source: (1..=words).collect(), ..tiles("past_the_tensor", 1) };
    let mut expected: Vec<u32> = run.source.chunks(4).map(|piece| piece.iter().sum()).collect();
    expected.resize(THREADS, 0);
    for guard in [Guard::End, Guard::Start] {
        run.guard = guard;
        run.variant = 0;
        assert_clean(&run, &expected);
        assert_caught(&run, &["thread 24 ", "cp.async reads bytes 384 to 400 of a buffer of 392 bytes"]);
        run.variant = 1;
        assert_caught(&run, &["cp.async reads", "past the end of a buffer of 392 bytes"]);
        run.variant = 2;
        assert_caught(&run, &["thread 0 ", "cp.async reads", "16 bytes before the start of a buffer of 392 bytes"]);
    }
}

#[test]
fn bad_operands() {
    let messages = [
        &["cp.async: source", "is not 16-byte aligned"][..],
        &["cp.async: shared address", "is not 16-byte aligned"],
        &["cp.async: shared address", "lies outside the block's 12288 bytes"],
        &["cp.async: source size 20"],
    ];
    for (variant, parts) in messages.iter().enumerate() {
        let run = Run { variant: variant as i64, ..tiles("bad_operands", 1) };
        assert_caught(&run, &[parts, &["thread 7 (warp 0, lane 7), line "][..]].concat());
    }
    let run = tiles("bad_operands", 1);
    assert_clean(&run, &own_sums(&run));
}

#[test]
fn copied_bytes_are_exact() {
    let count = |run: &Run| run.run(&Config::checked(1, 2)).counters.copy_bytes;
    assert_eq!(count(&tiles("tail_without_commit", 5)), 5 * 64 * 16);
    // Zero fill does not count.
    assert_eq!(count(&tiles("junk_pointer", 1)), 0);
    let run = Run { count: 98, source: (1..=98).collect(), ..tiles("past_the_tensor", 1) };
    assert_eq!(count(&run), 98 * 4);
}
