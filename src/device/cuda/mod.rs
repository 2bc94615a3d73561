//! CUDA devices through the driver API: the library is loaded at run time, so a binary with the feature `cuda` starts
//! on a machine without a driver.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::result::{self as driver, DriverError};
use cudarc::driver::sys;

mod capture;
mod event;

pub(super) use capture::CudaGraph;
pub(super) use event::CudaEvent;

use super::architectures;
use crate::error::{Error, Result};
use crate::kernels::table::Kernels;

/// The oldest driver whose functions this module uses (stream-ordered allocation), as the driver counts versions.
const OLDEST_DRIVER: i32 = 11020;

/// One device, with its primary context: the one that the CUDA runtime and other libraries of the process use.
pub(super) struct CudaContext {
    pub(super) ordinal: usize,
    pub(super) name: String,
    context: sys::CUcontext,
    /// Whether stream-ordered allocation works here.
    pools: bool,
}

// SAFETY: driver contexts may be used by any thread that makes them current, which `bind` does.
unsafe impl Send for CudaContext {}
// SAFETY: as above; the driver locks what threads share, and no field changes.
unsafe impl Sync for CudaContext {}

/// A driver result with this crate's error.
fn check<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T> {
    result.map_err(|error| Error::Cuda { call, message: message(error) })
}

fn message(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("driver error {}", error.0 as u32),
    }
}

/// Whether the driver's library can be loaded. cudarc panics where it cannot, and its own test for that exists only in
/// its loading mode; this crate must also build beside crates that link the driver.
fn driver_library() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    *PRESENT.get_or_init(|| {
        let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };
        // SAFETY: the driver's initialisers may run at any time; it stays loaded.
        names.iter().any(|name| unsafe { libloading::Library::new(*name) }.map(std::mem::forget).is_ok())
    })
}

/// Loads and initialises the driver, and counts its devices.
fn device_count() -> Result<usize, String> {
    if !driver_library() {
        return Err("no NVIDIA driver was found (libcuda cannot be loaded)".into());
    }
    driver::init().map_err(|error| format!("the NVIDIA driver does not start: {}", message(error)))?;
    let mut version = 0;
    // SAFETY: writes one int.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    if status != sys::CUresult::CUDA_SUCCESS || version < OLDEST_DRIVER {
        return Err(format!(
            "the NVIDIA driver supports CUDA {}.{}, {}.{} is needed",
            version / 1000,
            version % 1000 / 10,
            OLDEST_DRIVER / 1000,
            OLDEST_DRIVER % 1000 / 10
        ));
    }
    let count = driver::device::get_count().map_err(|error| format!("no device: {}", message(error)))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

impl CudaContext {
    /// The context of a device. Contexts are retained once and for the life of the process: the runtime's state of
    /// the kernels (their shared-memory limits) lives in them.
    pub(super) fn open(ordinal: usize, kernels: &Kernels) -> Result<Arc<Self>> {
        static CONTEXTS: Mutex<BTreeMap<usize, Arc<CudaContext>>> = Mutex::new(BTreeMap::new());
        let device = format!("cuda:{ordinal}");
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&ordinal) {
            return Ok(Arc::clone(context));
        }
        let count = device_count().map_err(|reason| Error::Unavailable { device: device.clone(), reason })?;
        if ordinal >= count {
            let reason = format!("this machine has {count} CUDA device(s), numbered from 0");
            return Err(Error::Unavailable { device, reason });
        }
        let context = Arc::new(Self::retain(ordinal, kernels)?);
        contexts.insert(ordinal, Arc::clone(&context));
        Ok(context)
    }

    fn retain(ordinal: usize, kernels: &Kernels) -> Result<Self> {
        use sys::CUdevice_attribute as Attribute;
        let device = check("cuDeviceGet", driver::device::get(ordinal as i32))?;
        // SAFETY: the device comes from cuDeviceGet.
        let attribute = |which| check("cuDeviceGetAttribute", unsafe { driver::device::get_attribute(device, which) });
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let name = check("cuDeviceGetName", driver::device::get_name(device))?;
        let built = kernels.architectures();
        if !architectures::serve(&built, (major as u32, minor as u32)) {
            return Err(Error::NoKernel {
                device: format!("cuda:{ordinal} {name} (compute capability {major}.{minor})"),
                built,
                hint: format!("rebuild with LACUNA_CUDA_ARCHS={major}{minor}; compute capability 8.0 is the least"),
            });
        }
        let pools = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0;
        // SAFETY: the device comes from cuDeviceGet.
        let context = check("cuDevicePrimaryCtxRetain", unsafe { driver::primary_ctx::retain(device) })?;
        Ok(Self { ordinal, name, context, pools })
    }

    /// Makes the context current on this thread until the guard goes; the runtime API that the launchers use works on
    /// the current context.
    pub(super) fn bind(&self) -> Result<Bound> {
        let previous = check("cuCtxGetCurrent", driver::ctx::get_current())?;
        if previous == Some(self.context) {
            return Ok(Bound { restore: None });
        }
        // SAFETY: the context is retained for the life of the process.
        check("cuCtxSetCurrent", unsafe { driver::ctx::set_current(self.context) })?;
        Ok(Bound { restore: Some(previous.unwrap_or(std::ptr::null_mut())) })
    }
}

