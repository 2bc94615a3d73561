//! Accesses outside tensors, shared memory and the stack.

use lacuna_simt_tests::{Config, Family, Guard, POISON, POLICIES, Run, assert_caught, assert_clean, assert_garbage};

/// `count` words in source and target.
fn words(name: &'static str, count: u32, variant: i64, guard: Guard) -> Run {
    Run {
        source: (1..=count).collect(),
        target_words: count as usize,
        count: i64::from(count),
        variant,
        guard,
        ..Run::new(Family::Memory, name, 64)
    }
}

#[test]
fn load_past_a_tensor() {
    let run = words("load_outside", 64, 1, Guard::End);
    assert_clean(&run, &run.source);
    assert_caught(&run, &["thread 63 ", "memory fault at 0x", ": 0 bytes past the end of a buffer of 256 bytes"]);
    // Where the end is no page boundary, the slack is NaN.
    for run in [words("load_outside", 62, 1, Guard::End), words("load_outside", 64, 1, Guard::Start)] {
        assert_clean(&run, &run.source);
        assert_garbage(&run, |outcome| outcome.target[run.count as usize - 1] == POISON);
    }
}

#[test]
fn load_before_a_tensor() {
    let run = words("load_outside", 64, -1, Guard::Start);
    assert_clean(&run, &run.source);
    assert_caught(&run, &["thread 63 ", "memory fault at 0x", ": 4 bytes before the start of a buffer of 256 bytes"]);
    let run = words("load_outside", 64, -1, Guard::End);
    assert_garbage(&run, |outcome| outcome.target[63] == POISON);
}

#[test]
fn store_past_a_tensor() {
    let run = words("store_outside", 64, 1, Guard::End);
    assert_clean(&run, &run.source);
    assert_caught(&run, &["thread 63 ", "memory fault at 0x", ": 0 bytes past the end of a buffer of 256 bytes"]);
    let run = words("store_outside", 62, 1, Guard::End);
    assert_clean(&run, &run.source);
    assert_caught(&run, &["written 0 bytes past the end of a buffer of 248 bytes"]);
    assert_caught(
        &words("store_outside", 64, 1, Guard::Start),
        &["written 0 bytes past the end of a buffer of 256 bytes"],
    );
}

#[test]
fn store_before_a_tensor() {
    let run = words("store_outside", 64, -1, Guard::Start);
    assert_caught(&run, &["thread 63 ", "memory fault at 0x", ": 4 bytes before the start of a buffer of 256 bytes"]);
    let run = words("store_outside", 64, -1, Guard::End);
    assert_caught(&run, &["written 4 bytes before the start of a buffer of 256 bytes"]);
}

#[test]
fn null_pointer() {
    let run = words("load_null", 64, 0, Guard::End);
    assert_clean(&run, &run.source);
    assert_caught(&run, &["thread 3 ", "memory fault at 0xc"]);
}

fn shared_rows(rows: i64, variant: i64) -> Run {
    Run { smem_bytes: rows * 128, variant, ..Run::new(Family::Memory, "shared_rows", 64) }
}

#[test]
fn a_row_past_shared_memory() {
    // 32 rows end at the guard page; 33 leave slack, which is checked when the block ends.
    assert_clean(&shared_rows(32, 0), &[31; 64]);
    assert_clean(&shared_rows(33, 0), &[32; 64]);
    assert_caught(&shared_rows(32, 0), &["shared memory accessed", "bytes past the end of its 4096 bytes"]);
    assert_caught(&shared_rows(33, 0), &["shared memory written 0 bytes past the end of its 4224 bytes"]);
}

#[test]
fn a_row_before_shared_memory() {
    assert_caught(&shared_rows(32, 1), &["shared memory written 128 bytes before its start"]);
}

#[test]
fn shared_memory_starts_as_nan_in_every_block() {
    let run = Run { smem_bytes: 1024, blocks: 3, ..Run::new(Family::Memory, "unwritten_shared", 64) };
    for policy in POLICIES {
        // What an earlier kernel left must not be seen.
        assert_eq!(shared_rows(8, 0).run(&Config::checked(1, policy)).failure, None);
        assert_eq!(run.run(&Config::checked(1, policy)).target, [POISON; 64]);
    }
}

#[test]
fn stack_overflow() {
    for variant in [0, 1] {
        let run = Run { variant, ..Run::new(Family::Memory, "stack_overflow", 64) };
        assert_clean(&run, &[36; 64]);
        assert_caught(&run, &["thread 5 (warp 0, lane 5): stack overflow"]);
    }
}
