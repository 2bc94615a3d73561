//! Tensors on a device: four axes `[batch, heads, seq, dim]`, any strides, the last axis contiguous.

mod element;
mod layout;
mod owned;
mod view;

pub use element::{Element, Half};
pub use layout::Layout;
pub use owned::Tensor;
pub use view::{TensorView, TensorViewMut};
