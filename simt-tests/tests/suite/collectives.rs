//! Warp collectives: masks, divergence, and their results.

use lacuna_simt_tests::{
    Config, Family, POISON, ROUND_ROBIN, Run, WARP_FIRST, assert_caught, assert_clean, assert_garbage, late_schedules,
};

fn run(name: &'static str, threads: i64) -> Run {
    Run { smem_bytes: 4096, ..Run::new(Family::Collectives, name, threads) }
}

#[test]
fn exchange_without_syncwarp() {
    let run = run("exchange", 64);
    let expected: Vec<u32> = (0..64).map(|thread| run.source[thread ^ 5]).collect();
    assert_clean(&run, &expected);
    assert_garbage(&run, |outcome| outcome.target.contains(&POISON));
}

#[test]
fn exchange_without_syncwarp_before_the_next_round() {
    let run = Run { count: 4, ..run("exchange_rounds", 64) };
    let mut expected = run.source[..64].to_vec();
    for _ in 0..run.count {
        expected = (0..64).map(|t| expected[t ^ 1].wrapping_add(expected[t ^ 2])).collect();
    }
    assert_clean(&run, &expected);
    assert_garbage(&run, |outcome| outcome.target != expected);
}

#[test]
fn exited_lane_in_a_mask() {
    let run = run("exited_lane", 64);
    let expected: Vec<u32> = (0..64).map(|t| if t % 32 == 31 { POISON } else { 1 }).collect();
    assert_clean(&run, &expected);
    caught_at_exit(&run, "__syncwarp", 31);
}

/// A lane that others name in a mask has returned: found when it leaves, or when the others come, by who is first.
fn caught_at_exit(run: &Run, instruction: &str, lane: u32) {
    let later = format!("{instruction}: lanes {:#010x} of mask 0xffffffff have exited", 1u32 << lane);
    let (mut left_first, mut waited_first) = (0, 0);
    for config in late_schedules() {
        let outcome = run.planted().run(&config);
        let message = outcome.message();
        let waited = message.contains("the thread exits while lanes 0x")
            && message.contains(&format!("of its warp wait for it in {instruction}"));
        waited_first += i32::from(waited);
        left_first += i32::from(message.contains(&later));
        assert!(waited || message.contains(&later), "{message}");
    }
    assert!(left_first > 0 && waited_first > 0);
}

#[test]
fn lane_outside_its_mask() {
    let run = run("outside_mask", 64);
    assert_clean(&run, &[1; 64]);
    assert_caught(&run, &["lane 20), line ", "__syncwarp: lane 20 is not in its mask 0x0000ffff"]);
}

#[test]
fn two_half_masks_are_legal() {
    let run = run("half_masks", 64);
    let mut values = run.source[..64].to_vec();
    for half in 0..4 {
        let (rounds, partner) = if half % 2 == 0 { (5, 3) } else { (9, 7) };
        for _ in 0..rounds {
            let before = values.clone();
            for t in 16 * half..16 * half + 16 {
                values[t] = before[t].wrapping_add(before[t ^ partner]);
            }
        }
    }
    assert_clean(&run, &values);
}

#[test]
fn mask_with_lanes_that_do_not_exist() {
    let run = run("short_warp", 48);
    assert_clean(&run, &[1; 48]);
    assert_caught(&run, &["__syncwarp: mask 0xffffffff names lanes that the warp lacks (it has 0x0000ffff)"]);
}

#[test]
fn divergent_collectives() {
    let run = run("divergent", 32);
    assert_clean(&run, &[u32::MAX; 32]);
    assert_caught(&run, &["divergent warp: ", "ballot", "redux.min"]);
    assert_caught(&Run { variant: 1, ..run }, &["divergent warp: ballot meets ballot of line "]);
}

#[test]
fn lane_that_leaves_while_others_wait() {
    let run = run("leaves_early", 64);
    assert_clean(&run, &[[3; 32], [35; 32]].concat());
    caught_at_exit(&run, "shfl", 3);
}

#[test]
fn masks_that_wait_for_each_other() {
    let run = run("overlapping_masks", 32);
    assert_clean(&run, &[1; 32]);
    assert_caught(&run, &["deadlock: block 0: warp 0 lanes 0xffffffff wait in __syncwarp (line "]);
}

#[test]
fn shuffle_from_nowhere() {
    let run = run("shuffle_source", 32);
    assert_clean(&run, &[31; 32]);
    assert_caught(&run, &["shfl: source lane 32"]);
}

#[test]
fn values() {
    let source: Vec<i32> = (0..64).map(|t| (t * 7919 + 13) % 101 - 50).collect();
    let run = Run { source: source.iter().map(|&v| v as u32).collect(), target_words: 64 * 14, ..run("values", 64) };
    let maximum = |values: &[f32]| values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = |v: [f32; 4]| (v[0] + v[1]) + (v[2] + v[3]);
    // The two halves of the warp are added, then those of the rest.
    let butterfly = |warp: &[i32]| {
        let mut sums: Vec<f32> = warp.iter().map(|&v| v as f32).collect();
        sums.iter_mut().enumerate().filter(|(lane, _)| lane % 7 == 5).for_each(|(_, sum)| *sum = 1e8);
        while sums.len() > 1 {
            let (low, high) = sums.split_at(sums.len() / 2);
            sums = low.iter().zip(high).map(|(a, b)| a + b).collect();
        }
        sums[0]
    };
    let expected: Vec<u32> = (0..64usize)
        .flat_map(|t| {
            let (warp, lane) = (&source[t / 32 * 32..][..32], t % 32);
            let quad: Vec<f32> = warp[lane / 4 * 4..][..4].iter().map(|&v| v as f32).collect();
            let negative: Vec<f32> = quad.iter().map(|v| -v).collect();
            [
                warp[(5 * lane + 3) % 32] as u32,
                warp.iter().enumerate().map(|(i, v)| ((v & 1) as u32) << i).sum(),
                *warp.iter().min().unwrap() as u32,
                maximum(&quad).to_bits(),
                maximum(&negative).to_bits(),
                sum([quad[0], quad[1], quad[2], quad[3]]).to_bits(),
                sum([1e8 + 1.0, 1.0, 1.0, 1.0]).to_bits(),
                maximum(&[quad[0], quad[1], quad[3]]).to_bits(),
                source[t].count_ones(),
                0,
                1,
                t as u32,
                warp.iter().fold(0u32, |sum, &v| sum.wrapping_add((v as u32) << 26)),
                butterfly(warp).to_bits(),
            ]
        })
        .collect();
    assert_clean(&run, &expected);
}

#[test]
fn a_thread_that_polls_does_not_starve_the_one_it_waits_for() {
    for threads in [2, 32, 33, 256] {
        let run = Run { target_words: 2, target_start: Some(0), ..run("poll", threads) };
        for config in late_schedules() {
            for resident in [1, 2] {
                let outcome = run.run(&Config { resident, ..config });
                assert_eq!(outcome.target, [1, 1], "{config:?}");
            }
        }
    }
}

#[test]
fn polling_without_end_is_reported() {
    let run = Run { target_words: 2, target_start: Some(0), ..run("poll", 64) };
    for policy in [ROUND_ROBIN, WARP_FIRST] {
        let outcome = run.planted().run(&Config::checked(1, policy));
        for part in ["livelock, all running threads poll", "warp 0 lanes 0x00000001 can run;", "__syncthreads"] {
            assert!(outcome.message().contains(part), "{part} in: {}", outcome.message());
        }
    }
}
