//! Streams of the SIMT host and their settings, as `lacuna_kernels.h` has them.

use std::marker::PhantomData;

use crate::abi;
pub(crate) use crate::abi::lacuna_simt_stream as RawStream;
pub use crate::abi::{lacuna_simt_config as Config, lacuna_simt_counters as Counters};

/// `lacuna_simt_policy`.
pub const ROUND_ROBIN: i32 = abi::LACUNA_SIMT_ROUND_ROBIN;
/// `lacuna_simt_policy`.
pub const RANDOM_LANE: i32 = abi::LACUNA_SIMT_RANDOM_LANE;
/// `lacuna_simt_policy`.
pub const WARP_FIRST: i32 = abi::LACUNA_SIMT_WARP_FIRST;
/// `lacuna_simt_policy`.
pub const PRIORITY: i32 = abi::LACUNA_SIMT_PRIORITY;
/// All of them.
pub const POLICIES: [i32; 4] = [ROUND_ROBIN, RANDOM_LANE, WARP_FIRST, PRIORITY];

/// `lacuna_simt_async`.
pub const LATE: i32 = abi::LACUNA_SIMT_LATE;
/// `lacuna_simt_async`.
pub const EARLY: i32 = abi::LACUNA_SIMT_EARLY;
/// `lacuna_simt_async`.
pub const MIXED: i32 = abi::LACUNA_SIMT_MIXED;

impl Config {
    /// The defaults of the C side: no checks.
    pub fn fast() -> Config {
        let mut config = Config::default();
        // SAFETY: the call fills the struct.
        unsafe { abi::lacuna_simt_default_config(&mut config) };
        config
    }

    /// All checks, one CPU thread, late completion.
    pub fn checked(seed: u64, policy: i32) -> Config {
        Config { seed, policy, async_mode: LATE, threads: 1, checks: 1, ..Config::fast() }
    }
}

impl PartialEq for Counters {
    fn eq(&self, other: &Counters) -> bool {
        // By name, so that a new counter must be added here.
        let Counters { launches, mma_macs, copy_bytes, bank_conflicts, barriers, collectives } = *other;
        let theirs = [launches, mma_macs, copy_bytes, bank_conflicts, barriers, collectives];
        let Counters { launches, mma_macs, copy_bytes, bank_conflicts, barriers, collectives } = *self;
        [launches, mma_macs, copy_bytes, bank_conflicts, barriers, collectives] == theirs
    }
}

impl Eq for Counters {}

/// A stream. Not `Sync`: one thread uses it at a time.
pub struct Stream {
    pub(crate) raw: *mut RawStream,
    _one_thread: PhantomData<*mut ()>,
}

impl Stream {
    /// None: the settings are invalid.
    pub fn new(config: &Config) -> Option<Stream> {
        // SAFETY: the config lives through the call, which returns a stream or null.
        let raw = unsafe { abi::lacuna_simt_stream_create(config) };
        (!raw.is_null()).then_some(Stream { raw, _one_thread: PhantomData })
    }

    pub fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        // SAFETY: the stream is alive, the call fills the struct.
        unsafe { abi::lacuna_simt_stream_counters(self.raw, &mut counters) };
        counters
    }

    pub fn reset_counters(&self) {
        // SAFETY: the stream is alive.
        unsafe { abi::lacuna_simt_stream_reset_counters(self.raw) };
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        unsafe { abi::lacuna_simt_stream_destroy(self.raw) };
    }
}
