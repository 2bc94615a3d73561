//! What a thread asked of devices beside launches: the calls that a captured or latency-bound step must not make.

use std::cell::Cell;

/// Calls that allocate, copy to or from the host, or wait. They are counted for each thread, from its start, on every
/// device; launches, fills and events in stream order are none of them.
///
/// ```
/// # fn main() -> lacuna::Result<()> {
/// use lacuna::{Device, HostCalls};
/// let stream = Device::simt()?.new_stream()?;
/// let before = HostCalls::of_this_thread();
/// let buffer = stream.alloc_bytes(64)?;
/// drop(buffer);
/// let calls = HostCalls::of_this_thread().since(before);
/// assert_eq!((calls.allocations, calls.frees, calls.total()), (1, 1, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HostCalls {
    /// Buffers allocated.
    pub allocations: u64,
    /// Buffers freed.
    pub frees: u64,
    /// Copies to or from the host, each of which waits.
    pub copies: u64,
    /// Waits for a stream or for a moment in one.
    pub waits: u64,
}

thread_local! {
    static CALLS: Cell<HostCalls> =
        const { Cell::new(HostCalls { allocations: 0, frees: 0, copies: 0, waits: 0 }) };
}

impl HostCalls {
    /// What this thread has asked for since it started.
    pub fn of_this_thread() -> Self {
        CALLS.try_with(Cell::get).unwrap_or_default()
    }

    /// What was added since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            allocations: self.allocations.wrapping_sub(earlier.allocations),
            frees: self.frees.wrapping_sub(earlier.frees),
            copies: self.copies.wrapping_sub(earlier.copies),
            waits: self.waits.wrapping_sub(earlier.waits),
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.allocations + self.frees + self.copies + self.waits
    }

    /// Counts a call. A buffer freed while its thread ends may go uncounted.
    pub(super) fn count(change: impl FnOnce(&mut Self)) {
        let _ = CALLS.try_with(|calls| {
            let mut now = calls.get();
            change(&mut now);
            calls.set(now);
        });
    }
}
