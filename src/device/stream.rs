//! Streams: queues of work on one device.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "simt")]
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "cuda")]
use super::cuda::CudaStream;
use super::host_calls::HostCalls;
#[cfg(feature = "simt")]
use super::simt::SimtStream;
use super::{Buffer, Counters, Device, Event, Graph, Machine};
use crate::error::Result;
use crate::kernels::table::Kernels;

/// A queue of work on one device. Cloning gives another handle of the same queue.
#[derive(Clone)]
pub struct Stream(Arc<Inner>);

struct Inner {
    device: Device,
    handle: Handle,
}

pub(super) enum Handle {
    #[cfg(feature = "simt")]
    Simt(Mutex<SimtStream>),
    #[cfg(feature = "cuda")]
    Cuda(CudaStream),
}

#[cfg(feature = "simt")]
fn lock(stream: &Mutex<SimtStream>) -> MutexGuard<'_, SimtStream> {
    // A panic elsewhere can't leave the stream half changed: every change happens inside one C call.
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    pub(super) fn create(device: &Device) -> Result<Self> {
        let handle = match device.0.machine {
            #[cfg(feature = "simt")]
            Machine::Simt(config) => Handle::Simt(Mutex::new(SimtStream::create(config)?)),
            #[cfg(feature = "cuda")]
            Machine::Cuda(ref context) => Handle::Cuda(CudaStream::create(context)?),
        };
        Ok(Self(Arc::new(Inner { device: device.clone(), handle })))
    }

    /// Somebody else's stream: a `CUstream` (or `cudaStream_t`, the same thing) of the device's primary context, or a
    /// `lacuna_simt_stream`. It is never destroyed here. Null is the machine's default stream.
    ///
    /// # Safety
    /// `raw` must be such a stream of `device`, and must live until every clone of the result and everything
    /// allocated on it is gone. A `lacuna_simt_stream` must not be used by others at the same time.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) when the stream belongs to another device or context,
    /// [`Error::Cuda`](crate::Error::Cuda) when the driver refuses it.
    pub unsafe fn from_raw(device: &Device, raw: *mut c_void) -> Result<Self> {
        let handle = match device.0.machine {
            #[cfg(feature = "simt")]
            Machine::Simt(_) => Handle::Simt(Mutex::new(SimtStream::foreign(raw))),
            #[cfg(feature = "cuda")]
            // SAFETY: passed on to the caller.
            Machine::Cuda(ref context) => Handle::Cuda(unsafe { CudaStream::foreign(context, raw)? }),
        };
        Ok(Self(Arc::new(Inner { device: device.clone(), handle })))
    }

    /// The `CUstream` or `lacuna_simt_stream` behind this handle.
    pub fn as_raw(&self) -> *mut c_void {
        match self.0.handle {
            #[cfg(feature = "simt")]
            Handle::Simt(ref stream) => lock(stream).raw(),
            #[cfg(feature = "cuda")]
            Handle::Cuda(ref stream) => stream.raw(),
        }
    }

    /// The device that the stream belongs to.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Waits until all work on the stream is done.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) when the driver reports one, perhaps of an earlier kernel.
    pub fn synchronize(&self) -> Result<()> {
        HostCalls::count(|calls| calls.waits += 1);
        match self.0.handle {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Handle::Cuda(ref stream) => stream.synchronize(),
        }
    }

    /// The moment at which the work that is on the stream now is done; does not wait for it.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) when the driver refuses.
    pub fn record(&self) -> Result<Event> {
        Event::record(self)
    }

    /// What `work` puts on this stream, as a CUDA graph: it is recorded and does not run. Only this thread's use of
    /// this stream is captured, and all memory of the captured calls must have been made on this stream. What
    /// allocates, frees, copies to the host or waits breaks a capture; planners, schedules' `rebuild` and attention do
    /// none of these ([`HostCalls`] counts them). Kernels that the process has not run yet are loaded on their first
    /// launch, which a capture may not allow: run the step once before.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) on the SIMT host, what `work` returns, or
    /// [`Error::Cuda`](crate::Error::Cuda) when the driver refuses; the stream is usable after either.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        Graph::capture(self, work)
    }

    /// Work counted on this stream; `None` on CUDA.
    pub fn counters(&self) -> Option<Counters> {
        match self.0.handle {
            #[cfg(feature = "simt")]
            Handle::Simt(ref stream) => {
                let stream = lock(stream);
                (!stream.raw().is_null()).then(|| stream.counters())
            }
            #[cfg(feature = "cuda")]
            Handle::Cuda(_) => None,
        }
    }

    /// Sets the counters to zero; nothing on CUDA.
    pub fn reset_counters(&self) {
        match self.0.handle {
            #[cfg(feature = "simt")]
            Handle::Simt(ref stream) => {
                let mut stream = lock(stream);
                if !stream.raw().is_null() {
                    stream.reset_counters();
                }
            }
            #[cfg(feature = "cuda")]
            Handle::Cuda(_) => {}
        }
    }

    /// Memory on this stream. The contents are arbitrary. Freed in stream order.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn alloc_bytes(&self, bytes: usize) -> Result<Buffer> {
        Buffer::alloc(self, bytes)
    }

    /// Whether both are handles of one queue.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Work put on this stream from now on starts after what is on `other` now. Nothing to do on the SIMT host, where
    /// launches return when they are done.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub(super) fn wait_for(&self, other: &Self) -> Result<()> {
        match self.0.handle {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Handle::Cuda(ref stream) => match other.0.handle {
                Handle::Cuda(ref other) => stream.wait_for(other),
                #[cfg(feature = "simt")]
                Handle::Simt(_) => Ok(()),
            },
        }
    }

    /// Runs a launcher with this stream's device current, one thread at a time on the SIMT host.
    pub(crate) fn launch<R>(&self, launcher: impl FnOnce(&Kernels, *mut c_void) -> Result<R>) -> Result<R> {
        match self.0.handle {
            #[cfg(feature = "simt")]
            Handle::Simt(ref stream) => {
                let stream = lock(stream);
                launcher(self.device().kernels(), stream.raw())
            }
            #[cfg(feature = "cuda")]
            Handle::Cuda(ref stream) => {
                let _bound = stream.bind()?;
                launcher(self.device().kernels(), stream.raw())
            }
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.device().name())
    }
}
