//! Launch limits and invalid settings.

use lacuna_simt_tests::{Config, Family, LATE, Run, Status, Stream, assert_clean};

fn cover(blocks: i64, threads: i64) -> Run {
    let target_words = (blocks.clamp(1, 1000) * threads.clamp(1, 1024)) as usize;
    Run { blocks, threads, target_words, ..Run::new(Family::Limits, "cover", 32) }
}

fn refused(run: &Run, config: &Config, part: &str) {
    let outcome = run.run(config);
    let (status, message) = outcome.failure.expect("a launch beyond the limits");
    assert_eq!(status, Status::SimtError);
    assert!(message.contains(part) && message.starts_with(&format!("kernel {}: ", run.name)), "{message}");
    // Nothing has run.
    assert!(outcome.target.iter().all(|&word| word == u32::MAX));
    assert_eq!(outcome.counters.launches, 0);
}

#[test]
fn threads_and_grid() {
    let config = Config::checked(1, 0);
    for threads in [1, 31, 32, 33, 1024] {
        let run = cover(3, threads);
        assert_eq!(run.run(&config).target, (0..3 * threads as u32).collect::<Vec<_>>());
    }
    for threads in [1025, 0, -1, 1 << 20] {
        refused(&cover(1, threads), &config, "a block must have 1 to 1024 threads");
    }
    for blocks in [0, -1, 1 << 31, 1 << 40] {
        refused(&cover(blocks, 32), &config, "the grid must have 1 to 2^31 - 1 blocks");
    }
}

fn fill(smem_bytes: i64) -> Run {
    Run { smem_bytes, ..Run::new(Family::Limits, "fill_shared", 64) }
}

#[test]
fn shared_memory() {
    let limit = Config::fast().smem_limit_bytes;
    assert_eq!(limit, 227 * 1024);
    let text = "the block asks for more shared memory than the architecture gives";
    for config in [Config::checked(1, 0), Config::fast()] {
        assert_eq!(fill(i64::from(limit)).run(&config).failure, None);
        refused(&fill(i64::from(limit) + 1), &config, text);
        let small = Config { smem_limit_bytes: 48 * 1024, ..config };
        assert_eq!(fill(48 * 1024).run(&small).failure, None);
        refused(&fill(48 * 1024 + 16), &small, text);
    }
    let expected: Vec<u32> = (0..64).map(|t| (t..5000).step_by(64).map(|i| (5000 - 1 - i) % 256).sum()).collect();
    assert_clean(&fill(5000), &expected);
}

#[test]
fn nested_launch() {
    let run = Run::new(Family::Limits, "nested", 32);
    assert_clean(&run, &[0; 32]);
    let outcome = run.planted().run(&Config::checked(1, 0));
    assert_eq!(outcome.target, [1; 32]); // LACUNA_INVALID_ARGUMENT
}

#[test]
fn invalid_settings_make_no_stream() {
    let good = Config { async_mode: LATE, ..Config::fast() };
    assert!(Stream::new(&good).is_some());
    for bad in [
        Config { policy: 4, ..good },
        Config { policy: -1, ..good },
        Config { async_mode: 3, ..good },
        Config { threads: -1, ..good },
        Config { resident: 0, ..good },
        Config { sm_count: 0, ..good },
        Config { smem_limit_bytes: 227 * 1024 + 1, ..good },
    ] {
        assert!(Stream::new(&bad).is_none(), "{bad:?}");
    }
}
