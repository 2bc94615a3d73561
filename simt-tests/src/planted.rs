//! The two sides of every planted bug: caught under each policy, and no false alarm for the correct twin.

use crate::config::{Config, EARLY, LATE, MIXED, POLICIES};
use crate::kernel::{Outcome, Run, Status};

/// What nobody has written: NaN in every float type, -1 as an index.
pub const POISON: u32 = 0xffff_ffff;

/// The gate for planted bugs: late completion with poison, each policy, five seeds.
pub fn late_schedules() -> impl Iterator<Item = Config> {
    POLICIES.into_iter().flat_map(|policy| (1..=5).map(move |seed| Config::checked(seed, policy)))
}

/// The gate for correct kernels: 25 seeds of each policy and each way to complete copies.
pub fn clean_schedules() -> impl Iterator<Item = Config> {
    let of = |policy, async_mode, seed| Config { async_mode, ..Config::checked(seed, policy) };
    POLICIES.into_iter().flat_map(move |policy| {
        [LATE, EARLY, MIXED].into_iter().flat_map(move |mode| (1..=25).map(move |seed| of(policy, mode, seed)))
    })
}

/// The planted twin of `run` fails under every late schedule, with a message that has all of `parts`, names the kernel
/// and says how to replay.
pub fn assert_caught(run: &Run, parts: &[&str]) {
    let run = run.planted();
    for config in late_schedules() {
        let outcome = run.run(&config);
        let Some((status, message)) = &outcome.failure else { panic!("{}: not caught under {config:?}", run.name) };
        assert_eq!(*status, Status::SimtError, "{message}");
        for part in parts {
            assert!(message.contains(part), "{}: expected \"{part}\" in: {message}", run.name);
        }
        assert_replay(run.name, message, &config);
    }
}

/// The message starts with the kernel's name and ends with the settings that replay it.
fn assert_replay(name: &str, message: &str, config: &Config) {
    assert!(message.starts_with(&format!("kernel {name}: ")), "{message}");
    let policy = ["round_robin", "random_lane", "warp_first", "priority"][config.policy as usize];
    let mode = ["late", "early", "mixed"][config.async_mode as usize];
    let replay = format!("[replay: seed={} policy={policy} async={mode} resident={}", config.seed, config.resident);
    assert!(message.contains(&replay) && message.ends_with(']'), "expected \"{replay}\" in: {message}");
}

/// The planted twin of `run` runs through, and `is_garbage` sees its result, under every late schedule.
pub fn assert_garbage(run: &Run, is_garbage: impl Fn(&Outcome) -> bool) {
    let run = run.planted();
    for config in late_schedules() {
        let outcome = run.run(&config);
        assert_eq!(outcome.failure, None, "{}", run.name);
        assert!(is_garbage(&outcome), "{}: not caught under {config:?}", run.name);
    }
}

/// The correct twin of `run` gives `expected` under every schedule, with the same counts.
pub fn assert_clean(run: &Run, expected: &[u32]) {
    let mut counters = None;
    for config in clean_schedules() {
        let outcome = run.run(&config);
        assert_eq!(outcome.failure, None, "{} under {config:?}", run.name);
        assert_eq!(outcome.target, expected, "{} under {config:?}", run.name);
        let first = *counters.get_or_insert(outcome.counters);
        assert_eq!(outcome.counters, first, "{} under {config:?}", run.name);
    }
}
