//! A global allocator that counts what each thread allocates, and the cost of a step by it and by the library's own
//! counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use lacuna::{HostCalls, Result, Stream};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a thread-local without a destructor,
// which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a step cost this thread beside its launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Of Rust's global allocator.
    pub allocations: u64,
    pub calls: HostCalls,
}

pub fn cost(step: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let before = (ALLOCATIONS.with(Cell::get), HostCalls::of_this_thread());
    let done = step();
    let after = (ALLOCATIONS.with(Cell::get), HostCalls::of_this_thread());
    done?;
    Ok(Cost { allocations: after.0 - before.0, calls: after.1.since(before.1) })
}

/// A step costs nothing, the first time and later; on the SIMT host it must have launched `launches` kernels.
pub fn check_free(what: &str, stream: &Stream, launches: u64, mut step: impl FnMut() -> Result<()>) {
    for round in 0..3 {
        let before = stream.counters().map(|counters| counters.launches);
        let cost = cost(&mut step).unwrap_or_else(|error| panic!("{what}: {error}"));
        let nothing = Cost { allocations: 0, calls: HostCalls::default() };
        assert_eq!(cost, nothing, "{what}, round {round} on {}", stream.device().name());
        if let (Some(before), Some(after)) = (before, stream.counters()) {
            assert_eq!(after.launches - before, launches, "{what}: kernels launched");
        }
    }
}
