//! TMA stores: clipping, when a source is read and when the result is there, groups that nobody waits for.

use lacuna_simt_tests::{Config, Family, POISON, Run, assert_caught, assert_clean, assert_garbage, clean_schedules};

use crate::tensor_box::{
    NONE, PLACES, SWIZZLE_32, SWIZZLE_64, SWIZZLE_128, TENSOR_WORDS, element, for_each_element, run, set_element,
    with_bug,
};

fn store(name: &'static str, swizzle: i64, at: [i8; 4]) -> Run {
    Run { target_words: TENSOR_WORDS, ..run(Family::TensorStores, name, swizzle, at) }
}

/// The tensor afterwards: what lies in shared memory goes where the box has elements, the rest is as before.
fn expected(run: &Run, at: [i8; 4]) -> Vec<u32> {
    let mut words = vec![POISON; TENSOR_WORDS];
    for_each_element(run.variant & 3, at, |place, to| {
        if let Some(index) = to {
            set_element(&mut words, index, element(&run.source, place));
        }
    });
    words
}

#[test]
fn boxes_over_every_edge_are_clipped() {
    for at in PLACES {
        let run = store("store_box", SWIZZLE_128, at);
        assert_clean(&run, &expected(&run, at));
    }
}

#[test]
fn swizzles() {
    for swizzle in [NONE, SWIZZLE_32, SWIZZLE_64] {
        for at in [PLACES[0], PLACES[2], PLACES[5]] {
            let run = store("store_box", swizzle, at);
            assert_clean(&run, &expected(&run, at));
        }
    }
}

#[test]
fn bad_stores() {
    let at = PLACES[1];
    let run = store("store_box", SWIZZLE_128, at);
    assert_clean(&run, &expected(&run, at));
    let messages = [
        "the thread exits with a bulk store that it never committed",
        "the thread exits with a bulk store whose source it never waited for (wait_group.read)",
        "the thread exits with a bulk store whose source it never waited for (wait_group.read)",
        "TMA store: shared address 0x10 is not 1024-byte aligned",
        "TMA store: shared address 0x80 is not 1024-byte aligned",
        "TMA store: shared address 0x400 + 2048 lies outside the block's 2064 bytes",
    ];
    for (bug, message) in messages.iter().enumerate() {
        assert_caught(&with_bug(&run, bug), &["thread 0 (warp 0, lane 0), line ", message]);
    }
    let outside = store("store_box", SWIZZLE_128, [0, 0, 0, 2]);
    assert_caught(&with_bug(&outside, messages.len()), &["TMA store writes 0 bytes past the end of a buffer of 4800"]);
}

#[test]
fn missing_waits_are_found_whenever_stores_complete() {
    let run = with_bug(&store("store_box", SWIZZLE_128, PLACES[0]), 1).planted();
    for config in clean_schedules().filter(|config| config.seed < 4) {
        assert!(run.run(&config).message().contains("whose source it never waited for"), "{config:?}");
    }
    // Without checks the end of the thread completes it.
    assert_eq!(run.run(&Config::fast()).target, expected(&run, PLACES[0]));
}

#[test]
fn source_written_again_before_it_is_read() {
    let at = PLACES[5];
    let run = store("reuse_source", SWIZZLE_128, at);
    let expected = expected(&run, at);
    assert_clean(&run, &expected);
    assert_garbage(&run, |outcome| outcome.target != expected && outcome.target.contains(&7));
}

#[test]
fn a_source_that_was_read_is_not_yet_a_result() {
    let at = PLACES[0];
    let run = Run { target_words: TENSOR_WORDS + 1, ..store("read_back", SWIZZLE_128, at) };
    let mut expected = expected(&run, at);
    expected.push(expected[0]);
    assert_clean(&run, &expected);
    assert_garbage(&run, |outcome| {
        outcome.target[..TENSOR_WORDS] == expected[..TENSOR_WORDS] && outcome.target[TENSOR_WORDS] == POISON
    });
}

#[test]
fn loaded_box_is_stored_without_a_fence() {
    for at in [PLACES[0], PLACES[5], PLACES[10]] {
        let run = store("round_trip", SWIZZLE_128, at);
        let mut expected = vec![POISON; TENSOR_WORDS];
        for_each_element(SWIZZLE_128, at, |_, index| {
            if let Some(index) = index {
                set_element(&mut expected, index, element(&run.source, index));
            }
        });
        assert_clean(&run, &expected);
    }
}
