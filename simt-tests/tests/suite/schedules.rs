//! A seed is a schedule: the same one always, others with other seeds.

use std::collections::HashSet;

use lacuna_simt_tests::{Config, Family, PRIORITY, RANDOM_LANE, ROUND_ROBIN, Run, WARP_FIRST};

/// The order in which threads of a kernel with races draw tickets.
fn tickets(threads: i64, blocks: i64, config: &Config) -> Vec<u32> {
    let run = Run {
        count: 4,
        blocks,
        target_words: (threads * blocks * 4 + 1) as usize,
        target_start: Some(0),
        ..Run::new(Family::Collectives, "tickets", threads)
    };
    let outcome = run.run(config);
    assert_eq!(outcome.failure, None);
    outcome.target
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    for policy in [ROUND_ROBIN, RANDOM_LANE, WARP_FIRST, PRIORITY] {
        for (seed, resident) in (0..8).flat_map(|seed| [(seed, 1), (seed, 3)]) {
            let config = Config { resident, ..Config::checked(seed, policy) };
            let first = tickets(96, 4, &config);
            assert_eq!(tickets(96, 4, &config), first);
        }
    }
}

#[test]
fn other_seeds_give_other_schedules() {
    for policy in [RANDOM_LANE, WARP_FIRST, PRIORITY] {
        let orders: HashSet<_> = (0..10).map(|seed| tickets(96, 1, &Config::checked(seed, policy))).collect();
        assert_eq!(orders.len(), 10, "policy {policy}");
    }
    let policies: HashSet<_> = (0..4).map(|policy| tickets(96, 1, &Config::checked(1, policy))).collect();
    assert_eq!(policies.len(), 4);
}

#[test]
fn the_schedule_of_a_block_does_not_depend_on_the_cpu_threads() {
    let (threads, blocks) = (64, 6);
    // The tickets of each block, in the order in which its threads drew them.
    let by_block = |config: &Config| -> Vec<Vec<u32>> {
        let drawn = tickets(threads, blocks, config);
        let of = |block: u32| drawn[1..].iter().copied().filter(|who| who / threads as u32 == block).collect();
        (0..blocks as u32).map(of).collect()
    };
    for policy in [RANDOM_LANE, WARP_FIRST, PRIORITY] {
        let config = Config::checked(5, policy);
        let alone = by_block(&config);
        for cpu_threads in [2, 4] {
            assert!(by_block(&Config { threads: cpu_threads, ..config }) == alone, "{policy}");
        }
        assert!(by_block(&Config { random_blocks: 1, ..config }) == alone, "{policy}");
    }
}
