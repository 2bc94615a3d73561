//! Attention over plans.

use std::ffi::c_void;
use std::sync::{Arc, PoisonError};

use kernels::{Schedule, TensorView, TensorViewMut, attention};

use crate::abi;
use crate::argument::{Out, size};
use crate::failure::{Failure, Result};
use crate::guard::guard;
use crate::handle::{take, take_optional};
use crate::plan::Plan;
use crate::request::{self, Options};
use crate::schedule::Arranged;
use crate::stream::Queue;
use crate::tensor::{Coded, Given, with_half, workspace};

/// The tensors of a call.
pub struct Call {
    pub q: Given,
    pub k: Given,
    pub v: Given,
    out: Given,
    lse: Option<Given>,
}

/// The same as views.
pub struct Views<'a, T: Coded> {
    pub q: TensorView<'a, T>,
    pub k: TensorView<'a, T>,
    pub v: TensorView<'a, T>,
    pub out: TensorViewMut<'a, T>,
    pub lse: Option<TensorViewMut<'a, f32>>,
}

impl Call {
    /// # Safety
    /// Tensors are as the header asks.
    pub unsafe fn read(
        queue: &Queue,
        [q, k, v, out]: [*const abi::lacuna_tensor; 4],
        lse: *const abi::lacuna_tensor,
    ) -> Result<Self> {
        // SAFETY: passed on to the caller.
        unsafe {
            Ok(Self {
                q: Given::read("q", q, queue)?,
                k: Given::read("k", k, queue)?,
                v: Given::read("v", v, queue)?,
                out: Given::read("out", out, queue)?,
                lse: Given::read_optional("lse", lse, queue)?,
            })
        }
    }

    pub fn views<'a, T: Coded>(&self, queue: &'a Queue) -> Result<Views<'a, T>> {
        Ok(Views {
            q: self.q.view(queue)?,
            k: self.k.view(queue)?,
            v: self.v.view(queue)?,
            out: self.out.view_mut(queue)?,
            lse: self.lse.as_ref().map(|lse| lse.view_mut(queue)).transpose()?,
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_forward_workspace(
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    bytes: *mut usize,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, and a place for a number.
        let (out, shape, options) =
            unsafe { (Out::new("bytes", bytes)?, request::shape(shape)?, Options::read(options)?) };
        let options = options.without_tensors();
        options.validate(&shape)?;
        out.set(attention::workspace_bytes(&shape, &options));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_forward(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    schedule: *mut abi::lacuna_schedule,
    q: *const abi::lacuna_tensor,
    k: *const abi::lacuna_tensor,
    v: *const abi::lacuna_tensor,
    out: *const abi::lacuna_tensor,
    lse: *const abi::lacuna_tensor,
    workspace_pointer: *mut c_void,
    workspace_bytes: usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        let schedule: Option<Arc<Arranged>> = take_optional(schedule)?;
        // SAFETY: the header asks for structs as large as they say, and for such tensors and such a workspace.
        let (shape, options) = unsafe { (request::shape(shape)?, Options::read(options)?) };
        // SAFETY: as above.
        let tensors = unsafe { options.tensors(&queue)? };
        // SAFETY: as above.
        let call = unsafe { Call::read(&queue, [q, k, v, out], lse)? };
        // SAFETY: as above.
        let mut memory = unsafe { workspace(&queue, workspace_pointer, workspace_bytes)? };
        let options = options.with(&tensors, &queue)?;
        let plan = plan.read();
        let (given, own);
        let schedule = match &schedule {
            Some(schedule) => {
                given = schedule.0.read().unwrap_or_else(PoisonError::into_inner);
                &*given
            }
            None if plan.has_lists() => {
                let text = "schedule: expected one, as the plan is made of lists, got null";
                return Err(Failure::new(abi::LACUNA_ERROR_NULL, text));
            }
            None => {
                // That of a plan without lists holds no memory.
                own = Schedule::build(&queue.stream, &shape, &options, &plan)?;
                &own
            }
        };
        with_half!(shape.dtype, T => {
            let Views { q, k, v, out, lse } = call.views::<T>(&queue)?;
            let stream = &queue.stream;
            attention::forward(stream, &shape, &options, &plan, schedule, q, k, v, out, lse, &mut memory)?;
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decode_workspace(
    shape: *const abi::lacuna_shape,
    plan: *mut abi::lacuna_plan,
    bytes: *mut usize,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a struct as large as it says, and a place for a number.
        let (out, shape) = unsafe { (Out::new("bytes", bytes)?, request::shape(shape)?) };
        out.set(attention::decode_workspace_bytes(&shape, &take::<Plan>(plan)?.read()));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decode(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    q: *const abi::lacuna_tensor,
    k: *const abi::lacuna_tensor,
    v: *const abi::lacuna_tensor,
    out: *const abi::lacuna_tensor,
    lse: *const abi::lacuna_tensor,
    workspace_pointer: *mut c_void,
    workspace_bytes: usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        // SAFETY: the header asks for structs as large as they say, and for such tensors and such a workspace.
        let (shape, options) = unsafe { (request::shape(shape)?, Options::read(options)?) };
        // SAFETY: as above.
        let mut tensors = unsafe { options.tensors(&queue)? };
        // SAFETY: as above.
        let call = unsafe { Call::read(&queue, [q, k, v, out], lse)? };
        let kv_lens = tensors.take_kv_lens(&queue)?;
        // SAFETY: as above.
        let mut memory = unsafe { workspace(&queue, workspace_pointer, workspace_bytes)? };
        let options = options.with(&tensors, &queue)?;
        let plan = plan.read();
        with_half!(shape.dtype, T => {
            let Views { q, k, v, out, lse } = call.views::<T>(&queue)?;
            let (stream, lens) = (&queue.stream, kv_lens.as_ref());
            attention::decode(stream, &shape, &options, &plan, lens, q, k, v, out, lse, &mut memory)?;
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_merge(
    stream: *mut abi::lacuna_stream,
    splits: i64,
    partial_out: *const abi::lacuna_tensor,
    partial_lse: *const abi::lacuna_tensor,
    out: *const abi::lacuna_tensor,
    lse: *const abi::lacuna_tensor,
) -> abi::lacuna_status {
    guard(|| {
        let queue = take::<Queue>(stream)?;
        // SAFETY: the header asks for structs as large as they say, of such memory.
        let (partial_out, partial_lse, out, lse) = unsafe {
            (
                Given::read("partial_out", partial_out, &queue)?,
                Given::read("partial_lse", partial_lse, &queue)?,
                Given::read("out", out, &queue)?,
                Given::read_optional("lse", lse, &queue)?,
            )
        };
        let lse = lse.map(|lse| lse.view_mut(&queue)).transpose()?;
        let (partial_out, partial_lse) = (partial_out.view(&queue)?, partial_lse.view(&queue)?);
        let splits = size("splits", splits)?;
        with_half!(out.half()?, T => {
            let out = out.view_mut::<T>(&queue)?;
            attention::merge(&queue.stream, splits, partial_out, partial_lse, out, lse)?;
        });
        Ok(())
    })
}
