//! The SIMT host: the kernels compiled for the CPU, every CUDA thread a fiber.

#[cfg(feature = "simt")]
use std::ffi::c_void;

#[cfg(feature = "simt")]
use crate::error::{Error, Result};
#[cfg(feature = "simt")]
use crate::kernels::bindings as abi;

/// Which fiber of the SIMT host runs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SimtPolicy {
    /// Each in turn: fast.
    #[default]
    RoundRobin,
    /// A random ready lane.
    RandomLane,
    /// One warp runs as far as it can.
    WarpFirst,
    /// Random priorities, redrawn at seeded intervals.
    Priority,
}

/// When asynchronous operations of the SIMT host take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SimtAsync {
    /// Only when nothing else can run: finds missing waits and stages refilled too soon.
    Late,
    /// At issue: fast.
    #[default]
    Early,
    /// At seeded moments between.
    Mixed,
}

/// Where buffers of the SIMT host meet a page that must not be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SimtGuard {
    /// Plain memory.
    #[default]
    None,
    /// At their end, rounded down to 16 bytes.
    End,
    /// At their start.
    Start,
}

/// How the SIMT host runs kernels. No setting changes results or counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SimtConfig {
    /// Seed of every choice of the scheduler.
    pub seed: u64,
    /// Which fiber runs next.
    pub policy: SimtPolicy,
    /// When asynchronous operations take effect.
    pub async_mode: SimtAsync,
    /// CPU threads, at most 4096; 0: all.
    pub threads: u32,
    /// Blocks interleaved on one CPU thread, 1 to 256.
    pub resident: u32,
    /// Test mode: poisons shared memory and async destinations, guards stacks, catches faults (which installs signal
    /// handlers while a kernel runs).
    pub checks: bool,
    /// Blocks start in a seeded order.
    pub random_blocks: bool,
    /// Multiprocessors reported to persistent kernels, at least 1.
    pub sm_count: u32,
    /// Shared memory a block may have, in bytes; at most 227 KB.
    pub smem_limit_bytes: u32,
    /// Guard pages of buffers. Only of use with `checks`, as a fault ends the process otherwise.
    pub guard: SimtGuard,
}

impl Default for SimtConfig {
    /// The fast settings of a user's process.
    fn default() -> Self {
        Self {
            seed: 0,
            policy: SimtPolicy::RoundRobin,
            async_mode: SimtAsync::Early,
            threads: 0,
            resident: 1,
            checks: false,
            random_blocks: false,
            sm_count: 4,
            smem_limit_bytes: 227 * 1024,
            guard: SimtGuard::None,
        }
    }
}

impl SimtConfig {
    /// Test mode: every check on, buffers end at guard pages, policy and async mode drawn from the seed.
    pub fn checked(seed: u64) -> Self {
        const POLICIES: [SimtPolicy; 4] =
            [SimtPolicy::RandomLane, SimtPolicy::Priority, SimtPolicy::WarpFirst, SimtPolicy::RoundRobin];
        const MODES: [SimtAsync; 3] = [SimtAsync::Late, SimtAsync::Mixed, SimtAsync::Early];
        Self {
            seed,
            policy: POLICIES[(seed % 4) as usize],
            async_mode: MODES[(seed / 4 % 3) as usize],
            resident: 1 + (seed % 3) as u32,
            checks: true,
            random_blocks: true,
            guard: SimtGuard::End,
            ..Self::default()
        }
    }

    #[cfg(feature = "simt")]
    fn to_abi(self) -> abi::lacuna_simt_config {
        let count = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        abi::lacuna_simt_config {
            seed: self.seed,
            policy: match self.policy {
                SimtPolicy::RoundRobin => abi::LACUNA_SIMT_ROUND_ROBIN,
                SimtPolicy::RandomLane => abi::LACUNA_SIMT_RANDOM_LANE,
                SimtPolicy::WarpFirst => abi::LACUNA_SIMT_WARP_FIRST,
                SimtPolicy::Priority => abi::LACUNA_SIMT_PRIORITY,
            },
            async_mode: match self.async_mode {
                SimtAsync::Late => abi::LACUNA_SIMT_LATE,
                SimtAsync::Early => abi::LACUNA_SIMT_EARLY,
                SimtAsync::Mixed => abi::LACUNA_SIMT_MIXED,
            },
            threads: count(self.threads),
            resident: count(self.resident),
            checks: i32::from(self.checks),
            random_blocks: i32::from(self.random_blocks),
            sm_count: count(self.sm_count),
            smem_limit_bytes: count(self.smem_limit_bytes),
        }
    }
}

