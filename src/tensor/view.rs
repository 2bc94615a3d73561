//! Borrowed tensors: what kernels read and write.

use std::marker::PhantomData;

use super::element::Element;
use super::layout::Layout;
use crate::device::Stream;
use crate::error::{Error, Result};

/// A tensor to read.
///
/// It knows the stream its memory belongs to, so that use on another stream is ordered.
#[derive(Debug)]
pub struct TensorView<'a, T: Element> {
    pointer: *const T,
    layout: Layout,
    stream: &'a Stream,
    memory: PhantomData<&'a [T]>,
}

impl<T: Element> Clone for TensorView<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Element> Copy for TensorView<'_, T> {}

// SAFETY: a shared borrow of device memory that only kernels and copies read.
unsafe impl<T: Element> Send for TensorView<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for TensorView<'_, T> {}

impl<'a, T: Element> TensorView<'a, T> {
    /// Somebody else's memory as a tensor of `dims = [batch, heads, seq, dim]` with `strides` of the first three axes
    /// in elements (the last is contiguous). `stream` is the one that the memory is written and freed on.
    ///
    /// # Safety
    /// The memory must be of `stream`'s device and hold everything the layout reaches, aligned for `T`; for `'a`
    /// nobody may write or free it except in the order of `stream`.
    ///
    /// # Errors
    /// As [`Layout::strided`].
    pub unsafe fn from_raw(stream: &'a Stream, pointer: *const T, dims: [usize; 4], strides: [i64; 3]) -> Result<Self> {
        Ok(Self { pointer, layout: Layout::strided(dims, strides)?, stream, memory: PhantomData })
    }

    /// # Safety
    /// As [`TensorView::from_raw`].
    pub(super) unsafe fn new(stream: &'a Stream, pointer: *const T, layout: Layout) -> Self {
        Self { pointer, layout, stream, memory: PhantomData }
    }

    /// Sizes `[batch, heads, seq, dim]`.
    pub fn dims(&self) -> [usize; 4] {
        self.layout.dims()
    }

    /// Sizes and strides.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The address of the first element.
    pub fn as_ptr(&self) -> *const T {
        self.pointer
    }

    /// The stream that the memory belongs to.
    pub fn stream(&self) -> &'a Stream {
        self.stream
    }

    /// Reads the axes as `[batch, seq, heads, dim]`: exchanges the middle two, no element moves.
    #[must_use]
    pub fn bshd(self) -> Self {
        Self { layout: self.layout.swap_heads_and_seq(), ..self }
    }

    /// `len` indices of one axis from `start` on, no element moves. Cuts a fused q/k/v tensor, or a window of a cache.
    ///
    /// # Errors
    /// [`Error::Value`] for an axis above 3 or a range outside the axis.
    pub fn narrow(self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let (layout, offset) = self.layout.narrow(axis, start, len)?;
        // SAFETY: `narrow` keeps the offset inside the extent.
        Ok(Self { pointer: unsafe { self.pointer.add(offset) }, layout, ..self })
    }

    /// The same elements for each of `heads` heads: a stride of 0.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the second axis has one index.
    pub fn broadcast_heads(self, heads: usize) -> Result<Self> {
        let [batch, 1, seq, dim] = self.dims() else {
            return Err(Error::Shape {
                what: "broadcast",
                expected: "1 head".into(),
                got: format!("{:?}", self.dims()),
            });
        };
        let [sequence, _, row] = self.layout.strides();
        Ok(Self { layout: Layout::strided([batch, heads, seq, dim], [sequence, 0, row])?, ..self })
    }

    /// The same elements for each of `batch` sequences: a stride of 0.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the first axis has one index.
    pub fn broadcast_batch(self, batch: usize) -> Result<Self> {
        let [1, heads, seq, dim] = self.dims() else {
            return Err(Error::Shape {
                what: "broadcast",
                expected: "1 sequence".into(),
                got: format!("{:?}", self.dims()),
            });
        };
        let [_, head, row] = self.layout.strides();
        Ok(Self { layout: Layout::strided([batch, heads, seq, dim], [0, head, row])?, ..self })
    }
}

/// A tensor to write. Different indices are different elements.
#[derive(Debug)]
pub struct TensorViewMut<'a, T: Element> {
    pointer: *mut T,
    layout: Layout,
    stream: &'a Stream,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: an exclusive borrow of device memory; nothing ties it to a thread.
unsafe impl<T: Element> Send for TensorViewMut<'_, T> {}
// SAFETY: writing needs `&mut`.
unsafe impl<T: Element> Sync for TensorViewMut<'_, T> {}

impl<'a, T: Element> TensorViewMut<'a, T> {
    /// Somebody else's memory as a tensor to write; arguments as in [`TensorView::from_raw`].
    ///
    /// # Safety
    /// The memory must be of `stream`'s device and hold everything the layout reaches, aligned for `T`; for `'a`
    /// nobody else may read, write or free it except in the order of `stream`. It must not overlap an input of a call
    /// that writes it.
    ///
    /// # Errors
    /// As [`Layout::strided`]; [`Error::Value`] when two indices are one element.
    pub unsafe fn from_raw(stream: &'a Stream, pointer: *mut T, dims: [usize; 4], strides: [i64; 3]) -> Result<Self> {
        let layout = Layout::strided(dims, strides)?;
        check_injective(&layout)?;
        Ok(Self { pointer, layout, stream, memory: PhantomData })
    }

    /// # Safety
    /// As [`TensorViewMut::from_raw`]; the layout is injective.
    pub(super) unsafe fn new(stream: &'a Stream, pointer: *mut T, layout: Layout) -> Self {
        Self { pointer, layout, stream, memory: PhantomData }
    }

    /// Sizes `[batch, heads, seq, dim]`.
    pub fn dims(&self) -> [usize; 4] {
        self.layout.dims()
    }

    /// Sizes and strides.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The address of the first element.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.pointer
    }

    /// The stream that the memory belongs to.
    pub fn stream(&self) -> &'a Stream {
        self.stream
    }

    /// Reads the axes as `[batch, seq, heads, dim]`: exchanges the middle two, no element moves.
    #[must_use]
    pub fn bshd(self) -> Self {
        Self { layout: self.layout.swap_heads_and_seq(), ..self }
    }

    /// `len` indices of one axis from `start` on, no element moves.
    ///
    /// # Errors
    /// [`Error::Value`] for an axis above 3 or a range outside the axis.
    pub fn narrow(self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let (layout, offset) = self.layout.narrow(axis, start, len)?;
        // SAFETY: `narrow` keeps the offset inside the extent.
        Ok(Self { pointer: unsafe { self.pointer.add(offset) }, layout, ..self })
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> TensorViewMut<'_, T> {
        TensorViewMut { pointer: self.pointer, layout: self.layout, stream: self.stream, memory: PhantomData }
    }
}

/// # Errors
/// [`Error::Value`] when two indices may be one element, as nobody may write through such a layout.
pub(super) fn check_injective(layout: &Layout) -> Result<()> {
    if layout.is_empty() || layout.is_injective() {
        return Ok(());
    }
    Err(Error::Value {
        what: "strides",
        expected: "such that no two indices of a tensor to write are one element".into(),
        got: format!("{:?} for {:?}", layout.strides(), layout.dims()),
    })
}
