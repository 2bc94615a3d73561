//! TMA loads: boxes over every edge, the swizzles, waits, misuse; what a tensor map may be.

use lacuna_simt_tests::{Config, Family, POISON, Run, Status, assert_caught, assert_clean, assert_garbage};

use crate::tensor_box::{
    NONE, PLACES, SWIZZLE_32, SWIZZLE_64, SWIZZLE_128, bytes, element, for_each_element, run, set_element, with_bug,
};

fn load(name: &'static str, swizzle: i64, at: [i8; 4]) -> Run {
    Run { target_words: bytes(swizzle) as usize / 4, ..run(Family::TensorLoads, name, swizzle, at) }
}

/// The box as it lies in shared memory; outside of the tensor are zeros.
fn expected(run: &Run, at: [i8; 4]) -> Vec<u32> {
    let swizzle = run.variant & 3;
    let mut words = vec![0; bytes(swizzle) as usize / 4];
    for_each_element(swizzle, at, |place, from| {
        set_element(&mut words, place, from.map_or(0, |index| element(&run.source, index)));
    });
    words
}

#[test]
fn boxes_over_every_edge() {
    for at in PLACES {
        let run = load("load_box", SWIZZLE_128, at);
        assert_clean(&run, &expected(&run, at));
    }
}

#[test]
fn swizzles() {
    for swizzle in [NONE, SWIZZLE_32, SWIZZLE_64] {
        for at in [PLACES[0], PLACES[2], PLACES[5]] {
            let run = load("load_box", swizzle, at);
            assert_clean(&run, &expected(&run, at));
        }
    }
}

#[test]
fn moved_bytes_are_counted_without_zero_fill() {
    for at in PLACES {
        let mut inside = 0;
        for_each_element(SWIZZLE_128, at, |_, from| inside += u64::from(from.is_some()));
        let run = load("load_box", SWIZZLE_128, at);
        assert_eq!(run.run(&Config::checked(1, 0)).counters.copy_bytes, 2 * inside, "{at:?}");
    }
}

#[test]
fn missing_wait() {
    let run = load("load_box", SWIZZLE_128, PLACES[0]);
    assert_garbage(&run, |outcome| outcome.target.iter().all(|&word| word == POISON));
}

#[test]
fn stage_filled_again_while_others_read() {
    let at = PLACES[4];
    let once = load("refill", SWIZZLE_128, at);
    let run = Run { target_words: 2 * once.target_words, ..once };
    let twice = expected(&run, at).repeat(2);
    assert_clean(&run, &twice);
    assert_garbage(&run, |outcome| outcome.target.contains(&POISON));
}

#[test]
fn map_and_thread_may_go_after_issue() {
    let at = PLACES[5];
    let run = Run { threads: 96, ..load("map_goes", SWIZZLE_128, at) };
    let expected = expected(&run, at);
    // Thread 0 is gone: what it would have written is not there.
    let expected: Vec<u32> =
        expected.iter().enumerate().map(|(i, &word)| if i % 96 == 0 { POISON } else { word }).collect();
    assert_clean(&run, &expected);
}

#[test]
fn bad_loads() {
    let run = load("bad_load", SWIZZLE_128, PLACES[0]);
    assert_clean(&run, &expected(&run, PLACES[0]));
    let messages = [
        &["TMA load: shared address 0x10 is not 1024-byte aligned"][..],
        &["TMA load: shared address 0x80 is not 1024-byte aligned"],
        &["TMA load: shared address 0x400 + 2048 lies outside the block's 2064 bytes"],
        &["TMA load: the tensor map was never encoded"],
        &["TMA load: no mbarrier was initialised at shared address 0x808"],
        &["deadlock: block 0:", "wait in mbarrier_wait", "lacks 0 of 1 arrivals, tx-count 16,"],
        &["deadlock: block 0:", "wait in mbarrier_wait", "lacks 0 of 1 arrivals, tx-count -16,"],
        &["the block ends with a load in flight (issued by thread 0) that nobody waited for"],
        &["TMA load: the instruction has 4 coordinates, the tensor map rank 3"],
        &["TMA load reads 0 bytes past the end of a buffer of 4800 bytes"],
        &["TMA load: a row of the box has 64 bytes, the swizzle spans 128"],
    ];
    for (bug, parts) in messages.iter().enumerate() {
        assert_caught(&with_bug(&run, bug), parts);
    }
}

