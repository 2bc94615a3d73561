//! `bar.sync` and `bar.arrive`: turns, hand-overs, operands, divergence.

use lacuna_simt_tests::{Family, POISON, Run, assert_caught, assert_clean, assert_garbage};

fn ones(name: &'static str, threads: i64) -> Run {
    Run::new(Family::NamedBarriers, name, threads)
}

fn caught_in_variants(run: &Run, messages: &[&[&str]]) {
    for (variant, parts) in messages.iter().enumerate() {
        assert_caught(&Run { variant: variant as i64, ..run.clone() }, parts);
    }
}

#[test]
fn ping_pong() {
    let run = Run { count: 6, target_words: 12, smem_bytes: 16, ..ones("ping_pong", 256) };
    assert_clean(&run, &[1, 2].repeat(6));
    let messages: &[&[&str]] = &[
        // Nobody is primed: both wait.
        &[
            "deadlock: block 0: warp 0 lanes 0xffffffff wait in bar.sync (line",
            "barrier 1: 128 of 256 threads have come, warps 0xf; barrier 2: 128 of 256 threads have come, warps 0xf0;",
        ],
        // The first warpgroup arrives at its own barrier, then waits at it.
        &["bar.sync 1: warp ", " arrives twice in a phase ("],
    ];
    caught_in_variants(&run, messages);
}

#[test]
fn hand_over() {
    let source: Vec<u32> = (0..3 * 128).map(|i| i * 3 + 1).collect();
    let run = Run { count: 3, source, target_words: 3 * 128, smem_bytes: 512, ..ones("hand_over", 160) };
    assert_clean(&run, &run.source);
    // One tile: with more, whoever does not wait also arrives twice.
    assert_garbage(&Run { count: 1, target_words: 128, ..run }, |outcome| outcome.target == [POISON; 128]);
}

#[test]
fn operands() {
    let run = ones("operands", 96);
    assert_clean(&run, &[1; 96]);
    let messages: &[&[&str]] = &[
        &["bar.sync 3: warp ", " threads, line ", " in the same phase"],
        &["bar.sync 3: 80 threads, not a multiple of 32 up to 1024"],
        &["bar.sync 3: 128 threads, but the block has 96"],
        &["bar.sync 3: 0 threads, not a multiple of 32 up to 1024"],
        &["bar.sync: barrier 0 is the one of sync_threads"],
        &["bar.sync: barrier 16, not 1 to 15"],
        &["bar.arrive 3: warp 0 arrives twice in a phase (32 of 96 threads have come, the first at line "],
    ];
    caught_in_variants(&run, messages);
}

#[test]
fn divergence() {
    let run = ones("divergence", 96);
    assert_clean(&run, &[1; 96]);
    let messages: &[&[&str]] = &[
        &["divergent warp: bar.sync 3, 96 meets bar.sync 3, 96 of line "],
        &["divergent warp: bar.sync ", ", 96 meets bar.sync ", "(warp 0, lane "],
        &["divergent warp: bar.", " 3, 96 meets bar.", "(warp 0, lane "],
        &[
            "warp 0 lanes 0x0000ffff wait in __syncwarp (line ",
            "warp 0 lanes 0xffff0000 wait in bar.sync (line ",
            "barrier 3: 64 of 96 threads have come, warps 0x6;",
        ],
    ];
    caught_in_variants(&run, messages);
}

#[test]
fn exited_lanes_are_legal() {
    let run = Run { target_words: 48, ..ones("exited_lanes", 96) };
    assert_clean(&run, &[1; 48]);
}
