//! Pointers and numbers from the caller.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

use crate::abi;
use crate::failure::{Failure, Result};

fn null(what: &str) -> Failure {
    Failure::new(abi::LACUNA_ERROR_NULL, format!("{what}: expected an address, got null"))
}

/// A place that the caller wants a result in.
#[derive(Clone, Copy)]
pub struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is null or may be written until the call returns.
    pub unsafe fn new(what: &str, pointer: *mut T) -> Result<Self> {
        let pointer = NonNull::new(pointer).ok_or_else(|| null(what))?;
        if pointer.is_aligned() {
            return Ok(Self(pointer));
        }
        Err(Failure::value(what, &format!("an address aligned to {} bytes", align_of::<T>()), format!("{pointer:p}")))
    }

    pub fn set(self, value: T) {
        // SAFETY: writable and aligned, as `new` was told and checked. What was there is the caller's and not dropped.
        unsafe { self.0.write(value) };
    }
}

/// An array in host memory; null stands for an empty one.
///
/// # Safety
/// `pointer` is null or holds `len` elements that nobody writes while `'a` lasts.
pub unsafe fn slice<'a, T>(what: &str, pointer: *const T, len: usize) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(null(what));
    }
    if !pointer.is_aligned() || len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        let expected = format!("aligned to {} bytes and below 2^63 bytes", align_of::<T>());
        return Err(Failure::value(what, &expected, format!("{len} elements at {pointer:p}")));
    }
    // SAFETY: checked above, and passed on to the caller.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// # Safety
/// `pointer` is null or a C string that nobody writes while `'a` lasts.
pub unsafe fn text<'a>(what: &str, pointer: *const c_char) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(null(what));
    }
    // SAFETY: passed on to the caller.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::value(what, "UTF-8", format!("`{}`", text.to_string_lossy())))
}

/// A count that must not be negative.
pub fn size(what: &str, value: i64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Failure::value(what, "at least 0", value))
}

/// 0 or 1.
pub fn flag(what: &str, value: i32) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Failure::value(what, "0 or 1", value)),
    }
}

/// Puts a text into a fixed array, cut at a character, with a zero behind it.
pub fn put_text<const N: usize>(to: &mut [c_char; N], text: &str) {
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    to.fill(0);
    for (to, &byte) in to.iter_mut().zip(&text.as_bytes()[..end]) {
        *to = byte as c_char;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character() {
        let mut place = [1; 4];
        put_text(&mut place, "aé€");
        assert_eq!(place.map(|c| c as u8), [b'a', 0xc3, 0xa9, 0]);
        put_text(&mut place, "€€");
        assert_eq!(place.map(|c| c as u8), [0xe2, 0x82, 0xac, 0]);
        put_text(&mut place, "é€");
        assert_eq!(place.map(|c| c as u8), [0xc3, 0xa9, 0, 0]);
    }

    #[test]
    fn bad_pointers_are_refused() {
        let numbers = [1u32, 2];
        let odd = numbers.as_ptr().cast::<u8>().wrapping_add(1).cast::<u32>();
        // SAFETY: refused before they are read.
        unsafe {
            assert_eq!(slice("list", std::ptr::null::<u32>(), 1).unwrap_err().status, abi::LACUNA_ERROR_NULL);
            assert!(slice("list", std::ptr::null::<u32>(), 0).unwrap().is_empty());
            assert_eq!(slice("list", odd, 1).unwrap_err().status, abi::LACUNA_ERROR_VALUE);
            assert_eq!(slice("list", numbers.as_ptr(), usize::MAX / 2).unwrap_err().status, abi::LACUNA_ERROR_VALUE);
            assert!(Out::new("place", odd.cast_mut()).is_err());
            assert!(Out::<u32>::new("place", std::ptr::null_mut()).is_err());
        }
    }
}
