//! Gates of SeerAttention.

use kernels::seer::{DecodeGate, DecodeGateConfig, DecodeGateWeights, GateConfig, GateWeights, Pools, Rope, SeerGate};
use kernels::{bf16, f16};

use crate::abi;
use crate::argument::{Out, flag, size, slice};
use crate::failure::{Failure, Result};
use crate::guard::guard;
use crate::handle::{destroy, give, object, take};
use crate::sized;
use crate::stream::Queue;
use crate::tensor::{Coded, Given, half, with_half};

/// A gate of whatever kind and compute type. Nothing changes after it is made.
pub enum Gate {
    PrefillF16(SeerGate<f16>),
    PrefillBf16(SeerGate<bf16>),
    DecodeF16(DecodeGate<f16>),
    DecodeBf16(DecodeGate<bf16>),
}

object!(Gate, abi::lacuna_gate, 5, "gate");

/// The variants of a compute type.
pub trait Typed: Coded + kernels::Half {
    fn prefill(gate: SeerGate<Self>) -> Gate;
    fn decode(gate: DecodeGate<Self>) -> Gate;
}

impl Typed for f16 {
    fn prefill(gate: SeerGate<Self>) -> Gate {
        Gate::PrefillF16(gate)
    }
    fn decode(gate: DecodeGate<Self>) -> Gate {
        Gate::DecodeF16(gate)
    }
}

impl Typed for bf16 {
    fn prefill(gate: SeerGate<Self>) -> Gate {
        Gate::PrefillBf16(gate)
    }
    fn decode(gate: DecodeGate<Self>) -> Gate {
        Gate::DecodeBf16(gate)
    }
}

/// Runs one expression for prefill gates and one for decode gates.
macro_rules! by_kind {
    ($gate:expr, $prefill:ident => $one:expr, $decode:ident => $two:expr) => {
        match $gate {
            Gate::PrefillF16($prefill) => $one,
            Gate::PrefillBf16($prefill) => $one,
            Gate::DecodeF16($decode) => $two,
            Gate::DecodeBf16($decode) => $two,
        }
    };
}
pub(crate) use by_kind;

/// The sizes of a config: (q_heads, kv_heads, head_dim), max_len, block_size.
fn model(config: &abi::lacuna_gate_config) -> Result<((usize, usize, usize), usize, usize)> {
    let heads =
        (size("q_heads", config.q_heads)?, size("kv_heads", config.kv_heads)?, size("head_dim", config.head_dim)?);
    Ok((heads, size("max_len", config.max_len)?, size("block_size", config.block_size)?))
}

fn pools(what: &str, bits: i32) -> Result<Pools> {
    let known = abi::LACUNA_POOL_MAX | abi::LACUNA_POOL_MIN | abi::LACUNA_POOL_AVG;
    if bits & !known != 0 {
        return Err(Failure::value(what, "bits of lacuna_pool", format!("{bits:#x}")));
    }
    let has = |bit| bits & bit != 0;
    Ok(Pools { max: has(abi::LACUNA_POOL_MAX), min: has(abi::LACUNA_POOL_MIN), avg: has(abi::LACUNA_POOL_AVG) })
}

/// # Safety
/// Frequencies are as the header asks.
unsafe fn rope(config: &abi::lacuna_gate_config, gate_dim: usize) -> Result<Option<Rope>> {
    if !config.rope_frequencies.is_null() {
        let len = size("rope_frequencies_len", config.rope_frequencies_len)?;
        // SAFETY: passed on to the caller.
        let frequencies = unsafe { slice("rope_frequencies", config.rope_frequencies, len)? };
        return Ok(Some(Rope::from_frequencies(frequencies.to_vec(), config.rope_factor)));
    }
    if config.rope_frequencies_len != 0 {
        return Err(Failure::value("rope_frequencies_len", "0 without frequencies", config.rope_frequencies_len));
    }
    match config.rope_theta {
        0.0 => Ok(None),
        theta if theta.is_finite() && theta > 0.0 => Ok(Some(Rope::new(theta, gate_dim))),
        theta => Err(Failure::value("rope_theta", "positive and finite, or 0", theta)),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_create(
    stream: *mut abi::lacuna_stream,
    config: *const abi::lacuna_gate_config,
    w_k: *const abi::lacuna_tensor,
    w_q: *const abi::lacuna_tensor,
    gate: *mut *mut abi::lacuna_gate,
) -> abi::lacuna_status {
    guard(|| {
        let queue = take::<Queue>(stream)?;
        // SAFETY: the header asks for structs as large as they say, a place for a handle, and weights that outlive it.
        let (out, config, w_k, w_q) = unsafe {
            (
                Out::new("gate", gate)?,
                sized::read(config)?,
                Given::read("w_k", w_k, &queue)?,
                Given::read_optional("w_q", w_q, &queue)?,
            )
        };
        let (heads, max_len, block_size) = model(&config)?;
        let settings = GateConfig {
            block_size,
            q_pool: pools("q_pool", config.q_pool)?,
            k_pool: pools("k_pool", config.k_pool)?,
            // SAFETY: as above.
            rope: unsafe { rope(&config, w_k.dims()[3])? },
        };
        with_half!(half("dtype of the gate", config.dtype)?, T => {
            let w_q = w_q.map(|w_q| w_q.tensor::<T>(&queue)).transpose()?;
            let weights = GateWeights { w_k: w_k.tensor::<T>(&queue)?, w_q };
            give(T::prefill(SeerGate::new(&queue.stream, heads, max_len, settings, weights)?), out)
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decode_gate_create(
    stream: *mut abi::lacuna_stream,
    config: *const abi::lacuna_gate_config,
    w_q: *const abi::lacuna_tensor,
    w_k: *const abi::lacuna_tensor,
    q_norm: *const abi::lacuna_tensor,
    k_norm: *const abi::lacuna_tensor,
    gate: *mut *mut abi::lacuna_gate,
) -> abi::lacuna_status {
    guard(|| {
        let queue = take::<Queue>(stream)?;
        // SAFETY: the header asks for structs as large as they say, a place for a handle, and weights that outlive it.
        let (out, config, w_q, w_k, q_norm, k_norm) = unsafe {
            (
                Out::new("gate", gate)?,
                sized::read(config)?,
                Given::read("w_q", w_q, &queue)?,
                Given::read("w_k", w_k, &queue)?,
                Given::read_optional("q_norm", q_norm, &queue)?,
                Given::read_optional("k_norm", k_norm, &queue)?,
            )
        };
        let (heads, max_len, block_size) = model(&config)?;
        let settings = DecodeGateConfig {
            block_size,
            k_pool: pools("k_pool", config.k_pool)?,
            // SAFETY: as above.
            rope: unsafe { rope(&config, w_k.dims()[3])? },
            norm_eps: config.norm_eps,
            compat: flag("compat", config.compat)?,
        };
        let norm = |given: Option<Given>| given.map(|norm| norm.tensor(&queue)).transpose();
        let (q_norm, k_norm) = (norm(q_norm)?, norm(k_norm)?);
        with_half!(half("dtype of the gate", config.dtype)?, T => {
            let (w_q, w_k) = (w_q.tensor::<T>(&queue)?, w_k.tensor::<T>(&queue)?);
            let weights = DecodeGateWeights { w_q, w_k, q_norm, k_norm };
            give(T::decode(DecodeGate::new(&queue.stream, heads, max_len, settings, weights)?), out)
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_destroy(gate: *mut abi::lacuna_gate) -> abi::lacuna_status {
    guard(|| destroy::<Gate>(gate))
}
