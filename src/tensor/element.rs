//! Element types of tensors.

use half::{bf16, f16};

use crate::shape::DType;

mod sealed {
    pub trait Sealed {}
}

/// A type that tensors hold: every bit pattern of it is a value.
///
/// # Safety
/// Implementors have no padding and no invalid bit pattern. The trait is sealed.
pub unsafe trait Element: Copy + Default + Send + Sync + 'static + sealed::Sealed {
    /// Name for messages, as in Rust.
    const NAME: &'static str;
}

macro_rules! elements {
    ($($name:ty),*) => {$(
        impl sealed::Sealed for $name {}
        // SAFETY: a plain number.
        unsafe impl Element for $name {
            const NAME: &'static str = stringify!($name);
        }
    )*};
}
elements!(f16, bf16, f32, i32, u32, u16, u8);

/// The element types of q, k, v and out.
pub trait Half: Element {
    /// The name of the type in [`AttentionShape`](crate::AttentionShape).
    const DTYPE: DType;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Exact.
    fn to_f32(self) -> f32;
}

impl Half for f16 {
    const DTYPE: DType = DType::F16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

impl Half for bf16 {
    const DTYPE: DType = DType::BF16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// The bytes of elements.
pub(super) fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    // SAFETY: elements have no padding, and any bytes are valid u8.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of elements, writable: any bytes make valid elements.
pub(super) fn bytes_of_mut<T: Element>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: elements have no padding, and any bit pattern is an element.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
