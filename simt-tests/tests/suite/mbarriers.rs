//! mbarriers: rings, phases, counts, misuse, and lanes that fall behind.

use lacuna_simt_tests::{
    Config, EARLY, Family, POLICIES, PRIORITY, Run, assert_caught, assert_clean, clean_schedules, late_schedules,
};

/// The sum of four poisoned words.
const POISONED_SUM: u32 = 0xffff_fffc;
const TILE_WORDS: usize = 128;
const CONSUMERS: usize = 256;

// Variants of `ring`, as kernels/mbarriers.cu numbers them.
const SECOND_SKIPS: i64 = 3;
// Of its planted twin.
const MISSING_ARRIVE: i64 = 0;
const PRODUCER_PARITY: i64 = 1;
const CONSUMER_PARITY: i64 = 2;
const COUNT_TOO_LARGE: i64 = 3;
const NO_FULL_WAIT: i64 = 4;
const POLL_ONCE: i64 = 5;
const STRAGGLERS: i64 = 6;

/// A ring of three stages: a producer warp in a warpgroup of its own, two consumer warpgroups.
fn ring(tiles: usize, variant: i64) -> Run {
    Run {
        source: (0..tiles * TILE_WORDS).map(|i| i as u32 * 5 + 2).collect(),
        target_words: tiles * CONSUMERS,
        count: tiles as i64,
        variant,
        smem_bytes: 3 * 4 * TILE_WORDS as i64 + 6 * 8,
        ..Run::new(Family::Mbarriers, "ring", 384)
    }
}

fn ring_sums(run: &Run) -> Vec<u32> {
    let sums: Vec<u32> = run.source.chunks(4).map(|words| words.iter().sum()).collect();
    let seen =
        |tile: usize, thread: usize| run.variant != SECOND_SKIPS || tile.is_multiple_of(2) || thread < CONSUMERS / 2;
    (0..run.count as usize)
        .flat_map(|tile| (0..CONSUMERS).map(move |thread| (tile, thread)))
        .map(|(tile, thread)| if seen(tile, thread) { sums[32 * tile + thread % 32] } else { 0 })
        .collect()
}

fn of_pair(name: &'static str, threads: i64) -> Run {
    Run { smem_bytes: 32, ..Run::new(Family::Mbarriers, name, threads) }
}

fn caught_in_variants(run: &Run, messages: &[&[&str]]) {
    assert_clean(run, &vec![1; run.threads as usize]);
    for (variant, parts) in messages.iter().enumerate() {
        assert_caught(&Run { variant: variant as i64, ..run.clone() }, parts);
    }
}

/// Consumers of the planted ring read poison. They may also free a stage before the producer has waited for it, which
/// then waits for the phase after.
fn read_before_they_have_come(variant: i64) {
    for config in late_schedules() {
        let outcome = ring(2, variant).planted().run(&config);
        assert!(outcome.target.contains(&POISONED_SUM), "{variant}: not caught under {config:?}");
        let message = outcome.message();
        assert!(message.is_empty() || message.contains("phase 1 lacks 8 of 8 arrivals"), "{message}");
    }
}

#[test]
fn rings_are_clean() {
    // All lanes wait; one elected lane; polling; consumers that skip; 256 arrivals a stage.
    for variant in 0..5 {
        let run = ring(8, variant);
        assert_clean(&run, &ring_sums(&run));
    }
}

#[test]
fn missing_arrival() {
    let report = [
        "deadlock: block 0: warp 0 lanes 0xffffffff wait in mbarrier_wait (line",
        "phase 0 lacks 1 of 8 arrivals, tx-count 0, awaited by warps 0x1;",
    ];
    assert_caught(&ring(8, MISSING_ARRIVE), &report);
}

#[test]
fn wrong_parity() {
    // The producer waits for consumers that wait for it.
    let report = [
        "deadlock: block 0:",
        "phase 0 lacks 8 of 8 arrivals, tx-count 0, awaited by warps 0x1;",
        "phase 0 lacks 1 of 1 arrivals, tx-count 0, awaited by warps 0xff0;",
    ];
    assert_caught(&ring(8, PRODUCER_PARITY), &report);
    read_before_they_have_come(CONSUMER_PARITY);
}

#[test]
fn count_too_large() {
    assert_caught(&ring(8, COUNT_TOO_LARGE), &["deadlock: block 0:", "phase 0 lacks 1 of 9 arrivals, tx-count 0"]);
}

#[test]
fn missing_wait_and_a_poll_without_a_loop() {
    read_before_they_have_come(NO_FULL_WAIT);
    read_before_they_have_come(POLL_ONCE);
}

