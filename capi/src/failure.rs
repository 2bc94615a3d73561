//! What a failed call says: a status and a sentence.

use std::cell::RefCell;
use std::ffi::{CStr, CString};

use kernels::Error;

use crate::abi;

/// Why a call failed.
#[derive(Debug)]
pub struct Failure {
    pub status: abi::lacuna_status,
    pub text: String,
}

/// `Result` with a [`Failure`].
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(status: abi::lacuna_status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// A number or option outside its range.
    pub fn value(what: &str, expected: &str, got: impl ToString) -> Self {
        Self::new(abi::LACUNA_ERROR_VALUE, format!("{what} must be {expected}, got {}", got.to_string()))
    }

    /// The same failure of a named argument.
    pub fn of(self, what: &str) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Shape { .. } => abi::LACUNA_ERROR_SHAPE,
            Error::Value { .. } => abi::LACUNA_ERROR_VALUE,
            Error::Device { .. } => abi::LACUNA_ERROR_DEVICE,
            Error::NoKernel { .. } => abi::LACUNA_ERROR_NO_KERNEL,
            Error::Unavailable { .. } => abi::LACUNA_ERROR_UNAVAILABLE,
            Error::List { .. } => abi::LACUNA_ERROR_LIST,
            Error::OutOfMemory { .. } => abi::LACUNA_ERROR_OUT_OF_MEMORY,
            Error::Cuda { .. } => abi::LACUNA_ERROR_CUDA,
            Error::Simt(_) => abi::LACUNA_ERROR_SIMT,
            // Variants of later versions are unknown to this ABI.
            Error::Unsupported { .. } | _ => abi::LACUNA_ERROR_UNSUPPORTED,
        };
        Self::new(status, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the text for [`last`]; gives the status.
pub fn remember(failure: Failure) -> abi::lacuna_status {
    let text: Vec<u8> = failure.text.into_bytes().into_iter().filter(|&byte| byte != 0).collect();
    // Without null bytes there is a C string. A thread that ends has no error left to ask for.
    let text = CString::new(text).unwrap_or_default();
    let _ = LAST.try_with(|last| *last.borrow_mut() = text);
    failure.status
}

/// The text of the last failure of this thread, valid until the next one.
pub fn last() -> *const std::ffi::c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The name of a status.
pub fn name(status: abi::lacuna_status) -> &'static CStr {
    match status {
        abi::LACUNA_OK => c"LACUNA_OK",
        abi::LACUNA_ERROR_NULL => c"LACUNA_ERROR_NULL",
        abi::LACUNA_ERROR_STRUCT => c"LACUNA_ERROR_STRUCT",
        abi::LACUNA_ERROR_HANDLE => c"LACUNA_ERROR_HANDLE",
        abi::LACUNA_ERROR_SHAPE => c"LACUNA_ERROR_SHAPE",
        abi::LACUNA_ERROR_VALUE => c"LACUNA_ERROR_VALUE",
        abi::LACUNA_ERROR_DEVICE => c"LACUNA_ERROR_DEVICE",
        abi::LACUNA_ERROR_UNSUPPORTED => c"LACUNA_ERROR_UNSUPPORTED",
        abi::LACUNA_ERROR_NO_KERNEL => c"LACUNA_ERROR_NO_KERNEL",
        abi::LACUNA_ERROR_UNAVAILABLE => c"LACUNA_ERROR_UNAVAILABLE",
        abi::LACUNA_ERROR_LIST => c"LACUNA_ERROR_LIST",
        abi::LACUNA_ERROR_OUT_OF_MEMORY => c"LACUNA_ERROR_OUT_OF_MEMORY",
        abi::LACUNA_ERROR_CUDA => c"LACUNA_ERROR_CUDA",
        abi::LACUNA_ERROR_SIMT => c"LACUNA_ERROR_SIMT",
        abi::LACUNA_ERROR_PANIC => c"LACUNA_ERROR_PANIC",
        _ => c"unknown status",
    }
}