/// A thread's current context, changed; dropping restores the previous one (null: none).
pub(super) struct Bound {
    restore: Option<sys::CUcontext>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(previous) = self.restore {
            // SAFETY: it was current on this thread before; null clears. A failure leaves our context current, which
            // every call of this crate expects anyway.
            let _ = unsafe { driver::ctx::set_current(previous) };
        }
    }
}

/// A stream and the event that marks its latest point for other streams.
pub(super) struct CudaStream {
    context: Arc<CudaContext>,
    raw: sys::CUstream,
    event: sys::CUevent,
    owned: bool,
}

// SAFETY: streams and events may be used by any thread with the context current; every method binds it.
unsafe impl Send for CudaStream {}
// SAFETY: the driver serialises calls on one stream. The event is only ever recorded on this stream, so a record by
// another thread between a record and a wait makes the wait later, never earlier.
unsafe impl Sync for CudaStream {}

impl CudaStream {
    /// A stream that does not synchronise with the legacy default stream.
    pub(super) fn create(context: &Arc<CudaContext>) -> Result<Self> {
        let _bound = context.bind()?;
        let raw = check("cuStreamCreate", driver::stream::create(driver::stream::StreamKind::NonBlocking))?;
        match Self::event() {
            Ok(event) => Ok(Self { context: Arc::clone(context), raw, event, owned: true }),
            Err(error) => {
                // SAFETY: just made, unused.
                let _ = unsafe { driver::stream::destroy(raw) };
                Err(error)
            }
        }
    }

    /// Somebody else's stream, which must belong to this device.
    ///
    /// # Safety
    /// `raw` is a live stream (null: the legacy default stream of the device).
    pub(super) unsafe fn foreign(context: &Arc<CudaContext>, raw: *mut c_void) -> Result<Self> {
        let _bound = context.bind()?;
        let raw: sys::CUstream = raw.cast();
        if !raw.is_null() {
            let mut device = 0;
            let mut owner = std::ptr::null_mut();
            // SAFETY: the caller vouches for the stream; both calls write one value.
            let (of_stream, of_us) = unsafe {
                check("cuStreamGetCtx", sys::cuStreamGetCtx(raw, &mut owner).result())?;
                check("cuCtxSetCurrent", driver::ctx::set_current(owner))?;
                let found = check("cuCtxGetDevice", sys::cuCtxGetDevice(&mut device).result());
                check("cuCtxSetCurrent", driver::ctx::set_current(context.context))?;
                (found.map(|()| device)?, context.ordinal as i32)
            };
            if of_stream != of_us || owner != context.context {
                return Err(Error::Device {
                    what: "stream",
                    expected: format!("the primary context of cuda:{of_us}"),
                    got: format!("a context of cuda:{of_stream}"),
                });
            }
        }
        Ok(Self { context: Arc::clone(context), raw, event: Self::event()?, owned: false })
    }

