//! CUDA graphs: work captured from a stream, to be launched again as a whole.

use std::sync::Arc;

use cudarc::driver::result as driver;
use cudarc::driver::sys;

use super::{CudaContext, CudaStream, check};
use crate::error::Result;

/// An instantiated graph of one context.
pub(in crate::device) struct CudaGraph {
    context: Arc<CudaContext>,
    exec: sys::CUgraphExec,
}

// SAFETY: the driver lets any thread use a graph with the context current, one at a time: launching takes `&mut self`.
unsafe impl Send for CudaGraph {}
// SAFETY: through `&CudaGraph` nothing can be done.
unsafe impl Sync for CudaGraph {}

impl CudaStream {
    /// What `work` puts on this stream, as a graph; nothing of it runs.
    pub(in crate::device) fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let _bound = self.bind()?;
        // Other threads stay free to do what a capture forbids.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        check("cuStreamBeginCapture", unsafe { driver::stream::begin_capture(self.raw, mode) })?;
        let mut capture = Capture { stream: self, open: true };
        let done = work();
        let graph = capture.end();
        // What `work` says is the cause, where both failed.
        done?;
        let graph = graph?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was made by the capture.
        let exec = check("cuGraphInstantiate", unsafe { driver::graph::instantiate(graph.0, flags) })?;
        Ok(CudaGraph { context: Arc::clone(&self.context), exec })
    }

    /// Puts a graph of this context on the stream.
    ///
    /// # Safety
    /// The memory that the graph uses is still there.
    pub(in crate::device) unsafe fn launch_graph(&self, graph: &mut CudaGraph) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: both are alive; the caller vouches for the memory.
        check("cuGraphLaunch", unsafe { driver::graph::launch(graph.exec, self.raw) })
    }
}

/// A capture in progress; ended when it goes, so that a panic does not leave the stream capturing.
struct Capture<'a> {
    stream: &'a CudaStream,
    open: bool,
}

impl Capture<'_> {
    fn end(&mut self) -> Result<Captured> {
        self.open = false;
        // SAFETY: a capture of this stream is in progress, on this thread. A capture that a forbidden call has broken
        // gives an error here, and the stream is usable again.
        check("cuStreamEndCapture", unsafe { driver::stream::end_capture(self.stream.raw) }).map(Captured)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open {
            let _ = self.end();
        }
    }
}

/// A graph that is not instantiated, which the instance does not need any more.
struct Captured(sys::CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        if self.0.is_null() {
            return;
        }
        // SAFETY: made by a capture, destroyed once.
        let _ = unsafe { driver::graph::destroy(self.0) };
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        let Ok(_bound) = self.context.bind() else { return };
        // SAFETY: instantiated here, destroyed once; the driver waits for launches that are under way.
        let _ = unsafe { driver::graph::exec_destroy(self.exec) };
    }
}
