//! GPU sparse-attention kernels, driven from safe Rust, runnable without a GPU.
//!
//! A **planner** ([`methods`]) says which keys a query looks at, a [`BlockPlan`] holds its answer, a [`Schedule`]
//! arranges it for the tiles of a kernel, and [`attention::forward`] computes attention over it. The kernels are CUDA
//! C++; the *SIMT host* runs the same source on CPU threads, so everything here works, and is tested, without a GPU.
//!
//! ```
//! use lacuna::{AttentionShape, BlockPlan, DType, Device, ForwardOptions, Schedule, Tensor, attention, bf16};
//! # fn main() -> lacuna::Result<()> {
//! let stream = Device::auto()?.new_stream()?;
//! let dims = [1, 4, 256, 64]; // batch, heads, tokens, head_dim
//! let shape = AttentionShape { batch: 1, q_heads: 4, kv_heads: 4, q_len: 256, kv_len: 256, head_dim: 64, dtype: DType::BF16 };
//! let (q, k) = (Tensor::<bf16>::random(&stream, dims, 1)?, Tensor::random(&stream, dims, 2)?);
//! let (v, mut out) = (Tensor::random(&stream, dims, 3)?, Tensor::uninit(&stream, dims)?);
//! let (options, plan) = (ForwardOptions::causal(), BlockPlan::dense());
//! let schedule = Schedule::build(&stream, &shape, &options, &plan)?;
//! let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
//! attention::forward(&stream, &shape, &options, &plan, &schedule, q.view(), k.view(), v.view(), out.view_mut(), None, &mut workspace)?;
//! println!("{} on {}", out.to_vec(&stream)?[0], stream.device().name());
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! - `simt` (default): the SIMT host; needs a C++ compiler.
//! - `cuda`: the GPU kernels; needs nvcc 12.8 or newer at build time, and a driver only to run on a GPU.
//! - `nvtx`: ranges of planning and launching for Nsight Systems and other tools; needs nothing to build.
//! - `tracing`: the same as `tracing` spans, target `lacuna`.
//!
//! Without the first two, everything compiles and every [`Device`] constructor says what is missing.
#![warn(missing_docs, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod attention;
pub mod device;
mod error;
mod kernels;
pub mod methods;
pub mod plan;
mod profile;
pub mod reference;
mod schedule;
mod shape;
pub mod tensor;

pub use attention::{ForwardOptions, KernelFamily, KernelInfo, PageLists, PagedKv, Ragged};
pub use device::{
    Buffer, Counters, Device, Event, Graph, HostCalls, SimtAsync, SimtConfig, SimtGuard, SimtPolicy, Stream,
};
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use methods::{BucketOrder, HyperConfig, HyperPlan, S2Columns, S2Config, S2Variant, Sampling, s2, seer};
pub use plan::{BlockFormula, BlockMask, BlockPlan, BlockSize, ColumnReturn, ListRows};
pub use schedule::{ColumnSchedule, Schedule};
pub use shape::{AttentionShape, DType, Mask};
pub use tensor::{Element, Half, Layout, Tensor, TensorView, TensorViewMut};

/// The README's quick start compiles and runs.
#[cfg(all(doctest, feature = "simt"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The page on paged KV compiles.
#[cfg(all(doctest, feature = "simt"))]
#[doc = include_str!("../docs/paged-kv.md")]
struct PagedKvPage;

/// The page on serving compiles.
#[cfg(all(doctest, feature = "simt"))]
#[doc = include_str!("../docs/serving.md")]
struct ServingPage;

/// The page on SeerAttention compiles and runs.
#[cfg(all(doctest, feature = "simt"))]
#[doc = include_str!("../docs/seer-attention.md")]
struct SeerAttentionPage;

/// The page on profiling compiles and runs.
#[cfg(all(doctest, feature = "simt"))]
#[doc = include_str!("../docs/profiling.md")]
struct ProfilingPage;