    fn event() -> Result<sys::CUevent> {
        check("cuEventCreate", driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING))
    }

    pub(super) fn raw(&self) -> *mut c_void {
        self.raw.cast()
    }

    pub(super) fn bind(&self) -> Result<Bound> {
        self.context.bind()
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe { driver::stream::synchronize(self.raw) })
    }

    /// Work put on this stream from now on starts after what is on `other` now.
    pub(super) fn wait_for(&self, other: &Self) -> Result<()> {
        let _bound = other.bind()?;
        // SAFETY: stream and event are alive and of one context.
        check("cuEventRecord", unsafe { driver::event::record(other.event, other.raw) })?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive; callers compare devices before.
        check("cuStreamWaitEvent", unsafe { driver::stream::wait_event(self.raw, other.event, flags) })
    }

    /// Device memory, aligned to 256 bytes or better; `None` when there is no more.
    pub(super) fn alloc(&self, bytes: usize) -> Result<Option<*mut u8>> {
        let _bound = self.bind()?;
        // SAFETY: a live stream; contents are not assumed.
        let (call, result) = unsafe {
            if self.context.pools {
                ("cuMemAllocAsync", driver::malloc_async(self.raw, bytes))
            } else {
                ("cuMemAlloc", driver::malloc_sync(bytes))
            }
        };
        match result {
            Ok(pointer) => Ok(Some(pointer as usize as *mut u8)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(error) => check(call, Err(error)),
        }
    }

    /// Frees after all work that is on this stream.
    ///
    /// # Safety
    /// `pointer` comes from [`CudaStream::alloc`] of this stream and is freed once.
    pub(super) unsafe fn free(&self, pointer: *mut u8) {
        let Ok(_bound) = self.bind() else { return };
        let pointer = pointer as usize as sys::CUdeviceptr;
        // A failure leaves nobody to tell: it means that the context is gone, and its memory with it.
        // SAFETY: passed on to the caller; the synchronisation keeps the order where there are no pools.
        let _ = unsafe {
            if self.context.pools {
                driver::free_async(pointer, self.raw)
            } else {
                driver::stream::synchronize(self.raw).and_then(|()| driver::free_sync(pointer))
            }
        };
    }

    /// Copies to the device and waits, as the source may go away.
    ///
    /// # Safety
    /// `[to, to + from.len())` is memory of this device.
    pub(super) unsafe fn upload(&self, to: *mut u8, from: &[u8]) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: passed on to the caller; `from` outlives the synchronisation.
        check("cuMemcpyHtoDAsync", unsafe {
            driver::memcpy_htod_async(to as usize as sys::CUdeviceptr, from, self.raw)
        })?;
        self.synchronize()
    }

    /// Copies from the device and waits.
    ///
    /// # Safety
    /// `[from, from + to.len())` is memory of this device.
    pub(super) unsafe fn download(&self, to: &mut [u8], from: *const u8) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: passed on to the caller; `to` outlives the synchronisation.
        check("cuMemcpyDtoHAsync", unsafe {
            driver::memcpy_dtoh_async(to, from as usize as sys::CUdeviceptr, self.raw)
        })?;
        self.synchronize()
    }

    /// Sets every byte, in stream order.
    ///
    /// # Safety
    /// `[to, to + bytes)` is memory of this device.
    pub(super) unsafe fn fill(&self, to: *mut u8, value: u8, bytes: usize) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: passed on to the caller.
        check("cuMemsetD8Async", unsafe {
            driver::memset_d8_async(to as usize as sys::CUdeviceptr, value, bytes, self.raw)
        })
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        let Ok(_bound) = self.context.bind() else { return };
        // SAFETY: made by this type; the driver releases both once the work on them is done.
        unsafe {
            let _ = driver::event::destroy(self.event);
            if self.owned {
                let _ = driver::stream::destroy(self.raw);
            }
        }
    }
}
