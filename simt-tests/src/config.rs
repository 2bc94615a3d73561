//! Streams of the SIMT host and their settings, as `lacuna_kernels.h` has them.

use std::marker::PhantomData;

/// `lacuna_simt_policy`.
pub const ROUND_ROBIN: i32 = 0;
/// `lacuna_simt_policy`.
pub const RANDOM_LANE: i32 = 1;
/// `lacuna_simt_policy`.
pub const WARP_FIRST: i32 = 2;
/// `lacuna_simt_policy`.
pub const PRIORITY: i32 = 3;
/// All of them.
pub const POLICIES: [i32; 4] = [ROUND_ROBIN, RANDOM_LANE, WARP_FIRST, PRIORITY];

/// `lacuna_simt_async`.
pub const LATE: i32 = 0;
/// `lacuna_simt_async`.
pub const EARLY: i32 = 1;
/// `lacuna_simt_async`.
pub const MIXED: i32 = 2;

/// `lacuna_simt_config`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub seed: u64,
    pub policy: i32,
    pub async_mode: i32,
    pub threads: i32,
    pub resident: i32,
    pub checks: i32,
    pub random_blocks: i32,
    pub sm_count: i32,
    pub smem_limit_bytes: i32,
}

impl Config {
    /// The defaults of the C side: no checks.
    pub fn fast() -> Config {
        let mut config = Config {
            seed: 0,
            policy: 0,
            async_mode: 0,
            threads: 0,
            resident: 0,
            checks: 0,
            random_blocks: 0,
            sm_count: 0,
            smem_limit_bytes: 0,
        };
        // SAFETY: the call fills the struct.
        unsafe { lacuna_simt_default_config(&mut config) };
        config
    }

    /// All checks, one CPU thread, late completion.
    pub fn checked(seed: u64, policy: i32) -> Config {
        Config { seed, policy, async_mode: LATE, threads: 1, checks: 1, ..Config::fast() }
    }
}

/// `lacuna_simt_counters`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub launches: u64,
    pub mma_macs: u64,
    pub copy_bytes: u64,
    pub bank_conflicts: u64,
    pub barriers: u64,
    pub collectives: u64,
}

#[repr(C)]
pub(crate) struct RawStream {
    _opaque: [u8; 0],
}

/// A stream. Not `Sync`: one thread uses it at a time.
pub struct Stream {
    pub(crate) raw: *mut RawStream,
    _one_thread: PhantomData<*mut ()>,
}

impl Stream {
    /// None: the settings are invalid.
    pub fn new(config: &Config) -> Option<Stream> {
        // SAFETY: the config lives through the call, which returns a stream or null.
        let raw = unsafe { lacuna_simt_stream_create(config) };
        (!raw.is_null()).then_some(Stream { raw, _one_thread: PhantomData })
    }

    pub fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        // SAFETY: the stream is alive, the call fills the struct.
        unsafe { lacuna_simt_stream_counters(self.raw, &mut counters) };
        counters
    }

    pub fn reset_counters(&self) {
        // SAFETY: the stream is alive.
        unsafe { lacuna_simt_stream_reset_counters(self.raw) };
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        unsafe { lacuna_simt_stream_destroy(self.raw) };
    }
}

unsafe extern "C" {
    fn lacuna_simt_default_config(config: *mut Config);
    fn lacuna_simt_stream_create(config: *const Config) -> *mut RawStream;
    fn lacuna_simt_stream_destroy(stream: *mut RawStream);
    fn lacuna_simt_stream_counters(stream: *const RawStream, counters: *mut Counters);
    fn lacuna_simt_stream_reset_counters(stream: *mut RawStream);
}
