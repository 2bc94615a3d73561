//! Devices, their streams and memory.
//!
//! Two machines run the kernels: a CUDA GPU, and the *SIMT host*, which runs the same kernel source on CPU threads. On
//! the SIMT host a launch returns when the work is done; on a GPU everything is stream-ordered.
// A build with neither machine has no device, so that nothing below can run; the match arms vanish.
#![cfg_attr(
    not(any(feature = "simt", feature = "cuda")),
    allow(unused_imports, unused_variables, unreachable_code, dead_code)
)]

#[cfg(any(feature = "cuda", test))]
mod architectures;
mod buffer;
#[cfg(feature = "cuda")]
mod cuda;
mod event;
mod graph;
mod host_calls;
mod order;
mod simt;
mod stream;

use std::fmt;
use std::sync::Arc;

pub use buffer::Buffer;
pub use event::Event;
pub use graph::Graph;
pub use host_calls::HostCalls;
pub(crate) use order::ordered;
pub use simt::{Counters, SimtAsync, SimtConfig, SimtGuard, SimtPolicy};
pub use stream::Stream;

use crate::error::{Error, Result};
use crate::kernels::table::Kernels;

/// A machine that runs kernels. Cloning is cheap.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    machine: Machine,
    kernels: Kernels,
    choice: String,
}

enum Machine {
    #[cfg(feature = "simt")]
    Simt(SimtConfig),
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::CudaContext>),
}

impl Device {
    /// The SIMT host with its fast settings.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without the feature `simt`.
    pub fn simt() -> Result<Self> {
        Self::simt_with(SimtConfig::default())
    }

    /// The SIMT host with settings of one's own, for tests.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without the feature `simt`; [`Error::Value`] for settings outside their ranges.
    #[cfg(feature = "simt")]
    pub fn simt_with(config: SimtConfig) -> Result<Self> {
        simt::SimtStream::create(config)?;
        let choice = "the SIMT host was asked for".into();
        Ok(Self(Arc::new(Inner { machine: Machine::Simt(config), kernels: Kernels::simt()?, choice })))
    }

    /// The SIMT host with settings of one's own, for tests.
    ///
    /// # Errors
    /// [`Error::Unavailable`], as this build has no SIMT host.
    #[cfg(not(feature = "simt"))]
    pub fn simt_with(_config: SimtConfig) -> Result<Self> {
        Err(Error::Unavailable { device: "simt".into(), reason: "built without the feature `simt`".into() })
    }

    /// A CUDA device by its number.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without the feature `cuda`, a driver or such a device; [`Error::NoKernel`] when the
    /// build holds nothing for its architecture.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        let kernels = Kernels::cuda()?;
        let context = cuda::CudaContext::open(ordinal, &kernels)?;
        let choice = format!("cuda:{ordinal} was asked for");
        Ok(Self(Arc::new(Inner { machine: Machine::Cuda(context), kernels, choice })))
    }

    /// A CUDA device by its number.
    ///
    /// # Errors
    /// [`Error::Unavailable`], as this build has no GPU kernels.
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        let reason = "built without the feature `cuda`".into();
        Err(Error::Unavailable { device: format!("cuda:{ordinal}"), reason })
    }

    /// CUDA device 0 if there is one that this build serves, else the SIMT host; [`Device::choice`] says why.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when neither is there.
    pub fn auto() -> Result<Self> {
        let cuda = match Self::cuda(0) {
            Ok(device) => return Ok(device.chosen(|name| format!("{name} was found"))),
            Err(error) => error,
        };
        match Self::simt() {
            Ok(device) => Ok(device.chosen(|_| format!("the SIMT host was chosen: {cuda}"))),
            Err(Error::Unavailable { reason, .. }) => {
                Err(Error::Unavailable { device: "auto".into(), reason: format!("{cuda}; simt: {reason}") })
            }
            Err(error) => Err(error),
        }
    }

    /// `auto`, `simt`, `cuda` (device 0) or `cuda:N`.
    ///
    /// # Errors
    /// [`Error::Value`] for any other text, else as the constructor that it names.
    pub fn parse(text: &str) -> Result<Self> {
        let unknown =
            || Error::Value { what: "device", expected: "auto, simt or cuda:N".into(), got: format!("`{text}`") };
        match text {
            "auto" => Self::auto(),
            "simt" => Self::simt(),
            "cuda" => Self::cuda(0),
            _ => {
                let number = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                Self::cuda(number.parse().map_err(|_| unknown())?)
            }
        }
    }

    fn chosen(self, why: impl FnOnce(&str) -> String) -> Self {
        let choice = why(&self.name());
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner { choice, ..inner })),
            Err(shared) => Self(shared),
        }
    }

    /// `simt`, or for example `cuda:0 NVIDIA H200`.
    pub fn name(&self) -> String {
        match self.0.machine {
            #[cfg(feature = "simt")]
            Machine::Simt(_) => "simt".into(),
            #[cfg(feature = "cuda")]
            Machine::Cuda(ref context) => format!("cuda:{} {}", context.ordinal, context.name),
        }
    }

    /// One sentence: why this device was chosen.
    pub fn choice(&self) -> &str {
        &self.0.choice
    }

    /// Whether this is the SIMT host.
    pub fn is_simt(&self) -> bool {
        match self.0.machine {
            #[cfg(feature = "simt")]
            Machine::Simt(_) => true,
            #[cfg(feature = "cuda")]
            Machine::Cuda(_) => false,
        }
    }

    /// The architectures that the kernels of this machine were built for, e.g. `80;90a;80+PTX`.
    pub fn architectures(&self) -> String {
        self.kernels().architectures()
    }

    /// A stream of its own; on CUDA it does not synchronise with the default stream.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the driver refuses.
    pub fn new_stream(&self) -> Result<Stream> {
        Stream::create(self)
    }

    /// Whether memory of one is memory of the other: the same GPU, or the SIMT host with whatever settings.
    pub(crate) fn shares_memory_with(&self, other: &Self) -> bool {
        match (&self.0.machine, &other.0.machine) {
            #[cfg(feature = "simt")]
            (Machine::Simt(_), Machine::Simt(_)) => true,
            #[cfg(feature = "cuda")]
            (Machine::Cuda(one), Machine::Cuda(two)) => Arc::ptr_eq(one, two),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Checks that an argument lives where the call runs.
    pub(crate) fn check_memory(&self, what: &'static str, owner: &Self) -> Result<()> {
        if self.shares_memory_with(owner) {
            return Ok(());
        }
        Err(Error::Device { what, expected: self.name(), got: owner.name() })
    }

    pub(crate) fn kernels(&self) -> &Kernels {
        &self.0.kernels
    }

    /// Runs a query of the kernel table with this device current.
    pub(crate) fn with_kernels<R>(&self, query: impl FnOnce(&Kernels) -> Result<R>) -> Result<R> {
        match self.0.machine {
            #[cfg(feature = "simt")]
            Machine::Simt(_) => query(self.kernels()),
            #[cfg(feature = "cuda")]
            Machine::Cuda(ref context) => {
                let _bound = context.bind()?;
                query(self.kernels())
            }
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}
