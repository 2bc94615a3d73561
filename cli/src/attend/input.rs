//! The tensors of a request, checked against each other and rounded to the compute type.

use super::gate::Gate;
use super::pattern::Pattern;
use crate::attention_call::Inputs;
use crate::config::MethodKeys;
use crate::failure::{Result, request};
use crate::files::{TensorFile, rounded};
use lacuna::{AttentionShape, Half};

/// The tensors of every request, in agreement with each other.
pub struct Qkv<T> {
    /// Sizes.
    pub shape: AttentionShape,
    /// `[batch, q_heads, q_len, head_dim]`
    pub q: Vec<T>,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub k: Vec<T>,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub v: Vec<T>,
}

impl<T: Half> Qkv<T> {
    /// Reads and checks `q`, `k` and `v`.
    pub fn read(file: &TensorFile) -> Result<Self> {
        let tensors = file.tensors()?;
        let float = |name| file.float_tensor::<4>(&tensors, name);
        let ((q, q_dims), (k, k_dims), (v, v_dims)) = (float("q")?, float("k")?, float("v")?);
        let shape = shape(file, q_dims, k_dims, v_dims, T::DTYPE)?;
        Ok(Self { shape, q: rounded(&q), k: rounded(&k), v: rounded(&v) })
    }
}

impl<T> Qkv<T> {
    /// For the kernels.
    pub fn inputs(&self) -> Inputs<'_, T> {
        Inputs { q: &self.q, k: &self.k, v: &self.v }
    }
}

/// A request that makes sense: sizes agree, types are known.
pub struct Request<T> {
    /// q, k and v.
    pub qkv: Qkv<T>,
    /// Which keys are read.
    pub planner: Planner<T>,
}

/// What says which keys are read.
pub enum Planner<T> {
    /// A pattern that is known without looking at q and k.
    Pattern(Pattern),
    /// A gate.
    Gate(Gate<T>),
}

impl<T: Half> Request<T> {
    /// Reads and checks what the method needs.
    pub fn read(file: &TensorFile, keys: &MethodKeys) -> Result<Self> {
        let qkv = Qkv::read(file)?;
        let planner = match keys {
            MethodKeys::Pattern(keys) => Planner::Pattern(Pattern::read(file, keys, &qkv.shape)?),
            MethodKeys::Seer(keys) => Planner::Gate(Gate::read(file, &qkv.shape, keys)?),
            MethodKeys::Hyper(_) => return request!("method hyper makes no plan of blocks"),
        };
        Ok(Self { qkv, planner })
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
