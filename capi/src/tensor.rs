//! Tensors of the caller.

use std::ffi::c_void;

use kernels::{Buffer, DType, Element, Layout, Tensor, TensorView, TensorViewMut, bf16, f16};

use crate::abi;
use crate::argument::size;
use crate::failure::{Failure, Result};
use crate::sized;
use crate::stream::Queue;

/// Types of elements, by their number in the header.
pub trait Coded: Element {
    const CODE: i32;
}

macro_rules! coded {
    ($($type:ty = $code:ident),*) => {$(impl Coded for $type { const CODE: i32 = abi::$code; })*};
}
coded!(
    f16 = LACUNA_DTYPE_F16,
    bf16 = LACUNA_DTYPE_BF16,
    f32 = LACUNA_DTYPE_F32,
    i32 = LACUNA_DTYPE_I32,
    u8 = LACUNA_DTYPE_U8
);

fn type_name(code: i32) -> String {
    let names = ["f16", "bf16", "f32", "i32", "u8"];
    let name = usize::try_from(code - 1).ok().and_then(|index| names.get(index));
    name.map_or_else(|| format!("{code}, which is no lacuna_dtype"), |name| (*name).into())
}

/// The compute type by its number.
pub fn half(what: &str, code: i32) -> Result<DType> {
    match code {
        abi::LACUNA_DTYPE_F16 => Ok(DType::F16),
        abi::LACUNA_DTYPE_BF16 => Ok(DType::BF16),
        _ => Err(Failure::value(what, "f16 or bf16", type_name(code))),
    }
}

/// Runs an expression with `$type` as the Rust type of a compute type.
macro_rules! with_half {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            kernels::DType::F16 => {
                type $type = kernels::f16;
                $body
            }
            kernels::DType::BF16 => {
                type $type = kernels::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_half;

/// A tensor whose numbers were checked, of memory that the caller vouches for.
pub struct Given {
    what: &'static str,
    code: i32,
    data: *mut c_void,
    dims: [usize; 4],
    strides: [i64; 3],
}

impl Given {
    /// # Safety
    /// `tensor` is null or a struct as large as it says, and its memory is as the header asks.
    pub unsafe fn read(what: &'static str, tensor: *const abi::lacuna_tensor, queue: &Queue) -> Result<Self> {
        // SAFETY: passed on to the caller.
        let tensor = unsafe { sized::read(tensor) }.map_err(|failure| failure.of(what))?;
        check_place(what, &tensor, queue)?;
        let mut dims = [0; 4];
        for (dim, &length) in dims.iter_mut().zip(&tensor.shape) {
            *dim = size(&format!("{what}: shape"), length)?;
        }
        let [batch, head, row, last] = tensor.strides;
        let strides = match last {
            0 => Layout::contiguous(dims).map_err(|error| Failure::from(error).of(what))?.strides(),
            1 => [batch, head, row],
            _ => return Err(Failure::value(&format!("{what}: the last stride"), "1 (or 0: packed)", last)),
        };
        let given = Self { what, code: tensor.dtype, data: tensor.data, dims, strides };
        let layout = Layout::strided(dims, strides).map_err(|error| given.failure(error))?;
        if given.data.is_null() && !layout.is_empty() {
            let text = format!("{what}: expected the address of {} elements, got null", layout.len());
            return Err(Failure::new(abi::LACUNA_ERROR_NULL, text));
        }
        Ok(given)
    }

    /// As [`read`](Self::read); nothing for null.
    ///
    /// # Safety
    /// As [`read`](Self::read).
    pub unsafe fn read_optional(
        what: &'static str,
        tensor: *const abi::lacuna_tensor,
        queue: &Queue,
    ) -> Result<Option<Self>> {
        // SAFETY: passed on to the caller.
        if tensor.is_null() { Ok(None) } else { unsafe { Self::read(what, tensor, queue) }.map(Some) }
    }

    fn failure(&self, error: kernels::Error) -> Failure {
        Failure::from(error).of(self.what)
    }

    /// The address as one of elements of `T`; that of an empty tensor is any.
    fn pointer<T: Coded>(&self) -> Result<*mut T> {
        if self.code != T::CODE {
            let what = format!("dtype of {}", self.what);
            return Err(Failure::value(&what, &type_name(T::CODE), type_name(self.code)));
        }
        let pointer: *mut T = self.data.cast();
        if pointer.is_null() {
            return Ok(std::ptr::dangling_mut());
        }
        if pointer.is_aligned() {
            return Ok(pointer);
        }
        let expected = format!("aligned to {} bytes", align_of::<T>());
        Err(Failure::value(&format!("address of {}", self.what), &expected, format!("{pointer:p}")))
    }

    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// The compute type of the elements.
    pub fn half(&self) -> Result<DType> {
        half(&format!("dtype of {}", self.what), self.code)
    }

    /// To read, during a call on `queue`.
    pub fn view<'a, T: Coded>(&self, queue: &'a Queue) -> Result<TensorView<'a, T>> {
        let pointer = self.pointer::<T>()?;
        // SAFETY: `read` was told that the memory is on this device, as large as the layout says, and used in the order
        // of the stream.
        unsafe { TensorView::from_raw(&queue.stream, pointer, self.dims, self.strides) }
            .map_err(|error| self.failure(error))
    }

    /// To write, during a call on `queue`.
    pub fn view_mut<'a, T: Coded>(&self, queue: &'a Queue) -> Result<TensorViewMut<'a, T>> {
        let pointer = self.pointer::<T>()?;
        // SAFETY: as in `view`; outputs overlap nothing.
        unsafe { TensorViewMut::from_raw(&queue.stream, pointer, self.dims, self.strides) }
            .map_err(|error| self.failure(error))
    }

    /// As a tensor of its own, which must be packed; the memory stays the caller's.
    pub fn tensor<T: Coded>(&self, queue: &Queue) -> Result<Tensor<T>> {
        let packed = Layout::strided(self.dims, self.strides).is_ok_and(|layout| layout.is_contiguous());
        if !packed {
            let text = format!("{}: expected packed elements, got strides {:?}", self.what, self.strides);
            return Err(Failure::new(abi::LACUNA_ERROR_SHAPE, text));
        }
        let pointer = self.pointer::<T>()?;
        // SAFETY: as in `view`.
        unsafe { Tensor::from_raw(&queue.stream, pointer, self.dims) }.map_err(|error| self.failure(error))
    }
}

