//! Gradients.

use std::ffi::c_void;
use std::sync::{Arc, PoisonError, RwLock};

use kernels::attention::{self, BackwardInputs, GradientsMut};
use kernels::{ColumnSchedule, Schedule};

use crate::abi;
use crate::argument::Out;
use crate::failure::{Failure, Result};
use crate::guard::guard;
use crate::handle::{destroy, give, object, take, take_optional};
use crate::hyper::Hyper;
use crate::plan::Plan;
use crate::request::{self, Options};
use crate::schedule::Arranged;
use crate::sized;
use crate::stream::Queue;
use crate::tensor::{Coded, Given, with_half, workspace};

/// The columns of a plan. Calls read them; building them again is exclusive.
pub struct Columns(RwLock<ColumnSchedule>);

object!(Columns, abi::lacuna_columns, 8, "columns object");

/// The tensors of a call.
struct Call {
    /// q, k, v, out, lse, dout
    read: [Given; 6],
    dlse: Option<Given>,
    /// dq, dk, dv
    written: [Given; 3],
    dsink: Option<Given>,
}

impl Call {
    /// # Safety
    /// The struct and its tensors are as the header asks.
    unsafe fn read(queue: &Queue, gradients: *const abi::lacuna_gradients) -> Result<Self> {
        // SAFETY: passed on to the caller.
        unsafe {
            let g = sized::read(gradients)?;
            let read = |what, tensor| Given::read(what, tensor, queue);
            Ok(Self {
                read: [
                    read("q", g.q)?,
                    read("k", g.k)?,
                    read("v", g.v)?,
                    read("out", g.out)?,
                    read("lse", g.lse)?,
                    read("dout", g.dout)?,
                ],
                dlse: Given::read_optional("dlse", g.dlse, queue)?,
                written: [read("dq", g.dq)?, read("dk", g.dk)?, read("dv", g.dv)?],
                dsink: Given::read_optional("dsink", g.dsink, queue)?,
            })
        }
    }

    fn inputs<'a, T: Coded + kernels::Half>(&self, queue: &'a Queue) -> Result<BackwardInputs<'a, T>> {
        let [q, k, v, out, lse, dout] = &self.read;
        Ok(BackwardInputs {
            q: q.view(queue)?,
            k: k.view(queue)?,
            v: v.view(queue)?,
            out: out.view(queue)?,
            lse: lse.view(queue)?,
            dout: dout.view(queue)?,
            dlse: self.dlse.as_ref().map(|dlse| dlse.view(queue)).transpose()?,
        })
    }

    fn gradients<'a, T: Coded + kernels::Half>(&self, queue: &'a Queue) -> Result<GradientsMut<'a, T>> {
        let [dq, dk, dv] = &self.written;
        Ok(GradientsMut {
            dq: dq.view_mut(queue)?,
            dk: dk.view_mut(queue)?,
            dv: dv.view_mut(queue)?,
            dsink: self.dsink.as_ref().map(|dsink| dsink.view_mut(queue)).transpose()?,
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_columns_create(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    columns: *mut *mut abi::lacuna_columns,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        // SAFETY: the header asks for structs as large as they say, options with tensors of the device, and a place for
        // a handle.
        let (out, shape, options) =
            unsafe { (Out::new("columns", columns)?, request::shape(shape)?, Options::read(options)?) };
        // SAFETY: as above.
        let tensors = unsafe { options.tensors(&queue)? };
        let options = options.with(&tensors, &queue)?;
        let columns = ColumnSchedule::build(&queue.stream, &shape, &options, &plan.read())?;
        give(Columns(RwLock::new(columns)), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_columns_rebuild(
    stream: *mut abi::lacuna_stream,
    columns: *mut abi::lacuna_columns,
    plan: *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, columns, plan) = (take::<Queue>(stream)?, take::<Columns>(columns)?, take::<Plan>(plan)?);
        let plan = plan.read();
        Ok(columns.0.write().unwrap_or_else(PoisonError::into_inner).rebuild(&queue.stream, &plan)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_columns_destroy(columns: *mut abi::lacuna_columns) -> abi::lacuna_status {
    guard(|| destroy::<Columns>(columns))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_backward_workspace(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    bytes: *mut usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        // SAFETY: the header asks for structs as large as they say, options with tensors of the device, and a place for
        // a number.
        let (out, shape, options) =
            unsafe { (Out::new("bytes", bytes)?, request::shape(shape)?, Options::read(options)?) };
        // SAFETY: as above.
        let tensors = unsafe { options.tensors(&queue)? };
        let options = options.with(&tensors, &queue)?;
        out.set(attention::backward_workspace_bytes(queue.stream.device(), &shape, &options, &plan.read())?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_backward(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    schedule: *mut abi::lacuna_schedule,
    columns: *mut abi::lacuna_columns,
    gradients: *const abi::lacuna_gradients,
    workspace_pointer: *mut c_void,
    workspace_bytes: usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, plan, columns) = (take::<Queue>(stream)?, take::<Plan>(plan)?, take::<Columns>(columns)?);
        let schedule: Option<Arc<Arranged>> = take_optional(schedule)?;
        // SAFETY: the header asks for structs as large as they say, and for such tensors and such a workspace.
        let (shape, options) = unsafe { (request::shape(shape)?, Options::read(options)?) };
        // SAFETY: as above.
        let tensors = unsafe { options.tensors(&queue)? };
        // SAFETY: as above.
        let (call, mut memory) =
            unsafe { (Call::read(&queue, gradients)?, workspace(&queue, workspace_pointer, workspace_bytes)?) };
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
        let columns = columns.0.read().unwrap_or_else(PoisonError::into_inner);
        with_half!(shape.dtype, T => {
            let (read, mut written) = (call.inputs::<T>(&queue)?, call.gradients::<T>(&queue)?);
            let stream = &queue.stream;
            attention::backward(stream, &shape, &options, &plan, schedule, &columns, &read, &mut written, &mut memory)?;
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_backward_workspace(
    stream: *mut abi::lacuna_stream,
    hyper: *mut abi::lacuna_hyper,
    bytes: *mut usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, hyper) = (take::<Queue>(stream)?, take::<Hyper>(hyper)?);
        // SAFETY: the header asks for a place for a number.
        let out = unsafe { Out::new("bytes", bytes)? };
        out.set(attention::hyper_backward_workspace_bytes(queue.stream.device(), &hyper.read())?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_hyper_backward(
    stream: *mut abi::lacuna_stream,
    hyper: *mut abi::lacuna_hyper,
    gradients: *const abi::lacuna_gradients,
    workspace_pointer: *mut c_void,
    workspace_bytes: usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, hyper) = (take::<Queue>(stream)?, take::<Hyper>(hyper)?);
        // SAFETY: the header asks for a struct as large as it says, such tensors and such a workspace.
        let (call, mut memory) =
            unsafe { (Call::read(&queue, gradients)?, workspace(&queue, workspace_pointer, workspace_bytes)?) };
        let plan = hyper.read();
        with_half!(plan.shape().dtype, T => {
            let (read, mut written) = (call.inputs::<T>(&queue)?, call.gradients::<T>(&queue)?);
            attention::hyper_backward(&queue.stream, &plan, hyper.scale, &read, &mut written, &mut memory)?;
        });
        Ok(())
    })
}
