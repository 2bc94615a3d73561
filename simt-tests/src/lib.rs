//! Drives the test kernels of `kernels/` on the SIMT host: each planted bug must be found under every scheduling
//! policy, and its correct twin must be clean under all of them.

/// The library's generated bindings, layout checks included: it does not export these structs.
#[path = "../../src/kernels/bindings.rs"]
mod abi;
mod config;
mod forward;
mod kernel;
mod planted;
pub mod process;

pub use config::{
    Config, Counters, EARLY, LATE, MIXED, POLICIES, PRIORITY, RANDOM_LANE, ROUND_ROBIN, Stream, WARP_FIRST,
};
pub use forward::ForwardCase;
pub use kernel::{Buffer, Family, Guard, Outcome, Run, Status};
pub use planted::{POISON, assert_caught, assert_clean, assert_garbage, clean_schedules, late_schedules};

// The SIMT host itself comes with the library.
use lacuna as _;