/// What the caller says about the memory must not contradict the stream.
fn check_place(what: &str, tensor: &abi::lacuna_tensor, queue: &Queue) -> Result<()> {
    let place = match tensor.place {
        abi::LACUNA_PLACE_UNSAID => return Ok(()),
        abi::LACUNA_PLACE_HOST if queue.ordinal.is_none() => return Ok(()),
        abi::LACUNA_PLACE_HOST => "the host".into(),
        abi::LACUNA_PLACE_CUDA if queue.ordinal == Some(tensor.ordinal) => return Ok(()),
        abi::LACUNA_PLACE_CUDA => format!("cuda:{}", tensor.ordinal),
        _ => return Err(Failure::value(&format!("place of {what}"), "a lacuna_place", tensor.place)),
    };
    let text = format!("{what} lives on {place}, but the call runs on {}", queue.stream.device().name());
    Err(Failure::new(abi::LACUNA_ERROR_DEVICE, text))
}

/// The caller's workspace as a buffer.
///
/// # Safety
/// The memory is as the header asks.
pub unsafe fn workspace(queue: &Queue, pointer: *mut c_void, bytes: usize) -> Result<Buffer> {
    if pointer.is_null() && bytes > 0 {
        let text = format!("workspace: expected the address of {bytes} bytes, got null");
        return Err(Failure::new(abi::LACUNA_ERROR_NULL, text));
    }
    // SAFETY: passed on to the caller.
    unsafe { Buffer::from_raw(&queue.stream, pointer.cast(), bytes) }
        .map_err(|error| Failure::from(error).of("workspace"))
}
