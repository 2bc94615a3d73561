//! Owned device memory.

use std::fmt;

use super::host_calls::HostCalls;
use super::stream::Handle;
#[cfg(feature = "simt")]
use super::{Machine, simt};
use super::{Stream, ordered};
use crate::error::{Error, Result};

/// Owned bytes of a device, aligned to 16 bytes (256 on CUDA) and freed in the order of the stream they were made on.
///
/// Use on another stream is ordered with events, so a buffer may be dropped as soon as the last call with it returns.
pub struct Buffer {
    pointer: *mut u8,
    bytes: usize,
    stream: Stream,
    /// Freed here; otherwise somebody else's.
    owned: bool,
}

// SAFETY: the memory belongs to the device, not to a thread; streams are shared between threads as well.
unsafe impl Send for Buffer {}
// SAFETY: through `&Buffer` the memory is only read, by kernels and copies.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(super) fn alloc(stream: &Stream, bytes: usize) -> Result<Self> {
        // Nothing can be asked for zero bytes, and 2^63 can't be addressed.
        let size = bytes.max(16);
        let out_of_memory = || Error::OutOfMemory { device: stream.device().name(), bytes };
        if isize::try_from(size).is_err() {
            return Err(out_of_memory());
        }
        let pointer: *mut u8 = match stream.handle() {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => match stream.device().0.machine {
                Machine::Simt(config) => Some(simt::alloc(size, config.guard)).filter(|pointer| !pointer.is_null()),
                #[cfg(feature = "cuda")]
                Machine::Cuda(_) => None,
            },
            #[cfg(feature = "cuda")]
            Handle::Cuda(cuda) => cuda.alloc(size)?,
            #[cfg(not(any(feature = "simt", feature = "cuda")))]
            _ => None,
        }
        .ok_or_else(out_of_memory)?;
        HostCalls::count(|calls| calls.allocations += 1);
        Ok(Self { pointer, bytes, stream: stream.clone(), owned: true })
    }

    /// Somebody else's memory as a buffer, for workspaces that the caller allocates. It is never freed here.
    ///
    /// # Safety
    /// `[pointer, pointer + bytes)` must be memory of `stream`'s device, and while the buffer lives nobody else may use
    /// or free it except in the order of `stream`.
    ///
    /// # Errors
    /// [`Error::Value`] for an address that is no multiple of 16, or null with bytes.
    pub unsafe fn from_raw(stream: &Stream, pointer: *mut u8, bytes: usize) -> Result<Self> {
        if bytes > 0 && (pointer.is_null() || !pointer.addr().is_multiple_of(16)) {
            let (expected, got) = ("not null and a multiple of 16".into(), format!("{pointer:p}"));
            return Err(Error::Value { what: "address of a buffer", expected, got });
        }
        // SAFETY: passed on to the caller.
        Ok(unsafe { Self::foreign(stream, pointer, bytes) })
    }

    /// # Safety
    /// As [`Buffer::from_raw`]; the address may have any alignment.
    pub(crate) unsafe fn foreign(stream: &Stream, pointer: *mut u8, bytes: usize) -> Self {
        Self { pointer, bytes, stream: stream.clone(), owned: false }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The stream it was made on.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Its address on the device.
    pub fn as_ptr(&self) -> *const u8 {
        self.pointer
    }

    /// Its address on the device.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pointer
    }

    /// Sets every byte, in the order of `stream`.
    ///
    /// # Errors
    /// [`Error::Device`] for a stream of another device, [`Error::Cuda`] when the driver refuses.
    pub fn fill(&mut self, stream: &Stream, value: u8) -> Result<()> {
        stream.device().check_memory("buffer", self.stream.device())?;
        ordered(stream, &[&self.stream], || match stream.handle() {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => {
                // SAFETY: `&mut self` is the only handle of these bytes, and no kernel runs after its launch returned.
                unsafe { std::ptr::write_bytes(self.pointer, value, self.bytes) };
                Ok(())
            }
            #[cfg(feature = "cuda")]
            // SAFETY: the buffer is that long and lives on this device.
            Handle::Cuda(cuda) => unsafe { cuda.fill(self.pointer, value, self.bytes) },
            #[cfg(not(any(feature = "simt", feature = "cuda")))]
            _ => Ok(()),
        })
    }

    /// Copies bytes to the start of the buffer and waits for it.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are more bytes than the buffer has; else as [`Buffer::fill`].
    pub fn copy_from_host(&mut self, stream: &Stream, bytes: &[u8]) -> Result<()> {
        stream.device().check_memory("buffer", self.stream.device())?;
        self.check_size(bytes.len())?;
        HostCalls::count(|calls| calls.copies += 1);
        ordered(stream, &[&self.stream], || match stream.handle() {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => {
                // SAFETY: checked above; `&mut self` excludes other users of the bytes.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer, bytes.len()) };
                Ok(())
            }
            #[cfg(feature = "cuda")]
            // SAFETY: checked above.
            Handle::Cuda(cuda) => unsafe { cuda.upload(self.pointer, bytes) },
            #[cfg(not(any(feature = "simt", feature = "cuda")))]
            _ => Ok(()),
        })
    }

    /// Copies the start of the buffer to the host, after all work that writes it, and waits.
    ///
    /// # Errors
    /// [`Error::Shape`] when more bytes are asked for than the buffer has; else as [`Buffer::fill`].
    pub fn copy_to_host(&self, stream: &Stream, bytes: &mut [u8]) -> Result<()> {
        stream.device().check_memory("buffer", self.stream.device())?;
        self.check_size(bytes.len())?;
        HostCalls::count(|calls| calls.copies += 1);
        ordered(stream, &[&self.stream], || match stream.handle() {
            #[cfg(feature = "simt")]
            Handle::Simt(_) => {
                // SAFETY: checked above; nothing writes while `&self` is held, as writers need `&mut`.
                unsafe { std::ptr::copy_nonoverlapping(self.pointer, bytes.as_mut_ptr(), bytes.len()) };
                Ok(())
            }
            #[cfg(feature = "cuda")]
            // SAFETY: checked above.
            Handle::Cuda(cuda) => unsafe { cuda.download(bytes, self.pointer) },
            #[cfg(not(any(feature = "simt", feature = "cuda")))]
            _ => Ok(()),
        })
    }

    fn check_size(&self, bytes: usize) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        Err(Error::Shape { what: "buffer", expected: format!("at least {bytes} bytes"), got: self.bytes.to_string() })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        HostCalls::count(|calls| calls.frees += 1);
        match self.stream.handle() {
            #[cfg(feature = "simt")]
            // SAFETY: made by `alloc`, freed once; launches are synchronous.
            Handle::Simt(_) => unsafe { simt::free(self.pointer) },
            #[cfg(feature = "cuda")]
            // SAFETY: made by `alloc` on this stream, freed once; uses on other streams made this one wait.
            Handle::Cuda(cuda) => unsafe { cuda.free(self.pointer) },
            #[cfg(not(any(feature = "simt", feature = "cuda")))]
            _ => {}
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes on {})", self.bytes, self.stream.device().name())
    }
}
