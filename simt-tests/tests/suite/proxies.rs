//! Ordinary writes to shared memory under asynchronous readers: the writer fences.

use lacuna_simt_tests::{Family, Run, assert_caught, assert_clean};

const NO_FENCE: i64 = 1;
const FENCE_FIRST: i64 = 2;
const OTHER_THREAD_FENCES: i64 = 3;
const FENCE_BEFORE_THE_WAIT: i64 = 4;

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
    // The copy lands at the wait at the latest: a fence before it covers nothing.
    caught_by_the_store("copies", FENCE_BEFORE_THE_WAIT);
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
