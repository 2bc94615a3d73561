//! The library as a whole.

use std::ffi::c_char;

use crate::abi;
use crate::failure;

const _: () = {
    // The header's version is that of the package.
    const fn number(text: &str) -> i32 {
        let (bytes, mut value, mut i) = (text.as_bytes(), 0, 0);
        while i < bytes.len() {
            value = 10 * value + (bytes[i] - b'0') as i32;
            i += 1;
        }
        value
    }
    assert!(number(env!("CARGO_PKG_VERSION_MAJOR")) == abi::LACUNA_VERSION_MAJOR);
    assert!(number(env!("CARGO_PKG_VERSION_MINOR")) == abi::LACUNA_VERSION_MINOR);
    assert!(number(env!("CARGO_PKG_VERSION_PATCH")) == abi::LACUNA_VERSION_PATCH);
};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_version() -> u32 {
    (abi::LACUNA_VERSION_MAJOR << 16 | abi::LACUNA_VERSION_MINOR << 8 | abi::LACUNA_VERSION_PATCH) as u32
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_build() -> *const c_char {
    let machines = match (cfg!(feature = "simt"), cfg!(feature = "cuda")) {
        (true, true) => c"simt, cuda",
        (true, false) => c"simt",
        (false, true) => c"cuda",
        (false, false) => c"",
    };
    machines.as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_status_name(status: abi::lacuna_status) -> *const c_char {
    failure::name(status).as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_last_error() -> *const c_char {
    failure::last()
}