#[test]
fn alignment_is_that_of_the_swizzle() {
    for (swizzle, alignment) in [(NONE, 128), (SWIZZLE_32, 256), (SWIZZLE_64, 512)] {
        let run = load("bad_load", swizzle, PLACES[0]);
        let message = format!("TMA load: shared address 0x10 is not {alignment}-byte aligned");
        assert_caught(&with_bug(&run, 0), &[&message]);
    }
    // Without a swizzle 128 bytes suffice, but there the box reaches over the mbarrier.
    let run = load("bad_load", NONE, PLACES[0]);
    let run = Run { smem_bytes: run.smem_bytes + 128, ..run };
    assert_caught(
        &with_bug(&run, 1),
        &["the mbarrier at shared address 0x800, initialised at line", "was overwritten"],
    );
}

/// The words of the `encode` kernel.
#[derive(Clone)]
struct Spec {
    rank: u32,
    swizzle: u32,
    offset: u32,
    sizes: [u64; 5],
    strides: [u64; 5],
    boxes: [u32; 5],
}

impl Spec {
    const GOOD: Spec = Spec {
        rank: 5,
        swizzle: 3,
        offset: 16,
        sizes: [1 << 32, 1, 3, 70_000, 2],
        strides: [0, 16, (1 << 40) - 16, 48, 1 << 20],
        boxes: [64, 256, 1, 8, 2],
    };

    /// "": the map can be made.
    fn message(&self) -> String {
        let halves = |words: &[u64]| words.iter().flat_map(|&w| [w as u32, (w >> 32) as u32]).collect::<Vec<_>>();
        let mut source = vec![self.rank, self.swizzle, self.offset];
        source.extend(halves(&self.sizes));
        source.extend(halves(&self.strides));
        source.extend(self.boxes);
        let run = Run { source, ..Run::new(Family::TensorLoads, "encode", 32) };
        match run.run(&Config::fast()).failure {
            None => String::new(),
            Some((status, message)) => {
                assert_eq!(status, Status::InvalidArgument, "{message}");
                message
            }
        }
    }
}

#[test]
fn tensor_maps() {
    assert_eq!(Spec::GOOD.message(), "");
    let says = |alter: fn(&mut Spec), message: &str| {
        let mut spec = Spec::GOOD;
        alter(&mut spec);
        assert_eq!(spec.message(), format!("tensor map: {message}"));
    };
    says(|s| s.rank = 0, "rank 0, not 1 to 5");
    says(|s| s.rank = 6, "rank 6, not 1 to 5");
    says(|s| s.sizes[2] = 0, "dimension 2 has 0 elements, not 1 to 2^32");
    says(|s| s.sizes[0] += 1, "dimension 0 has 4294967297 elements, not 1 to 2^32");
    says(|s| s.strides[1] = 8, "the stride of dimension 1 is 8 bytes, not a multiple of 16 below 2^40");
    says(
        |s| s.strides[4] = 1 << 40,
        "the stride of dimension 4 is 1099511627776 bytes, not a multiple of 16 below 2^40",
    );
    says(|s| s.boxes[1] = 257, "the box has 257 elements in dimension 1, not 1 to 256");
    says(|s| s.boxes[4] = 0, "the box has 0 elements in dimension 4, not 1 to 256");
    says(|s| s.boxes[0] = 60, "a row of the box has 120 bytes, not a multiple of 16");
    says(|s| s.boxes[0] = 72, "a row of the box has 144 bytes, the swizzle spans 128");
    // Without a swizzle rows may be as long as a box.
    assert_eq!(Spec { swizzle: 0, boxes: [256; 5], ..Spec::GOOD }.message(), "");
    let misaligned = Spec { offset: 8, ..Spec::GOOD }.message();
    assert!(misaligned.ends_with("is not 16-byte aligned"), "{misaligned}");
    // Dimensions beyond the rank do not count.
    assert_eq!(Spec { rank: 4, sizes: [8, 8, 8, 8, 0], ..Spec::GOOD }.message(), "");
}
