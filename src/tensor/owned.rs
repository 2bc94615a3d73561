//! Tensors that own their memory.

use super::element::{Element, Half, bytes_of, bytes_of_mut};
use super::layout::Layout;
use super::view::{TensorView, TensorViewMut, check_injective};
use crate::device::{Buffer, Stream};
use crate::error::{Error, Result};

/// A tensor `[batch, heads, seq, dim]` that owns its memory on a stream.
///
/// Vectors are tensors `[1, 1, 1, n]`, per-row values such as LSE `[batch, heads, seq, 1]`. Data in the order
/// `[batch, seq, heads, dim]` is stored with these sizes and read through [`TensorView::bshd`].
#[derive(Debug)]
pub struct Tensor<T: Element> {
    buffer: Buffer,
    layout: Layout,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> Tensor<T> {
    /// A packed tensor with arbitrary contents.
    ///
    /// # Errors
    /// [`Error::Shape`] for sizes that can't be counted, [`Error::OutOfMemory`].
    pub fn uninit(stream: &Stream, dims: [usize; 4]) -> Result<Self> {
        Self::with_layout(stream, Layout::contiguous(dims)?)
    }

    /// A tensor with a layout of one's own and arbitrary contents.
    ///
    /// # Errors
    /// [`Error::Value`] for a layout that repeats elements, [`Error::OutOfMemory`].
    pub fn with_layout(stream: &Stream, layout: Layout) -> Result<Self> {
        check_injective(&layout)?;
        let bytes = layout.extent().checked_mul(size_of::<T>());
        let out_of_memory = || Error::OutOfMemory { device: stream.device().name(), bytes: usize::MAX };
        let buffer = stream.alloc_bytes(bytes.ok_or_else(out_of_memory)?)?;
        Ok(Self { buffer, layout, element: std::marker::PhantomData })
    }

    /// Somebody else's memory as a packed tensor, for arguments that calls take whole (lengths, lists, weights). It is
    /// never freed here.
    ///
    /// # Safety
    /// The memory must be of `stream`'s device and hold `dims`, aligned for `T`; while the tensor lives nobody else may
    /// use or free it except in the order of `stream`, unless both only read.
    ///
    /// # Errors
    /// As [`Layout::contiguous`]; [`Error::Value`] for a null address, or one that is not aligned for `T`.
    pub unsafe fn from_raw(stream: &Stream, pointer: *mut T, dims: [usize; 4]) -> Result<Self> {
        let layout = Layout::contiguous(dims)?;
        if !layout.is_empty() && (pointer.is_null() || !pointer.is_aligned()) {
            let expected = format!("not null and a multiple of {}", align_of::<T>());
            return Err(Error::Value { what: "address of a tensor", expected, got: format!("{pointer:p}") });
        }
        // SAFETY: passed on to the caller; fewer than 2^62 elements of at most 4 bytes.
        let buffer = unsafe { Buffer::foreign(stream, pointer.cast(), layout.extent() * size_of::<T>()) };
        Ok(Self { buffer, layout, element: std::marker::PhantomData })
    }

    /// A packed tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::uninit`].
    pub fn zeros(stream: &Stream, dims: [usize; 4]) -> Result<Self> {
        let mut tensor = Self::uninit(stream, dims)?;
        tensor.fill_bytes(stream, 0)?;
        Ok(tensor)
    }

    /// A packed tensor of these elements, in index order.
    ///
    /// # Errors
    /// [`Error::Shape`] when `values` has another size, [`Error::OutOfMemory`].
    pub fn from_slice(stream: &Stream, values: &[T], dims: [usize; 4]) -> Result<Self> {
        let mut tensor = Self::uninit(stream, dims)?;
        tensor.copy_from_slice(stream, values)?;
        Ok(tensor)
    }

    /// A vector: the tensor `[1, 1, 1, n]`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn vector(stream: &Stream, values: &[T]) -> Result<Self> {
        Self::from_slice(stream, values, [1, 1, 1, values.len()])
    }

    /// Sizes `[batch, heads, seq, dim]`.
    pub fn dims(&self) -> [usize; 4] {
        self.layout.dims()
    }

