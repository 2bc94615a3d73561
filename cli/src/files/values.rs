//! The numbers of a tensor.

use half::{bf16, f16};
use lacuna::Half;
use safetensors::{Dtype, tensor::TensorView};

/// The elements of a float tensor, rounded to nearest, ties to even. safetensors is little-endian.
pub fn rounded<T: Half>(view: &TensorView<'_>) -> Vec<T> {
    let data = view.data();
    let pairs = |value: fn([u8; 2]) -> f32| data.as_chunks().0.iter().map(|&b| T::from_f32(value(b))).collect();
    match view.dtype() {
        Dtype::F16 => pairs(|b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => pairs(|b| bf16::from_le_bytes(b).to_f32()),
        _ => data.as_chunks().0.iter().map(|&b| T::from_f32(f32::from_le_bytes(b))).collect(),
    }
}

/// The same as f32, which holds each of the types exactly.
pub fn floats(view: &TensorView<'_>) -> Vec<f32> {
    let data = view.data();
    match view.dtype() {
        Dtype::F16 => data.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_one<T: Half>(dtype: Dtype, bytes: &[u8]) -> f32 {
        let view = TensorView::new(dtype, vec![1], bytes).unwrap();
        rounded::<T>(&view)[0].to_f32()
    }

    #[test]
    fn rounds_to_nearest_even() {
        // Halfway between 1 and the next bf16 (1 + 2^-7), and between that and the one after.
        assert_eq!(round_one::<bf16>(Dtype::F32, &(1.0f32 + 0.00390625).to_le_bytes()), 1.0);
        assert_eq!(round_one::<bf16>(Dtype::F32, &(1.0f32 + 3.0 * 0.00390625).to_le_bytes()), 1.015625);
        assert_eq!(round_one::<bf16>(Dtype::F16, &f16::from_f32(1.0 + 1.0 / 256.0).to_le_bytes()), 1.0);
        assert_eq!(round_one::<f16>(Dtype::BF16, &bf16::from_f32(1e30).to_le_bytes()), f32::INFINITY);
        assert_eq!(round_one::<f16>(Dtype::F16, &0x3555u16.to_le_bytes()), f16::from_bits(0x3555).to_f32());
    }
}
