//! Many blocks: every one runs once, in index order or a seeded one, on any number of CPU threads.

use std::collections::HashSet;

use lacuna_simt_tests::{Config, Family, Run};

fn order(blocks: i64, config: &Config) -> Vec<u32> {
    let run = Run {
        blocks,
        target_words: blocks as usize + 1,
        target_start: Some(0),
        ..Run::new(Family::Limits, "block_order", 33)
    };
    let outcome = run.run(config);
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.target[0], blocks as u32);
    outcome.target[1..].to_vec()
}

#[test]
fn blocks_start_in_order() {
    assert_eq!(order(50, &Config::checked(3, 0)), (0..50).collect::<Vec<_>>());
}

#[test]
fn random_order_is_a_permutation_of_the_seed() {
    let random = |seed| Config { random_blocks: 1, ..Config::checked(seed, 0) };
    let mut seen = HashSet::new();
    for seed in 0..20 {
        let drawn = order(50, &random(seed));
        let mut sorted = drawn.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_eq!(order(50, &random(seed)), drawn);
        seen.insert(drawn);
    }
    assert!(seen.len() > 15, "{} orders from 20 seeds", seen.len());
    let small: HashSet<Vec<u32>> = (0..100).map(|seed| order(3, &random(seed))).collect();
    assert!(small.contains(&vec![2, 1, 0]) && small.contains(&vec![0, 1, 2]), "{small:?}");
    assert_eq!(order(1, &random(7)), [0]);
}

#[test]
fn every_block_runs_once_on_any_number_of_threads() {
    for threads in [1, 2, 5, 64] {
        for resident in [1, 3, 64] {
            for random_blocks in [0, 1] {
                let config = Config { threads, resident, random_blocks, ..Config::checked(5, 1) };
                let mut blocks = order(40, &config);
                blocks.sort_unstable();
                assert_eq!(blocks, (0..40).collect::<Vec<_>>(), "{config:?}");
            }
        }
    }
}