    /// Sizes and strides.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The stream that the memory belongs to.
    pub fn stream(&self) -> &Stream {
        self.buffer.stream()
    }

    /// Borrows it for reading.
    pub fn view(&self) -> TensorView<'_, T> {
        // SAFETY: the buffer has the layout's extent and lives as long as the borrow; buffers are aligned to 16 bytes.
        unsafe { TensorView::new(self.buffer.stream(), self.buffer.as_ptr().cast(), self.layout) }
    }

    /// Borrows it for writing.
    pub fn view_mut(&mut self) -> TensorViewMut<'_, T> {
        let pointer = self.buffer.as_mut_ptr().cast();
        // SAFETY: as in `view`; `&mut self` excludes other borrows, and `with_layout` checked the layout.
        unsafe { TensorViewMut::new(self.buffer.stream(), pointer, self.layout) }
    }

    /// Writes all elements, in index order, and waits. Gaps of a strided layout become bytes 0xFF: NaN.
    ///
    /// # Errors
    /// [`Error::Shape`] when `values` has another size, [`Error::Device`] for a stream of another device,
    /// [`Error::Cuda`] when the driver refuses.
    pub fn copy_from_slice(&mut self, stream: &Stream, values: &[T]) -> Result<()> {
        if values.len() != self.layout.len() {
            return Err(Error::Shape {
                what: "tensor data",
                expected: format!("{} elements for {:?}", self.layout.len(), self.layout.dims()),
                got: values.len().to_string(),
            });
        }
        if self.layout.is_contiguous() {
            return self.buffer.copy_from_host(stream, bytes_of(values));
        }
        let mut storage = vec![T::default(); self.layout.extent()];
        bytes_of_mut(&mut storage).fill(0xFF);
        let mut rows = values.chunks_exact(self.layout.dims()[3].max(1));
        self.layout.for_each_row(|offset| {
            if let Some(row) = rows.next() {
                storage[offset..offset + row.len()].copy_from_slice(row);
            }
        });
        self.buffer.copy_from_host(stream, bytes_of(&storage))
    }

    /// All elements in index order, after all work that writes them; waits.
    ///
    /// # Errors
    /// [`Error::Device`] for a stream of another device, [`Error::Cuda`] when the driver refuses.
    pub fn to_vec(&self, stream: &Stream) -> Result<Vec<T>> {
        let storage = self.storage_to_vec(stream)?;
        if self.layout.is_contiguous() {
            return Ok(storage);
        }
        let mut values = Vec::with_capacity(self.layout.len());
        let dim = self.layout.dims()[3];
        self.layout.for_each_row(|offset| values.extend_from_slice(&storage[offset..offset + dim]));
        Ok(values)
    }

    /// The whole memory, gaps of a strided layout included; waits.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn storage_to_vec(&self, stream: &Stream) -> Result<Vec<T>> {
        let mut storage = vec![T::default(); self.layout.extent()];
        self.buffer.copy_to_host(stream, bytes_of_mut(&mut storage))?;
        Ok(storage)
    }

    /// Sets every byte of the memory, in stream order; 0xFF makes floats NaN.
    ///
    /// # Errors
    /// As [`Buffer::fill`].
    pub fn fill_bytes(&mut self, stream: &Stream, value: u8) -> Result<()> {
        self.buffer.fill(stream, value)
    }
}

impl<T: Half> Tensor<T> {
    /// A packed tensor of normally distributed values (mean 0, deviation 1), the same for the same seed everywhere.
    ///
    /// # Errors
    /// As [`Tensor::uninit`].
    pub fn random(stream: &Stream, dims: [usize; 4], seed: u64) -> Result<Self> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // SplitMix64. The sum of twelve uniform numbers is close enough to a normal one, and needs no libm.
        let mut uniform = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let parts = [z & 0xFFFF, (z >> 16) & 0xFFFF, (z >> 32) & 0xFFFF, z >> 48];
            parts.iter().sum::<u64>() as f32 / 65536.0
        };
        let layout = Layout::contiguous(dims)?;
        let values: Vec<T> = (0..layout.len()).map(|_| T::from_f32(uniform() + uniform() + uniform() - 6.0)).collect();
        Self::from_slice(stream, &values, dims)
    }
}
