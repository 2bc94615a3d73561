//! The kernel table of one machine, and its status codes as [`Error`]s.

use std::ffi::{CStr, c_char, c_void};

use super::bindings as abi;
use super::family::KernelFamily;
use crate::error::{Error, Result};
use crate::profile::range;

/// The kernels built for one machine. Every function pointer of the table is present.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    table: &'static abi::lacuna_kernel_table,
}

// SAFETY: the table is a constant of the library: function pointers and strings that nothing writes.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

/// What the launchers will run for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelInfo {
    /// The kernel, e.g. `sm80_forward_d64_bf16`.
    pub name: String,
    /// What it is made of; never [`KernelFamily::Auto`].
    pub family: KernelFamily,
    /// Query rows of a tile: those that share a load of K and V.
    pub tile_q: usize,
    /// Keys of a tile.
    pub tile_k: usize,
    /// Query heads of a tile, of `tile_q / heads` rows each.
    pub heads: usize,
    /// Query rows that a row of a schedule has at least.
    pub schedule_q: usize,
    /// Threads of a block.
    pub threads: usize,
    /// Shared memory of a block, in bytes.
    pub smem_bytes: usize,
}

impl Kernels {
    /// The table of the SIMT host.
    #[cfg(feature = "simt")]
    pub(crate) fn simt() -> Result<Self> {
        // SAFETY: returns a pointer to a constant of the linked library, or null.
        Self::checked(unsafe { abi::lacuna_simt_kernels() }, "simt")
    }

