//! The one error type of the library.

/// What went wrong: every variant says what was expected and what was given.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor, list or buffer has the wrong size or shape.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// The argument.
        what: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A number or option is outside its range.
    #[error("{what} must be {expected}, got {got}")]
    Value {
        /// The argument.
        what: &'static str,
        /// The range.
        expected: String,
        /// The value given.
        got: String,
    },
    /// Memory of one machine or device was given to another.
    #[error("{what} lives on {got}, but the call runs on {expected}")]
    Device {
        /// The argument.
        what: &'static str,
        /// The device of the call.
        expected: String,
        /// The device of the argument.
        got: String,
    },
    /// A valid request that no kernel serves yet.
    #[error("unsupported: {what} ({hint})")]
    Unsupported {
        /// The feature asked for.
        what: String,
        /// What can be done instead.
        hint: String,
    },
    /// No kernel was built for the device.
    #[error("no kernel for {device}: this build holds {built}; {hint}")]
    NoKernel {
        /// The device asked for.
        device: String,
        /// The architectures in this build.
        built: String,
        /// How to get one.
        hint: String,
    },
    /// The machine asked for is not there.
    #[error("{device} is not available: {reason}")]
    Unavailable {
        /// The device asked for.
        device: String,
        /// Why not.
        reason: String,
    },
    /// An index list breaks a rule that lists from the host must keep.
    #[error("{what}: row {row}: expected {expected}, got {got}")]
    List {
        /// The list.
        what: &'static str,
        /// The plan row.
        row: usize,
        /// The rule.
        expected: String,
        /// The entry or entries that break it.
        got: String,
    },
    /// A device allocation failed.
    #[error("out of memory on {device}: {bytes} bytes")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A driver or runtime call failed.
    #[error("{call} failed: {message}")]
    Cuda {
        /// The call.
        call: &'static str,
        /// Its error text.
        message: String,
    },
    /// The SIMT host found an error in a kernel: a race, a fault, a deadlock, a limit.
    #[error("SIMT host: {0}")]
    Simt(String),
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
