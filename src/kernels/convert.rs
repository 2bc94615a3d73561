//! Shapes, masks and strides as the C structs.

use super::bindings as abi;
use crate::shape::{AttentionShape, DType, Mask};
use crate::tensor::Layout;

/// A shape that passed [`AttentionShape::validate`].
pub(crate) fn shape(shape: &AttentionShape) -> abi::lacuna_shape {
    abi::lacuna_shape {
        batch: shape.batch as i32,
        q_heads: shape.q_heads as i32,
        kv_heads: shape.kv_heads as i32,
        q_len: shape.q_len as i32,
        kv_len: shape.kv_len as i32,
        head_dim: shape.head_dim as i32,
        dtype: dtype(shape.dtype),
        ..Default::default()
    }
}

pub(crate) fn dtype(dtype: DType) -> i32 {
    match dtype {
        DType::F16 => abi::LACUNA_F16,
        DType::BF16 => abi::LACUNA_BF16,
    }
}

/// A mask for a valid shape. A window that reaches over all keys anyway is none, which keeps the kernels' sums of
/// positions and windows inside 32 bits.
pub(crate) fn mask(mask: &Mask, shape: &AttentionShape) -> abi::lacuna_mask {
    let window = |size: Option<usize>, all: usize| size.filter(|&size| size < all).map_or(-1, |size| size as i32);
    abi::lacuna_mask {
        causal: i32::from(mask.causal),
        window_left: window(mask.window_left, shape.kv_len),
        window_right: window(mask.window_right, shape.q_len),
    }
}

pub(crate) fn strides(layout: &Layout) -> abi::lacuna_strides {
    let [batch, head, seq] = layout.strides();
    abi::lacuna_strides { batch, head, seq }
}