/// Work done on a stream of the SIMT host. Independent of schedule and seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Kernels launched.
    pub launches: u64,
    /// Multiply-adds of matrix instructions.
    pub mma_macs: u64,
    /// Bytes moved by copy instructions, zero-fill excluded.
    pub copy_bytes: u64,
    /// Extra shared-memory cycles of matrix loads and stores.
    pub bank_conflicts: u64,
    /// Block barriers passed.
    pub barriers: u64,
    /// Warp collectives.
    pub collectives: u64,
}

/// A stream of the SIMT host. The C side lets one thread use it at a time: its owner keeps it behind a mutex.
#[cfg(feature = "simt")]
pub(super) struct SimtStream {
    raw: *mut abi::lacuna_simt_stream,
    owned: bool,
}

// SAFETY: a stream has no tie to the thread that made it; the header allows any thread, one at a time.
#[cfg(feature = "simt")]
unsafe impl Send for SimtStream {}

#[cfg(feature = "simt")]
impl SimtStream {
    pub(super) fn create(config: SimtConfig) -> Result<Self> {
        // SAFETY: the config is live during the call, which returns a stream or null.
        let raw = unsafe { abi::lacuna_simt_stream_create(&config.to_abi()) };
        if raw.is_null() {
            return Err(Error::Value {
                what: "SimtConfig",
                expected: "threads <= 4096, resident in 1..=256, sm_count >= 1, smem_limit_bytes <= 227 KB".into(),
                got: format!("{config:?}"),
            });
        }
        Ok(Self { raw, owned: true })
    }

    /// A stream made by somebody else, who also destroys it.
    pub(super) fn foreign(raw: *mut c_void) -> Self {
        Self { raw: raw.cast(), owned: false }
    }

    pub(super) fn raw(&self) -> *mut c_void {
        self.raw.cast()
    }

    pub(super) fn counters(&self) -> Counters {
        let mut counters = abi::lacuna_simt_counters::default();
        // SAFETY: the stream is alive, and `&self` behind the owner's mutex makes this thread its only user.
        unsafe { abi::lacuna_simt_stream_counters(self.raw, &mut counters) };
        Counters {
            launches: counters.launches,
            mma_macs: counters.mma_macs,
            copy_bytes: counters.copy_bytes,
            bank_conflicts: counters.bank_conflicts,
            barriers: counters.barriers,
            collectives: counters.collectives,
        }
    }

    pub(super) fn reset_counters(&mut self) {
        // SAFETY: as in `counters`.
        unsafe { abi::lacuna_simt_stream_reset_counters(self.raw) };
    }
}

#[cfg(feature = "simt")]
impl Drop for SimtStream {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: made by `create`, destroyed once; launches are synchronous, so none is running.
            unsafe { abi::lacuna_simt_stream_destroy(self.raw) };
        }
    }
}

/// Memory of the SIMT host, 16-byte aligned; null when there is none.
#[cfg(feature = "simt")]
pub(super) fn alloc(bytes: usize, guard: SimtGuard) -> *mut u8 {
    let guard = match guard {
        SimtGuard::None => 0,
        SimtGuard::End => 1,
        SimtGuard::Start => 2,
    };
    // SAFETY: any size and these guard modes are allowed.
    unsafe { abi::lacuna_simt_alloc(bytes as u64, guard) }.cast()
}

/// # Safety
/// `pointer` comes from [`alloc`] and is freed once.
#[cfg(feature = "simt")]
pub(super) unsafe fn free(pointer: *mut u8) {
    // SAFETY: passed on to the caller.
    unsafe { abi::lacuna_simt_free(pointer.cast()) };
}

#[cfg(all(test, feature = "simt"))]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_that_of_the_header() {
        let mut default = abi::lacuna_simt_config::default();
        // SAFETY: fills the struct.
        unsafe { abi::lacuna_simt_default_config(&mut default) };
        assert_eq!(format!("{default:?}"), format!("{:?}", SimtConfig::default().to_abi()));
    }

    #[test]
    fn bad_settings_are_refused() {
        let good = SimtConfig::default();
        for bad in [
            SimtConfig { resident: 0, ..good },
            SimtConfig { threads: u32::MAX, ..good },
            SimtConfig { sm_count: 0, ..good },
            SimtConfig { smem_limit_bytes: u32::MAX, ..good },
        ] {
            assert!(matches!(SimtStream::create(bad), Err(Error::Value { what: "SimtConfig", .. })), "{bad:?}");
        }
    }
}
