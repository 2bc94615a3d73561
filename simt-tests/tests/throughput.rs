//! The forward kernel emulates at least 2 GFLOP/s of mma.sync on a core.

use lacuna_simt_tests::process::thread_seconds;
use lacuna_simt_tests::{Config, ForwardCase, Stream};

/// GFLOP/s of CPU time, so that other processes do not count; the best of a few runs.
fn throughput(head_dim: i32) -> f64 {
    let case =
        ForwardCase { q_heads: 1, kv_heads: 1, q_len: 1024, kv_len: 1024, head_dim, dtype: 1, causal: 0, guard: 0 };
    let stream = Stream::new(&Config { threads: 1, ..Config::fast() }).unwrap();
    let best = (0..5)
        .map(|_| {
            let start = thread_seconds();
            case.run(&stream).unwrap();
            thread_seconds() - start
        })
        .fold(f64::INFINITY, f64::min);
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
