//! Moments in a stream, with the device's clock.

use std::sync::Arc;

use cudarc::driver::result as driver;
use cudarc::driver::sys;

use super::{CudaContext, CudaStream, check};
use crate::error::Result;

/// An event that keeps its time.
pub(in crate::device) struct CudaEvent {
    context: Arc<CudaContext>,
    raw: sys::CUevent,
}

// SAFETY: the driver lets any thread use an event with the context current.
unsafe impl Send for CudaEvent {}
// SAFETY: as above; after `record` an event is only waited for and read.
unsafe impl Sync for CudaEvent {}

impl CudaStream {
    /// The moment at which what is on this stream now is done.
    pub(in crate::device) fn record(&self) -> Result<CudaEvent> {
        let _bound = self.bind()?;
        let raw = check("cuEventCreate", driver::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
        let event = CudaEvent { context: Arc::clone(&self.context), raw };
        // SAFETY: both are alive and of one context.
        check("cuEventRecord", unsafe { driver::event::record(event.raw, self.raw) })?;
        Ok(event)
    }
}

impl CudaEvent {
    /// Waits for this moment; seconds since an earlier one.
    pub(in crate::device) fn seconds_since(&self, earlier: &Self) -> Result<f64> {
        let _bound = self.context.bind()?;
        // SAFETY: both are alive and recorded.
        let milliseconds = unsafe {
            check("cuEventSynchronize", driver::event::synchronize(earlier.raw))?;
            check("cuEventSynchronize", driver::event::synchronize(self.raw))?;
            check("cuEventElapsedTime", driver::event::elapsed(earlier.raw, self.raw))?
        };
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for CudaEvent {
    fn drop(&mut self) {
        let Ok(_bound) = self.context.bind() else { return };
        // SAFETY: made here, destroyed once.
        let _ = unsafe { driver::event::destroy(self.raw) };
    }
}