    /// The table of the GPU build.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda() -> Result<Self> {
        // SAFETY: returns a pointer to a constant of the linked library, or null.
        Self::checked(unsafe { abi::lacuna_cuda_kernels() }, "cuda")
    }

    #[cfg(any(feature = "simt", feature = "cuda"))]
    fn checked(table: *const abi::lacuna_kernel_table, device: &str) -> Result<Self> {
        let broken = |reason: String| Error::Unavailable { device: device.to_string(), reason };
        // SAFETY: the library returns null or a table that lives as long as the process.
        let table = unsafe { table.as_ref() }.ok_or_else(|| broken("the library holds no kernel table".into()))?;
        if table.abi != abi::LACUNA_KERNELS_ABI {
            return Err(broken(format!(
                "the linked kernels have ABI {}, this crate expects {}; rebuild them",
                table.abi,
                abi::LACUNA_KERNELS_ABI
            )));
        }
        let complete = table.forward_config.is_some()
            && table.forward.is_some()
            && table.merge.is_some()
            && table.schedule_build.is_some()
            && table.mask_to_lists.is_some()
            && table.plan_to_mask.is_some()
            && table.decode_config.is_some()
            && table.decode.is_some()
            && table.page_table.is_some()
            && table.cache_append.is_some()
            && table.gate_pool.is_some()
            && table.gate_project.is_some()
            && table.gate_select.is_some()
            && table.block_max.is_some()
            && table.hyper_sizes.is_some()
            && table.hyper_plan.is_some()
            && table.gather_config.is_some()
            && table.gather_forward.is_some()
            && table.backward_config.is_some()
            && table.backward_schedule.is_some()
            && table.backward.is_some()
            && table.gather_backward_config.is_some()
            && table.gather_backward.is_some()
            && table.last_error.is_some();
        if !complete {
            return Err(broken("the kernel table lacks an entry".into()));
        }
        Ok(Self { table })
    }

    /// The architectures in this build, e.g. `80;90a;80+PTX`.
    pub(crate) fn architectures(&self) -> String {
        text(self.table.architectures)
    }

    /// What serves a forward request.
    ///
    /// # Safety
    /// As [`Kernels::forward`], though no tensor is read.
    pub(crate) unsafe fn forward_config(&self, params: &abi::lacuna_forward_params) -> Result<KernelInfo> {
        // SAFETY: passed on to the caller.
        unsafe { self.config("forward_config", self.table.forward_config, params) }
    }

    /// What serves a decode request.
    ///
    /// # Safety
    /// As [`Kernels::forward`], though no tensor is read.
    pub(crate) unsafe fn decode_config(&self, params: &abi::lacuna_forward_params) -> Result<KernelInfo> {
        // SAFETY: passed on to the caller.
        unsafe { self.config("decode_config", self.table.decode_config, params) }
    }

    /// What serves attention over a gather plan.
    ///
    /// # Safety
    /// As [`Kernels::gather_forward`], though no tensor is read.
    pub(crate) unsafe fn gather_config(&self, params: &abi::lacuna_gather_forward_params) -> Result<KernelInfo> {
        // SAFETY: passed on to the caller.
        unsafe { self.config("gather_config", self.table.gather_config, params) }
    }

    /// The sizes of what a request of [`Kernels::hyper_plan`] needs.
    ///
    /// # Safety
    /// As [`Kernels::hyper_plan`], though no tensor is read.
    pub(crate) unsafe fn hyper_sizes(&self, params: &abi::lacuna_hyper_plan_params) -> Result<abi::lacuna_hyper_sizes> {
        let mut sizes = abi::lacuna_hyper_sizes::default();
        // SAFETY: both structs are live; the caller vouches for the contents of `params`.
        let status = self.table.hyper_sizes.map_or(abi::LACUNA_NO_KERNEL, |f| unsafe { f(params, &mut sizes) });
        self.check(status, "hyper_sizes")?;
        Ok(sizes)
    }

    /// What serves a backward request, and the bytes that it needs.
    ///
    /// # Safety
    /// As [`Kernels::backward`], though no tensor is read.
    pub(crate) unsafe fn backward_config(
        &self,
        params: &abi::lacuna_backward_params,
    ) -> Result<abi::lacuna_backward_config> {
        let mut config = abi::lacuna_backward_config::default();
        // SAFETY: both structs are live; the caller vouches for the contents of `params`.
        let status = self.table.backward_config.map_or(abi::LACUNA_NO_KERNEL, |f| unsafe { f(params, &mut config) });
        self.check(status, "backward_config")?;
        Ok(config)
    }

    /// What serves a backward request, and the bytes that it needs.
    ///
    /// # Safety
    /// As [`Kernels::gather_backward`], though no tensor is read.
    pub(crate) unsafe fn gather_backward_config(
        &self,
        params: &abi::lacuna_gather_backward_params,
    ) -> Result<abi::lacuna_backward_config> {
        let mut config = abi::lacuna_backward_config::default();
        // SAFETY: both structs are live; the caller vouches for the contents of `params`.
        let status =
            self.table.gather_backward_config.map_or(abi::LACUNA_NO_KERNEL, |f| unsafe { f(params, &mut config) });
        self.check(status, "gather_backward_config")?;
        Ok(config)
    }

    /// # Safety
    /// As the launcher that takes the same parameters, though no tensor is read.
    unsafe fn config<P>(
        &self,
        call: &'static str,
        entry: Option<unsafe extern "C" fn(*const P, *mut abi::lacuna_forward_config) -> i32>,
        params: &P,
    ) -> Result<KernelInfo> {
        let mut config = abi::lacuna_forward_config::default();
        // SAFETY: both structs are live; the caller vouches for the contents of `params`.
        let status = entry.map_or(abi::LACUNA_NO_KERNEL, |f| unsafe { f(params, &mut config) });
        self.check(status, call)?;
        // The launcher fills a fixed array of 64; stop at the terminator, or at the end if there is none.
        let name = config.kernel.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect();
        let size = |value: i32| usize::try_from(value).unwrap_or(0);
        let family = KernelFamily::from_abi(config.family).ok_or_else(|| Error::Value {
            what: call,
            expected: "answered with a known kernel family".into(),
            got: config.family.to_string(),
        })?;
        Ok(KernelInfo {
            name,
            family,
            tile_q: size(config.tile_q),
            tile_k: size(config.tile_k),
            heads: size(config.heads),
            schedule_q: size(config.schedule_q),
            threads: size(config.threads),
            smem_bytes: size(config.smem_bytes),
        })
    }

    /// Turns a status into a result; must run on the thread that made the call, as the message is thread-local.
    fn check(&self, status: i32, call: &'static str) -> Result<()> {
        if status == abi::LACUNA_OK {
            return Ok(());
        }
        // SAFETY: returns a C string that stays valid until this thread's next failure.
        let message = self.table.last_error.map_or(String::new(), |f| text(unsafe { f() }));
        let message = if message.is_empty() { format!("status {status}") } else { message };
        Err(match status {
            abi::LACUNA_INVALID_ARGUMENT => {
                Error::Value { what: call, expected: "given parameters in their stated ranges".into(), got: message }
            }
            abi::LACUNA_UNSUPPORTED => Error::Unsupported {
                what: message,
                hint: format!("no {call} kernel of the {} build serves it yet", text(self.table.machine)),
            },
            abi::LACUNA_NO_KERNEL => Error::NoKernel {
                device: text(self.table.machine),
                built: self.architectures(),
                hint: format!("{message}; rebuild with the device's architecture in LACUNA_CUDA_ARCHS"),
            },
            abi::LACUNA_SIMT_ERROR => Error::Simt(message),
            _ => Error::Cuda { call, message },
        })
    }
}

