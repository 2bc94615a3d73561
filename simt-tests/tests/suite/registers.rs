//! `setmaxnreg` and `elect`.

use std::collections::HashSet;

use lacuna_simt_tests::{Config, Family, POLICIES, Run, assert_caught, assert_clean, clean_schedules, late_schedules};

#[test]
fn register_budget() {
    let run = Run::new(Family::Registers, "budget", 384);
    assert_clean(&run, &[1; 384]);
    let messages: &[&[&str]] = &[
        &[
            "deadlock: block 0:",
            "lanes 0xffffffff wait in setmaxnreg.inc (line",
            "warp 4 has 168 registers a thread and wants 240, warp 5 ",
            ": the block's pool holds 0, no warp has executed setmaxnreg.dec;",
        ],
        &["(warp 3, lane ", "the thread exits without the setmaxnreg.dec 24 that other warps of its warpgroup execute"],
        &["setmaxnreg.dec ", ": another warp of the warpgroup executes setmaxnreg.dec "],
        &["setmaxnreg.dec 176: the warp has 168 registers a thread"],
        &["setmaxnreg.inc 160: the warp has 168 registers a thread"],
        &["deadlock: block 0:", " has 168 registers a thread and wants 240: the block's pool holds 256;"],
        &["(warp 3, lane ", "divergent warp: "],
    ];
    for (variant, parts) in messages.iter().enumerate() {
        assert_caught(&Run { variant: variant as i64, ..run.clone() }, parts);
    }
    let odd = Run { threads: 320, ..run };
    let message = odd.run(&Config::checked(1, 0)).message().to_string();
    assert!(message.contains("setmaxnreg.dec: the block's 320 threads are no whole number of warpgroups"), "{message}");
}

#[test]
fn registers_come_and_go() {
    let run = Run::new(Family::Registers, "back_and_forth", 128);
    assert_clean(&run, &[1; 128]);
    assert_caught(&run, &["setmaxnreg.inc: warp ", "before all warps of its warpgroup executed that of line "]);
}

#[test]
fn one_lane_is_elected_throughout_a_launch() {
    let run = Run { blocks: 3, target_words: 6, ..Run::new(Family::Registers, "election", 64) };
    let lane_of = |seed| {
        let lanes: HashSet<u32> = clean_schedules()
            .filter(|config| config.seed == 1)
            .flat_map(|config| run.run(&Config { seed, ..config }).target)
            .collect();
        assert!(lanes.len() == 1 && lanes.iter().all(|&lane| lane < 32), "{lanes:?}");
        lanes.into_iter().next().unwrap()
    };
    let drawn: HashSet<u32> = (0..100).map(lane_of).collect();
    assert!(drawn.len() > 24, "{} lanes from 100 seeds", drawn.len());
}

#[test]
fn half_of_a_warp_cannot_elect() {
    let run = Run { target_words: 2, ..Run::new(Family::Registers, "election", 64) };
    for config in late_schedules() {
        let message = run.planted().run(&config).message().to_string();
        // The other half exits before the elections or during the first.
        let early = message.contains("elect.sync: lanes 0x0000") && message.contains("have exited");
        let later =
            message.contains("the thread exits while lanes 0x") && message.contains("wait for it in elect.sync");
        assert!(early || later, "{message}");
    }
}

#[test]
fn the_elected_lane_is_not_lane_0() {
    let run = Run { target_words: 4, smem_bytes: 16, ..Run::new(Family::Registers, "not_lane_0", 32) };
    assert_clean(&run, &run.source[..4]);
    // The gate's seeds elect another one.
    let gate: Vec<u64> = late_schedules().map(|config| config.seed).collect();
    assert!(gate.len() == 5 * POLICIES.len() && !gate.contains(&0));
    assert_caught(&run, &["the thread exits with a cp.async that it never waited for"]);
}
