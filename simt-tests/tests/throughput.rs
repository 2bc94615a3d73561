//! What a core emulates: at least 2 GFLOP/s of mma.sync in the forward kernel, 12 of wgmma.

use lacuna_simt_tests::process::thread_seconds;
use lacuna_simt_tests::{Config, Family, ForwardCase, Guard, Run, Stream};

/// CPU seconds, so that other processes do not count; the best of a few runs.
fn best_seconds(mut run: impl FnMut()) -> f64 {
    (0..5)
        .map(|_| {
            let start = thread_seconds();
            run();
            thread_seconds() - start
        })
        .fold(f64::INFINITY, f64::min)
}

/// GFLOP/s of the forward kernel.
fn throughput(head_dim: i32) -> f64 {
    let case = ForwardCase {
        q_heads: 1,
        kv_heads: 1,
        q_len: 1024,
        kv_len: 1024,
        head_dim,
        dtype: 1,
        causal: 0,
        guard: 0,
        family: 80,
    };
    let stream = Stream::new(&Config { threads: 1, ..Config::fast() }).unwrap();
    let best = best_seconds(|| {
        case.run(&stream).unwrap();
    });
    2e-9 * case.dense_macs() as f64 / best
}

#[test]
fn two_gflops_a_core() {
    for head_dim in [64, 128] {
        let rate = throughput(head_dim);
        println!("emulated mma.sync, D{head_dim}: {rate:.2} GFLOP/s of one core");
        let gate = head_dim == 128 && !cfg!(debug_assertions);
        assert!(
            !gate || rate >= 2.0,
            "D{head_dim}: {rate:.2} GFLOP/s of emulated mma.sync on one core; 2 are promised"
        );
    }
}

/// GFLOP/s of 64 x 128 x 128 products, one after the other, in each warpgroup.
fn wgmma_throughput(warpgroups: i64) -> f64 {
    let stream = Stream::new(&Config { threads: 1, ..Config::fast() }).unwrap();
    let run = Run {
        count: 200,
        guard: Guard::None,
        smem_bytes: 49152,
        ..Run::new(Family::WarpgroupShapes, "repeated", 128 * warpgroups)
    };
    let best = best_seconds(|| {
        let outcome = run.run_on(&stream);
        assert_eq!(outcome.failure, None);
    });
    2e-9 * (run.count * warpgroups * 64 * 128 * 128) as f64 / best
}

#[test]
fn twelve_gflops_of_wgmma_a_core() {
    for warpgroups in [1, 3] {
        let rate = wgmma_throughput(warpgroups);
        println!("emulated wgmma, {warpgroups} warpgroups: {rate:.2} GFLOP/s of one core");
        // The host code is optimised in every profile, but a CPU without AVX is not what is promised.
        let gate = !cfg!(debug_assertions) && is_fast();
        assert!(
            !gate || rate >= 12.0,
            "{warpgroups} warpgroups: {rate:.2} GFLOP/s of wgmma on one core; 12 are promised"
        );
    }
}

#[cfg(target_arch = "x86_64")]
fn is_fast() -> bool {
    std::arch::is_x86_feature_detected!("avx")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_fast() -> bool {
    false
}
