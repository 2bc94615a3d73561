//! HyperAttention.

use std::ffi::c_void;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kernels::{BucketOrder, HyperConfig, HyperPlan, Sampling, attention};

use crate::abi;
use crate::argument::{Out, flag, size};
use crate::attention::{Call, Views};
use crate::failure::{Failure, Result};
use crate::guard::guard;
use crate::handle::{destroy, give, object, take};
use crate::request::{self, Options};
use crate::sized;
use crate::stream::Queue;
use crate::tensor::{Given, with_half, workspace};

/// A plan of HyperAttention with the scale of its calls. Calls read it; an update is exclusive.
pub struct Hyper {
    plan: RwLock<HyperPlan>,
    pub scale: Option<f32>,
}

object!(Hyper, abi::lacuna_hyper, 7, "hyper object");

impl Hyper {
    pub fn read(&self) -> RwLockReadGuard<'_, HyperPlan> {
        self.plan.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HyperPlan> {
        self.plan.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settings(given: &abi::lacuna_hyper_config) -> Result<HyperConfig> {
    let compat = flag("compat_buckets", given.compat_buckets)?;
    Ok(HyperConfig {
        num_projections: size("num_projections", given.num_projections)?,
        rounds: size("rounds", given.rounds.into())?,
        block_size: size("block_size", given.block_size)?,
        sample_size: size("sample_size", given.sample_size)?,
        min_seq_len: size("min_seq_len", given.min_seq_len)?,
        bucket_order: if compat { BucketOrder::Compat } else { BucketOrder::Gray },
        sampling: match given.sampling {
            0 => Sampling::Uniform,
            1 => Sampling::Distinct,
            2 => Sampling::Stratified,
            3 => Sampling::Values,
            other => {
                let expected = "0 (uniform), 1 (distinct), 2 (stratified) or 3 (values)";
                return Err(Failure::value("sampling", expected, other));
            }
        },
        sinks: size("sinks", given.sinks)?,
        local_window: size("local_window", given.local_window)?,
        align_windows: flag("align_windows", given.align_windows)?,
        center: flag("center", given.center)?,
        seed: given.seed,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_create(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    config: *const abi::lacuna_hyper_config,
    hyper: *mut *mut abi::lacuna_hyper,
) -> abi::lacuna_status {
    guard(|| {
        let queue = take::<Queue>(stream)?;
        // SAFETY: the header asks for structs as large as they say, and a place for a handle.
        let (out, shape, options, config) = unsafe {
            (Out::new("hyper", hyper)?, request::shape(shape)?, Options::read(options)?, sized::read_optional(config)?)
        };
        if !options.is_plain() {
            let text = "unsupported: HyperAttention with other options than causal and a scale (use a block plan)";
            return Err(Failure::new(abi::LACUNA_ERROR_UNSUPPORTED, text));
        }
        options.without_tensors().validate(&shape)?;
        let plan = HyperPlan::new(&queue.stream, &shape, &options.mask, &settings(&config)?)?;
        give(Hyper { plan: RwLock::new(plan), scale: options.scale }, out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_set_projections(
    stream: *mut abi::lacuna_stream,
    hyper: *mut abi::lacuna_hyper,
    projections: *const abi::lacuna_tensor,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, hyper) = (take::<Queue>(stream)?, take::<Hyper>(hyper)?);
        // SAFETY: the header asks for a struct as large as it says, of memory that outlives the object.
        let projections = unsafe { Given::read("projections", projections, &queue)? };
        Ok(hyper.write().set_projections(projections.tensor(&queue)?)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_set_samples(
    stream: *mut abi::lacuna_stream,
    hyper: *mut abi::lacuna_hyper,
    samples: *const abi::lacuna_tensor,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, hyper) = (take::<Queue>(stream)?, take::<Hyper>(hyper)?);
        // SAFETY: the header asks for a struct as large as it says, of memory that outlives the object.
        let samples = unsafe { Given::read("samples", samples, &queue)? };
        Ok(hyper.write().set_samples(samples.tensor(&queue)?)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_update(
    stream: *mut abi::lacuna_stream,
    hyper: *mut abi::lacuna_hyper,
    q: *const abi::lacuna_tensor,
    k: *const abi::lacuna_tensor,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, hyper) = (take::<Queue>(stream)?, take::<Hyper>(hyper)?);
        // SAFETY: the header asks for structs as large as they say, of such memory.
        let (q, k) = unsafe { (Given::read("q", q, &queue)?, Given::read("k", k, &queue)?) };
        let mut plan = hyper.write();
        with_half!(plan.shape().dtype, T => {
            plan.update::<T>(&queue.stream, q.view(&queue)?, k.view(&queue)?)?;
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_update_with_values(
    stream: *mut abi::lacuna_stream,
    hyper: *mut abi::lacuna_hyper,
    q: *const abi::lacuna_tensor,
    k: *const abi::lacuna_tensor,
    v: *const abi::lacuna_tensor,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, hyper) = (take::<Queue>(stream)?, take::<Hyper>(hyper)?);
        // SAFETY: the header asks for structs as large as they say, of such memory.
        let (q, k, v) =
            unsafe { (Given::read("q", q, &queue)?, Given::read("k", k, &queue)?, Given::read("v", v, &queue)?) };
        let mut plan = hyper.write();
        with_half!(plan.shape().dtype, T => {
            plan.update_with_values::<T>(&queue.stream, q.view(&queue)?, k.view(&queue)?, v.view(&queue)?)?;
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_is_exact(hyper: *mut abi::lacuna_hyper, exact: *mut i32) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a number.
        let out = unsafe { Out::new("exact", exact)? };
        out.set(take::<Hyper>(hyper)?.read().is_exact().into());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_workspace(
    hyper: *mut abi::lacuna_hyper,
    bytes: *mut usize,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a number.
        let out = unsafe { Out::new("bytes", bytes)? };
        out.set(attention::hyper_workspace_bytes(&take::<Hyper>(hyper)?.read()));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_forward(
    stream: *mut abi::lacuna_stream,
    hyper: *mut abi::lacuna_hyper,
    q: *const abi::lacuna_tensor,
    k: *const abi::lacuna_tensor,
    v: *const abi::lacuna_tensor,
    out: *const abi::lacuna_tensor,
    lse: *const abi::lacuna_tensor,
    workspace_pointer: *mut c_void,
    workspace_bytes: usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, hyper) = (take::<Queue>(stream)?, take::<Hyper>(hyper)?);
        // SAFETY: the header asks for such tensors and such a workspace.
        let (call, mut memory) = unsafe {
            (Call::read(&queue, [q, k, v, out], lse)?, workspace(&queue, workspace_pointer, workspace_bytes)?)
        };
        let plan = hyper.read();
        with_half!(plan.shape().dtype, T => {
            let Views { q, k, v, out, lse } = call.views::<T>(&queue)?;
            attention::hyper_forward(&queue.stream, &plan, hyper.scale, q, k, v, out, lse, &mut memory)?;
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_destroy(hyper: *mut abi::lacuna_hyper) -> abi::lacuna_status {
    guard(|| destroy::<Hyper>(hyper))
}
