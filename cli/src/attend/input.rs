//! The tensors of a request, checked against each other and rounded to the compute type.

use crate::config::MethodKeys;
use crate::failure::Result;
use crate::files::TensorFile;
use half::{bf16, f16};
use lacuna::{AttentionShape, Half};
use safetensors::{Dtype, tensor::TensorView};

/// A request that makes sense: sizes agree, types are known.
pub struct Request<T> {
    /// Sizes.
    pub shape: AttentionShape,
    /// `[batch, q_heads, q_len, head_dim]`
    pub q: Vec<T>,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub k: Vec<T>,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub v: Vec<T>,
    /// For `blocks`: `[B or 1, 1 or kv_heads or q_heads, q blocks, kv blocks]`, non-zero: attend.
    pub block_mask: Option<([usize; 4], Vec<u8>)>,
}

impl<T: Half> Request<T> {
    /// Reads and checks what the method needs.
    pub fn read(file: &TensorFile, keys: &MethodKeys) -> Result<Self> {
        let tensors = file.tensors()?;
        let float = |name| file.float_tensor(&tensors, name);
        let ((q, q_dims), (k, k_dims), (v, v_dims)) = (float("q")?, float("k")?, float("v")?);
        let shape = shape(file, q_dims, k_dims, v_dims, T::DTYPE)?;
        let block_mask = match keys {
            MethodKeys::Blocks(keys) => Some(file.block_mask(&shape, keys.block_q, keys.block_k)?),
            MethodKeys::Dense(_) | MethodKeys::S2(_) | MethodKeys::Hyper(_) => None,
        };
        Ok(Self { shape, q: rounded(&q), k: rounded(&k), v: rounded(&v), block_mask })
    }
}

/// The sizes of the call, if the three tensors agree.
fn shape(
    file: &TensorFile,
    q: [usize; 4],
    k: [usize; 4],
    v: [usize; 4],
    dtype: lacuna::DType,
) -> Result<AttentionShape> {
    if v != k {
        return Err(file.error(format_args!("tensor `v` must have the shape of `k`, {k:?}, got {v:?}")));
    }
    let [batch, q_heads, q_len, head_dim] = q;
    let [_, kv_heads, kv_len, _] = k;
    if (k[0], k[3]) != (batch, head_dim) {
        let expected = format!("[{batch}, kv heads, keys, {head_dim}]");
        return Err(file.error(format_args!("tensor `k` must be {expected} to fit q {q:?}, got {k:?}")));
    }
    if kv_heads == 0 || q_heads == 0 || q_heads % kv_heads != 0 {
        return Err(
            file.error(format_args!("the heads of q must be a multiple of those of k, got {q_heads} and {kv_heads}"))
        );
    }
    let shape = AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, dtype };
    shape.validate().map_err(|e| file.error(e))?;
    Ok(shape)
}

/// The elements of a float tensor, rounded to nearest, ties to even. safetensors is little-endian.
fn rounded<T: Half>(view: &TensorView<'_>) -> Vec<T> {
    let data = view.data();
    let pairs = |value: fn([u8; 2]) -> f32| data.as_chunks().0.iter().map(|&b| T::from_f32(value(b))).collect();
    match view.dtype() {
        Dtype::F16 => pairs(|b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => pairs(|b| bf16::from_le_bytes(b).to_f32()),
        _ => data.as_chunks().0.iter().map(|&b| T::from_f32(f32::from_le_bytes(b))).collect(),
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
