//! `__syncthreads`: missing, divergent, with exited warps.

use lacuna_simt_tests::{Config, Family, Run, assert_caught, assert_clean, assert_garbage, late_schedules};

const THREADS: usize = 128;
/// The sum of four poisoned words.
const POISONED_SUM: u32 = 0xffff_fffc;

/// `tiles` tiles of four words a thread; the result is a sum a thread and tile.
fn tiles(name: &'static str, tiles: usize, smem_bytes: i64) -> Run {
    Run {
        source: (0..tiles * THREADS * 4).map(|i| i as u32 * 7 + 1).collect(),
        target_words: tiles * THREADS,
        count: tiles as i64,
        smem_bytes,
        ..Run::new(Family::Barriers, name, THREADS as i64)
    }
}

fn sums_of_others(run: &Run) -> Vec<u32> {
    let tile = |t: usize| (0..THREADS).map(move |thread| 4 * (t * THREADS + (thread + 33) % THREADS));
    (0..run.count as usize).flat_map(tile).map(|at| run.source[at..at + 4].iter().sum()).collect()
}

fn caught_as_poison(run: &Run) {
    assert_clean(run, &sums_of_others(run));
    assert_garbage(run, |outcome| outcome.target.contains(&POISONED_SUM));
}

#[test]
fn missing_after_copy() {
    caught_as_poison(&tiles("no_barrier_after_copy", 1, 4096));
}

#[test]
fn missing_before_overwrite() {
    caught_as_poison(&tiles("no_barrier_before_overwrite", 3, 4096));
}

#[test]
fn stage_refilled_before_its_readers_are_done() {
    caught_as_poison(&tiles("stage_refilled_early", 4, 8192));
}

/// The kernel writes the lines of its two barriers into the target before it comes to them.
fn lines(run: &Run) -> Vec<u32> {
    run.run(&Config::checked(1, 0)).target
}

#[test]
fn two_sites() {
    let run = Run { target_words: 2, ..Run::new(Family::Barriers, "two_sites", THREADS as i64) };
    let lines = lines(&run);
    assert_clean(&run, &lines);
    assert_caught(&run, &["__syncthreads meets another one of the same block at line"]);
    for config in late_schedules() {
        let message = run.planted().run(&config).message().to_string();
        assert!(lines.iter().all(|line| message.contains(&format!("line {line}"))), "{lines:?} in: {message}");
    }
}

#[test]
fn part_of_a_warp_deadlocks_and_the_report_says_who_waits_on_what() {
    let run = Run { target_words: 2, ..Run::new(Family::Barriers, "part_of_a_warp", 64) };
    let [block, warp] = lines(&run)[..] else { panic!("two lines") };
    assert_clean(&run, &[block, warp]);
    let parts: Vec<String> = (0..2)
        .flat_map(|w| {
            [
                format!("warp {w} lanes 0x0000ffff wait in __syncthreads (line {block});"),
                format!("warp {w} lanes 0xffff0000 wait in __syncwarp (line {warp});"),
            ]
        })
        .chain(["deadlock: block 0:".to_string()])
        .collect();
    assert_caught(&run, &parts.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn one_barrier_more_in_half_of_the_warps() {
    let run = Run::new(Family::Barriers, "one_barrier_more", 64);
    assert_clean(&run, &[1; 64]);
    assert_caught(&run, &["__syncthreads meets another one of the same block at line"]);
}

#[test]
fn exited_warps_are_legal() {
    let run = Run { target_words: 32, smem_bytes: 4096, ..Run::new(Family::Barriers, "exited_warps", 160) };
    // target[t] = tile[31 - t] after tile[t] = source[63 - t]: source[32 + t].
    assert_clean(&run, &run.source[32..64]);
}

#[test]
fn counts_are_exact() {
    let run = Run { count: 6, blocks: 5, ..Run::new(Family::Barriers, "count_barriers", 96) };
    let counters = run.run(&Config::checked(3, 1)).counters;
    assert_eq!(counters.barriers, 6 * 5);
    assert_eq!(counters.collectives, 2 * 6 * 5 * 3); // three warps
    assert_eq!((counters.launches, counters.mma_macs, counters.copy_bytes), (1, 0, 0));
    assert_clean(&run, &[1; 96]);
}
