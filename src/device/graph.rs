//! Captured work: launched again as a whole, without this crate or its checks in between.

use std::fmt;

#[cfg(feature = "cuda")]
use super::cuda::CudaGraph;
use super::stream::Handle;
use super::{Device, Stream};
use crate::error::Result;

/// A CUDA graph of what one stream was given, made by [`Stream::capture`].
pub struct Graph {
    device: Device,
    #[cfg(feature = "cuda")]
    graph: CudaGraph,
}

impl Graph {
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub(super) fn capture(stream: &Stream, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        match stream.handle() {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => Err(crate::Error::Unsupported {
                what: "capturing work on the SIMT host".into(),
                hint: "its launches return when they are done; call the functions again instead".into(),
            }),
            #[cfg(feature = "cuda")]
            Handle::Cuda(cuda) => Ok(Self { device: stream.device().clone(), graph: cuda.capture(work)? }),
            #[cfg(not(any(feature = "simt", feature = "cuda")))]
            _ => unreachable!("a build without a machine has no stream"),
        }
    }

    /// Puts the captured work on `stream`, which may be another one than it was captured from. It reads and writes the
    /// memory it was captured with, whatever that holds by now: new data, lengths, lists.
    ///
    /// # Safety
    /// Every buffer that the captured calls used is still alive, and until the work is done nobody uses the memory that
    /// it writes, or writes what it reads, but in the order of `stream`: a graph knows no owners.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) for a stream of another device, [`Error::Cuda`](crate::Error::Cuda) when
    /// the driver refuses.
    pub unsafe fn launch(&mut self, stream: &Stream) -> Result<()> {
        stream.device().check_memory("graph", &self.device)?;
        match stream.handle() {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => Ok(()),
            #[cfg(feature = "cuda")]
            // SAFETY: passed on to the caller.
            Handle::Cuda(cuda) => unsafe { cuda.launch_graph(&mut self.graph) },
            #[cfg(not(any(feature = "simt", feature = "cuda")))]
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({})", self.device.name())
    }
}
