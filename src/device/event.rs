//! Moments in a stream.

use std::fmt;
#[cfg(feature = "simt")]
use std::time::Instant;

#[cfg(feature = "cuda")]
use super::cuda::CudaEvent;
use super::host_calls::HostCalls;
use super::stream::Handle;
use super::{Device, Stream};
use crate::error::{Error, Result};

/// The moment at which the work that was on a stream is done: by the device's clock on a GPU, by the CPU's on the SIMT
/// host, where launches return when they are done.
pub struct Event {
    device: Device,
    moment: Moment,
}

enum Moment {
    #[cfg(feature = "simt")]
    Simt(Instant),
    #[cfg(feature = "cuda")]
    Cuda(CudaEvent),
}

impl Event {
    pub(super) fn record(stream: &Stream) -> Result<Self> {
        let moment = match stream.handle() {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => Moment::Simt(Instant::now()),
            #[cfg(feature = "cuda")]
            Handle::Cuda(cuda) => Moment::Cuda(cuda.record()?),
            #[cfg(not(any(feature = "simt", feature = "cuda")))]
            _ => unreachable!("a build without a machine has no stream"),
        };
        Ok(Self { device: stream.device().clone(), moment })
    }

    /// Seconds from `earlier` to this moment; 0 or less where it is not the earlier one. Waits for both.
    ///
    /// # Errors
    /// [`Error::Device`] for a moment of another device; [`Error::Cuda`] when the driver reports an error.
    pub fn seconds_since(&self, earlier: &Self) -> Result<f64> {
        self.device.check_memory("event", &earlier.device)?;
        HostCalls::count(|calls| calls.waits += 1);
        match (&self.moment, &earlier.moment) {
            #[cfg(feature = "simt")]
            (Moment::Simt(now), Moment::Simt(then)) => {
                Ok(now.saturating_duration_since(*then).as_secs_f64()
                    - then.saturating_duration_since(*now).as_secs_f64())
            }
            #[cfg(feature = "cuda")]
            (Moment::Cuda(now), Moment::Cuda(then)) => now.seconds_since(then),
            #[allow(unreachable_patterns)]
            _ => Err(Error::Device { what: "event", expected: self.device.name(), got: earlier.device.name() }),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.device.name())
    }
}
