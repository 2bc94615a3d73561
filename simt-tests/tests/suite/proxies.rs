//! Ordinary writes to shared memory under asynchronous readers: the writer fences.

use lacuna_simt_tests::{Config, EARLY, Family, MIXED, Run, assert_caught, assert_clean, late_schedules};

const NO_FENCE: i64 = 1;
const FENCE_FIRST: i64 = 2;
const OTHER_THREAD_FENCES: i64 = 3;
const FENCE_BEFORE_THE_WAIT: i64 = 4;
const NO_WAIT: i64 = 5;

fn run(name: &'static str, variant: i64) -> Run {
    Run { variant, target_words: 256, smem_bytes: 5120, ..Run::new(Family::Proxies, name, 64) }
}

/// The bulk store names the writer and its line.
fn caught_by_the_store(name: &'static str, variant: i64) {
    assert_caught(&run(name, variant), &["bulk store reads shared memory at 0x", "without a fence.proxy.async"]);
}

#[test]
fn plain_stores() {
    let correct = run("plain_stores", 0);
    assert_clean(&correct, &correct.source);
    caught_by_the_store("plain_stores", NO_FENCE);
    caught_by_the_store("plain_stores", FENCE_FIRST);
    assert_caught(
        &run("plain_stores", OTHER_THREAD_FENCES),
        &["reads shared memory at 0x80, which thread 8 wrote (line "],
    );
}

#[test]
fn a_neighbour_does_not_fence_for_others() {
    let correct = run("neighbours", 0);
    assert_clean(&correct, &correct.source);
    caught_by_the_store("neighbours", NO_FENCE);
    assert_caught(&run("neighbours", OTHER_THREAD_FENCES), &["at 0x20, which thread 8 wrote (line "]);
}

#[test]
fn stmatrix() {
    let correct = run("matrix_stores", 0);
    assert_clean(&correct, &correct.source);
    caught_by_the_store("matrix_stores", NO_FENCE);
    caught_by_the_store("matrix_stores", FENCE_FIRST);
    assert_caught(&run("matrix_stores", OTHER_THREAD_FENCES), &["at 0x80, which thread 8 wrote"]);
}

#[test]
fn cp_async() {
    let correct = run("copies", 0);
    assert_clean(&correct, &correct.source);
    caught_by_the_store("copies", NO_FENCE);
    assert_caught(&run("copies", OTHER_THREAD_FENCES), &["at 0x80, which thread 8 wrote"]);
    let message = ["at 0x0, which the cp.async of thread 0 (line ", "has not been waited for"];
    assert_caught(&run("copies", NO_WAIT), &message);
    // The copy lands at the wait at the latest: a fence before it covers nothing.
    let early = run("copies", FENCE_BEFORE_THE_WAIT);
    caught_by_the_store(early.name, early.variant);
    // Whether this one landed early does not matter.
    for config in late_schedules() {
        for async_mode in [EARLY, MIXED] {
            let outcome = early.planted().run(&Config { async_mode, ..config });
            let message = "which thread 0 wrote (line ";
            assert!(outcome.message().contains(message), "{async_mode}: {}", outcome.message());
            assert!(outcome.message().contains("without a fence.proxy.async since its wait"));
        }
    }
}

#[test]
fn loads_over_ordinary_writes() {
    let correct = run("overwritten", 0);
    assert_clean(&correct, &correct.source);
    assert_caught(&run("overwritten", NO_FENCE), &["overwrites shared memory at 0x", "without a fence.proxy.async"]);
}

#[test]
fn asynchronous_writes_need_no_fence() {
    let run = run("asynchronous_both_ways", 0);
    assert_clean(&run, &run.source);
}

#[test]
fn operands_of_wgmma() {
    let run = |variant| Run { variant, smem_bytes: 2 * 64 * 128, ..Run::new(Family::Proxies, "operands", 128) };
    assert_clean(&run(0), &[1; 128]);
    assert_caught(&run(NO_FENCE), &["wgmma reads shared memory at 0x", "without a fence.proxy.async since"]);
    assert_caught(&run(OTHER_THREAD_FENCES), &["wgmma reads shared memory at 0x", "which thread 8 wrote"]);
}
