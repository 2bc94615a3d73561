//! The border: no panic crosses it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi;
use crate::failure::{Failure, Result, remember};

/// Runs the body of an entry point; every failure leaves its text for `lacuna_last_error`.
///
/// After a panic the objects of the call may be used on: locks are taken whether or not a panic passed them, and the
/// library changes its objects after its checks, in single steps.
pub fn guard(body: impl FnOnce() -> Result<()>) -> abi::lacuna_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => abi::LACUNA_OK,
        Ok(Err(failure)) => remember(failure),
        Err(payload) => {
            let said = payload.downcast_ref::<&str>().copied();
            let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
            let status = remember(Failure::new(abi::LACUNA_ERROR_PANIC, format!("a defect of lacuna: {said}")));
            // Dropping what was thrown may panic again.
            std::mem::forget(payload);
            status
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::last;
    use std::ffi::CStr;

    fn text() -> String {
        // SAFETY: a C string of this thread, with no failure in between.
        unsafe { CStr::from_ptr(last()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn panics_become_a_status() {
        assert_eq!(guard(|| panic!("at {}", 7)), abi::LACUNA_ERROR_PANIC);
        assert_eq!(text(), "a defect of lacuna: at 7");
        assert_eq!(guard(|| std::panic::panic_any(3)), abi::LACUNA_ERROR_PANIC);
        assert_eq!(text(), "a defect of lacuna: no text");
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(guard(|| std::panic::panic_any(Bomb)), abi::LACUNA_ERROR_PANIC);
    }

    #[test]
    fn texts_belong_to_threads_and_to_failures() {
        let failure = |text: &str| Err(Failure::new(abi::LACUNA_ERROR_LIST, text));
        assert_eq!(guard(|| failure("here\0 and there")), abi::LACUNA_ERROR_LIST);
        assert_eq!(guard(|| Ok(())), abi::LACUNA_OK);
        std::thread::spawn(|| assert_eq!(text(), "")).join().unwrap();
        assert_eq!(text(), "here and there");
    }
}
