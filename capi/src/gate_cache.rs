//! Caches of gate vectors.

use std::ffi::c_void;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use kernels::Tensor;
use kernels::seer::{GateCache, Span};

use crate::abi;
use crate::argument::{Out, flag, size};
use crate::failure::Failure;
use crate::gate::{Gate, by_kind};
use crate::guard::guard;
use crate::handle::{destroy, give, object, take};
use crate::stream::Queue;
use crate::tensor::{Given, workspace};

/// A cache. Selections read it; appending is exclusive.
pub struct Cache(RwLock<GateCache>);

object!(Cache, abi::lacuna_gate_cache, 6, "gate cache");

impl Cache {
    pub fn read(&self) -> RwLockReadGuard<'_, GateCache> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_cache_create(
    stream: *mut abi::lacuna_stream,
    gate: *mut abi::lacuna_gate,
    batch: i64,
    max_len: i64,
    cache: *mut *mut abi::lacuna_gate_cache,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a handle.
        let out = unsafe { Out::new("cache", cache)? };
        let (queue, gate) = (take::<Queue>(stream)?, take::<Gate>(gate)?);
        let (stream, batch, max_len) = (&queue.stream, size("batch", batch)?, size("max_len", max_len)?);
        let cache = by_kind!(&*gate,
            gate => gate.cache(stream, batch, max_len)?,
            gate => gate.cache(stream, batch, max_len)?);
        give(Cache(RwLock::new(cache)), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_cache_workspace(
    cache: *mut abi::lacuna_gate_cache,
    tokens: i64,
    bytes: *mut usize,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a number.
        let out = unsafe { Out::new("bytes", bytes)? };
        let (cache, tokens) = (take::<Cache>(cache)?, size("tokens", tokens)?);
        let most = cache.read().max_len();
        if tokens > most {
            let expected = format!("at most max_len of the cache ({most})");
            return Err(Failure::value("tokens", &expected, tokens));
        }
        out.set(cache.read().workspace_bytes(tokens));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_cache_append(
    stream: *mut abi::lacuna_stream,
    gate: *mut abi::lacuna_gate,
    cache: *mut abi::lacuna_gate_cache,
    gate_k: *const abi::lacuna_tensor,
    start: i64,
    starts: *const abi::lacuna_tensor,
    lens: *const abi::lacuna_tensor,
    decoding: i32,
    workspace_pointer: *mut c_void,
    workspace_bytes: usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, gate, cache) = (take::<Queue>(stream)?, take::<Gate>(gate)?, take::<Cache>(cache)?);
        // SAFETY: the header asks for structs as large as they say, of such memory, and for such a workspace.
        let (gate_k, starts, lens, mut memory) = unsafe {
            (
                Given::read("gate_k", gate_k, &queue)?,
                Given::read_optional("starts", starts, &queue)?,
                Given::read_optional("lens", lens, &queue)?,
                workspace(&queue, workspace_pointer, workspace_bytes)?,
            )
        };
        let (start, decoding) = (size("start", start)?, flag("decoding", decoding)?);
        let lists: Option<(Tensor<i32>, Tensor<i32>)> = match (starts, lens) {
            (Some(starts), Some(lens)) => Some((starts.tensor(&queue)?, lens.tensor(&queue)?)),
            (None, None) => None,
            _ => {
                return Err(Failure::new(abi::LACUNA_ERROR_NULL, "starts and lens: expected both or neither, got one"));
            }
        };
        let span = match &lists {
            Some((starts, lens)) if start == 0 => Span::Ragged { starts, lens },
            Some(_) => return Err(Failure::value("start", "0 beside starts and lens", start)),
            None => Span::From(start),
        };
        let mut cache = cache.0.write().unwrap_or_else(PoisonError::into_inner);
        let stream = &queue.stream;
        by_kind!(&*gate,
            gate => gate.append(stream, &mut cache, gate_k.view(&queue)?, span, &mut memory)?,
            gate => gate.append(stream, &mut cache, gate_k.view(&queue)?, span, decoding, &mut memory)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_cache_destroy(cache: *mut abi::lacuna_gate_cache) -> abi::lacuna_status {
    guard(|| destroy::<Cache>(cache))
}