#[test]
fn tx_counts() {
    let messages: &[&[&str]] = &[
        &["thread 0 ", ": more than the 2 arrivals of phase 0 (48 bytes missing)"],
        &["deadlock", "phase 0 lacks 0 of 2 arrivals, tx-count 16, awaited by warps 0x3;"],
        &["thread 0 ", "the tx-count overflows (48 bytes missing, 1048575 more announced)"],
        &[
            "the copy completes at the mbarrier at shared address 0x0 (initialised at line",
            "but its tx-count overflows",
        ],
        &["deadlock", "phase 0 lacks 0 of 2 arrivals, tx-count -16, awaited by warps 0x3;"],
    ];
    caught_in_variants(&of_pair("bytes", 64), messages);
}

#[test]
fn misuse() {
    let messages: &[&[&str]] = &[
        &["thread 0 ", "mbarrier_arrive: no mbarrier was initialised at shared address 0x0"],
        &["thread 0 ", "mbarrier_init: the mbarrier at shared address 0x0 was already initialised at line"],
        &["thread 0 ", "mbarrier_arrive: the mbarrier at shared address 0x0, initialised at line", "was overwritten"],
        &["mbarrier_wait: the mbarrier at shared address 0x0, initialised at line", "was overwritten"],
        &["thread 0 ", "mbarrier_init: 0 arrivals, not 1 to 2^20 - 1"],
        &["thread 0 ", "mbarrier_init: 1048576 arrivals, not 1 to 2^20 - 1"],
        &["thread 0 ", "mbarrier_init: shared address 0x4 is not 8-byte aligned"],
        &["thread 0 ", "mbarrier_init: shared address 0x20 + 8 lies outside the block's 32 bytes"],
        &["mbarrier_wait: parity 2"],
    ];
    caught_in_variants(&of_pair("misuse", 64), messages);
}

#[test]
fn lane_that_falls_behind_its_warp() {
    let late = "the lane is behind the others of its warp: it comes to wait for phase 1 when phase 4 is current";
    caught_in_variants(&of_pair("late_lane", 32), &[&["mbarrier at shared address 0x0", late]]);
}

#[test]
fn stragglers_of_a_producer_warp_are_found_in_some_schedules() {
    // Nothing waits for all lanes of a warp, but most schedules keep them close enough: only many seeds tell.
    let run = ring(24, STRAGGLERS).planted();
    let mut found = 0;
    for seed in 1..=100 {
        let outcome = run.run(&Config { async_mode: EARLY, ..Config::checked(seed, PRIORITY) });
        let message = outcome.message();
        let named = ["the lane is behind", "before this thread saw that phase", "have made fewer waits than others"];
        assert!(message.is_empty() || named.iter().any(|part| message.contains(part)), "{message}");
        found += usize::from(!message.is_empty());
    }
    assert!(found > 5, "{found}");
}

#[test]
fn lanes_that_do_different_things_are_not_behind() {
    for variant in 0..3 {
        let run = Run { variant, count: 40, ..of_pair("uneven_lanes", 64) };
        assert_clean(&run, &[1; 64]);
    }
}

#[test]
fn phase_that_overruns_its_waiters() {
    let overrun = "phase 1 completed before this thread saw that phase 0 had";
    caught_in_variants(&of_pair("overrun", 96), &[&["mbarrier at shared address 0x0", overrun]]);
}

#[test]
fn polling_without_end_names_the_mbarrier() {
    let run = of_pair("poll_for_ever", 64);
    assert_clean(&run, &[1; 64]);
    let outcome = run.planted().run(&Config::checked(1, POLICIES[0]));
    for part in ["livelock, all running threads poll", "mbarrier at shared address 0x0", "lacks 1 of 1 arrivals"] {
        assert!(outcome.message().contains(part), "{part} in: {}", outcome.message());
    }
}

#[test]
fn a_poll_says_no_now_and_then() {
    let run = of_pair("spurious_no", 32);
    for config in clean_schedules().filter(|config| config.seed < 4) {
        let outcome = run.run(&config);
        assert_eq!(outcome.failure, None);
        let no: u32 = outcome.target.iter().sum();
        assert!((1..32 * 64 / 2).contains(&no), "{no} under {config:?}");
    }
    // Never without checks: nothing is gained there.
    assert_eq!(run.run(&Config::fast()).target, [0; 32]);
}

#[test]
fn a_failing_launch_leaves_nothing_behind() {
    let run = ring(8, 0);
    for config in late_schedules() {
        assert!(run.planted().run(&config).failure.is_some());
        assert_eq!(run.run(&config).target, ring_sums(&run));
    }
}