macro_rules! launches {
    ($($(#[$doc:meta])* $name:ident($params:ty);)*) => {
        impl Kernels {
            $(
                $(#[$doc])*
                ///
                /// # Safety
                /// Every pointer of `params` is null where the header allows it, or points to memory of this machine
                /// with the extent that sizes and strides say; `stream` belongs to this machine, and on CUDA its
                /// context is current.
                pub(crate) unsafe fn $name(&self, params: &$params, stream: *mut c_void) -> Result<()> {
                    let _range = range!(stringify!($name));
                    // SAFETY: passed on to the caller.
                    let status = self.table.$name.map_or(abi::LACUNA_NO_KERNEL, |f| unsafe { f(params, stream) });
                    self.check(status, stringify!($name))
                }
            )*
        }
    };
}

launches! {
    /// Launches attention.
    forward(abi::lacuna_forward_params);
    /// Launches the merge of partial results.
    merge(abi::lacuna_merge_params);
    /// Launches the build of a schedule.
    schedule_build(abi::lacuna_schedule_params);
    /// Launches the conversion of a dense mask to lists.
    mask_to_lists(abi::lacuna_mask_to_lists_params);
    /// Launches the conversion of a plan to a dense mask.
    plan_to_mask(abi::lacuna_plan_to_mask_params);
    /// Launches attention of a few queries a sequence.
    decode(abi::lacuna_forward_params);
    /// Launches the conversion of page lists to a block table.
    page_table(abi::lacuna_page_table_params);
    /// Launches the copy of new keys and values into a cache.
    cache_append(abi::lacuna_cache_append_params);
    /// Launches the pooling of a gate's inputs.
    gate_pool(abi::lacuna_gate_pool_params);
    /// Launches the projection of pooled features to gate vectors.
    gate_project(abi::lacuna_gate_project_params);
    /// Launches the selection of blocks by gate vectors.
    gate_select(abi::lacuna_gate_select_params);
    /// Launches the map of largest probabilities.
    block_max(abi::lacuna_block_max_params);
    /// Launches hashes, sorts and samples into a gather plan.
    hyper_plan(abi::lacuna_hyper_plan_params);
    /// Launches attention over a gather plan.
    gather_forward(abi::lacuna_gather_forward_params);
    /// Launches the schedule of a backward pass.
    backward_schedule(abi::lacuna_backward_params);
    /// Launches the gradients of attention.
    backward(abi::lacuna_backward_params);
    /// Launches the gradients of attention over a gather plan.
    gather_backward(abi::lacuna_gather_backward_params);
}

/// A C string of the library as text; empty for null.
fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the library's strings are null-terminated and live at least until the next failing call.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
