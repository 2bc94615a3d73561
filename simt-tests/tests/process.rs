//! Launches as part of a process: recovery after failures, concurrency, signal handlers. Signal handlers belong to
//! the whole process, so the tests of this file take turns.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use lacuna_simt_tests::process::{crash, fault_handlers};
use lacuna_simt_tests::{Config, Family, Guard, Run, Stream};

static TURN: Mutex<()> = Mutex::new(());
const SIGSEGV: i32 = 11;
/// Set in the child processes of these tests.
const CHILD: &str = "LACUNA_SIMT_TEST_CHILD";

fn sums() -> Run {
    Run { smem_bytes: 4096, count: 1, ..Run::new(Family::Barriers, "no_barrier_after_copy", 128) }
}

fn sums_expected() -> Vec<u32> {
    (0..128).map(|t| sums().source[4 * ((t + 33) % 128)..][..4].iter().sum()).collect()
}

/// One of each way to fail: a check, a fault, a stack overflow, a deadlock, an exit.
fn failures() -> Vec<(Run, &'static str)> {
    vec![
        (Run::new(Family::Collectives, "outside_mask", 64), "is not in its mask"),
        (
            Run { source: vec![1; 64], count: 64, variant: 1, ..Run::new(Family::Memory, "load_outside", 64) },
            "memory fault",
        ),
        (Run { variant: 1, ..Run::new(Family::Memory, "stack_overflow", 64) }, "stack overflow"),
        (Run::new(Family::Barriers, "part_of_a_warp", 64), "deadlock"),
        (Run { smem_bytes: 12288, ..Run::new(Family::Copies, "exit_without_wait", 64) }, "never waited for"),
        (Run { smem_bytes: 12288, ..Run::new(Family::Copies, "bad_operands", 64) }, "not 16-byte aligned"),
    ]
}

#[test]
fn the_host_recovers_from_every_failure() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    for policy in 0..4 {
        let config = Config { threads: 2, ..Config::checked(9, policy) };
        let stream = Stream::new(&config).unwrap();
        for (run, part) in failures() {
            let run = Run { blocks: 4, ..run.planted() };
            // Twice, since the second one finds what the first has left.
            for _ in 0..2 {
                let outcome = run.run_on(&stream);
                assert!(outcome.message().contains(part), "{part} in: {}", outcome.message());
            }
            assert_eq!(sums().run_on(&stream).target, sums_expected(), "after {}", run.name);
        }
    }
}

/// Blocks are pooled with their fibers; here, unlike in the suite, none is large before this test says so.
#[test]
fn a_schedule_does_not_depend_on_what_ran_before() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let tickets = |threads: i64, config: &Config| {
        let target_words = 4 * threads as usize + 1;
        let run = Run::new(Family::Collectives, "tickets", threads);
        Run { count: 4, target_words, target_start: Some(0), ..run }.run(config).target
    };
    let configs = (0..8).flat_map(|seed| (0..4).map(move |policy| Config::checked(seed, policy)));
    let configs: Vec<Config> = configs.collect();
    let before: Vec<_> = configs.iter().map(|config| tickets(96, config)).collect();
    tickets(1024, &configs[0]);
    let after: Vec<_> = configs.iter().map(|config| tickets(96, config)).collect();
    assert!(before == after);
}

#[test]
fn threads_launch_at_the_same_time() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    thread::scope(|scope| {
        for id in 0..8u64 {
            scope.spawn(move || {
                for round in 0..20 {
                    let config =
                        Config { threads: 1 + (id % 2) as i32, ..Config::checked(id * 100 + round, (id % 4) as i32) };
                    let (run, part) = failures().swap_remove((round as usize + id as usize) % failures().len());
                    let outcome = run.planted().run(&config);
                    assert!(outcome.message().contains(part), "{part} in: {}", outcome.message());
                    let fast = Config { checks: (round % 2) as i32, ..config };
                    assert_eq!(sums().run(&fast).target, sums_expected());
                }
            });
        }
    });
}

#[test]
fn no_fault_handler_stays_installed() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let before = fault_handlers();
    for (run, _) in failures() {
        run.planted().run(&Config::checked(1, 0));
        assert_eq!(fault_handlers(), before, "after {}", run.name);
        run.run(&Config::checked(1, 0));
        assert_eq!(fault_handlers(), before, "after {}", run.name);
    }
}

/// Runs one test of this file in a process of its own; returns the signal that ended it.
fn signal_of_child(test: &str) -> Option<i32> {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args(["--exact", test]).env(CHILD, test).output().unwrap();
    output.status.signal()
}

fn is_child(test: &str) -> bool {
    std::env::var_os(CHILD).is_some_and(|name| name == test)
}

#[test]
fn a_real_fault_after_a_checking_launch_kills() {
    let name = "a_real_fault_after_a_checking_launch_kills";
    if is_child(name) {
        failures()[1].0.planted().run(&Config::checked(1, 0));
        crash();
    } else {
        assert_eq!(signal_of_child(name), Some(SIGSEGV));
    }
}

#[test]
fn a_real_fault_beside_a_checking_launch_kills() {
    let name = "a_real_fault_beside_a_checking_launch_kills";
    if is_child(name) {
        thread::scope(|scope| {
            scope.spawn(|| {
                let normal = fault_handlers();
                // Until a launch has installed its handler.
                while fault_handlers() == normal {
                    thread::yield_now();
                }
                crash();
            });
            for seed in 0..100_000 {
                sums().run(&Config::checked(seed, 1));
            }
        });
    } else {
        assert_eq!(signal_of_child(name), Some(SIGSEGV));
    }
}

#[test]
fn without_checks_a_fault_is_a_fault() {
    let name = "without_checks_a_fault_is_a_fault";
    if is_child(name) {
        let run = Run { guard: Guard::End, ..failures().swap_remove(1).0.planted() };
        run.run(&Config { threads: 1, ..Config::fast() });
    } else {
        assert_eq!(signal_of_child(name), Some(SIGSEGV));
    }
}
