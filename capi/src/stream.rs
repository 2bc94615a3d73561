//! Streams.

use std::ffi::c_void;

use kernels::Stream;

use crate::abi;
use crate::argument::Out;
use crate::device::Machine;
use crate::failure::{Failure, Result};
use crate::guard::guard;
use crate::handle::{destroy, give, object, take};
use crate::sized::{Place, Versioned};

/// A stream, and the number of its device where that is a GPU.
pub struct Queue {
    pub stream: Stream,
    pub ordinal: Option<i32>,
}

object!(Queue, abi::lacuna_stream, 2, "stream");

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stream_create(
    device: *mut abi::lacuna_device,
    stream: *mut *mut abi::lacuna_stream,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a handle.
        let out = unsafe { Out::new("stream", stream)? };
        let machine = take::<Machine>(device)?;
        give(Queue { stream: machine.device.new_stream()?, ordinal: machine.ordinal }, out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stream_wrap(
    device: *mut abi::lacuna_device,
    cu_stream: *mut c_void,
    stream: *mut *mut abi::lacuna_stream,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a handle.
        let out = unsafe { Out::new("stream", stream)? };
        let machine = take::<Machine>(device)?;
        // SAFETY: on a GPU the header asks for a stream that outlives its handle and all objects made on it.
        give(Queue { stream: unsafe { wrap(&machine, cu_stream)? }, ordinal: machine.ordinal }, out)
    })
}

/// # Safety
/// On a GPU `raw` is null or a stream that outlives the result.
unsafe fn wrap(machine: &Machine, raw: *mut c_void) -> Result<Stream> {
    if !machine.device.is_simt() {
        // SAFETY: passed on to the caller.
        return Ok(unsafe { Stream::from_raw(&machine.device, raw)? });
    }
    if raw.is_null() {
        return Ok(machine.device.new_stream()?);
    }
    Err(Failure::value("cu_stream", "null on the SIMT host, which has no foreign streams", format!("{raw:p}")))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stream_synchronize(stream: *mut abi::lacuna_stream) -> abi::lacuna_status {
    guard(|| Ok(take::<Queue>(stream)?.stream.synchronize()?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stream_counters(
    stream: *mut abi::lacuna_stream,
    counters: *mut abi::lacuna_counters,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a struct as large as it says.
        let place = unsafe { Place::new(counters)? };
        let queue = take::<Queue>(stream)?;
        let counted = queue.stream.counters().ok_or_else(|| {
            let text = "unsupported: counters of a GPU (only the SIMT host counts its work)";
            Failure::new(abi::LACUNA_ERROR_UNSUPPORTED, text)
        })?;
        place.set(abi::lacuna_counters {
            launches: counted.launches,
            mma_macs: counted.mma_macs,
            copy_bytes: counted.copy_bytes,
            bank_conflicts: counted.bank_conflicts,
            ..Versioned::defaults()
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_stream_destroy(stream: *mut abi::lacuna_stream) -> abi::lacuna_status {
    guard(|| destroy::<Queue>(stream))
}
