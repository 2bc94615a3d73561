//! Schedules.

use std::sync::{PoisonError, RwLock};

use kernels::Schedule;

use crate::abi;
use crate::argument::Out;
use crate::guard::guard;
use crate::handle::{destroy, give, object, take};
use crate::plan::Plan;
use crate::request::{self, Options};
use crate::stream::Queue;

/// A schedule. Calls read it; building it again is exclusive.
pub struct Arranged(pub RwLock<Schedule>);

object!(Arranged, abi::lacuna_schedule, 4, "schedule");

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_schedule_create(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    schedule: *mut *mut abi::lacuna_schedule,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        // SAFETY: the header asks for structs as large as they say, options with tensors of the device, and a place for
        // a handle.
        let (out, shape, options) =
            unsafe { (Out::new("schedule", schedule)?, request::shape(shape)?, Options::read(options)?) };
        // SAFETY: as above.
        let tensors = unsafe { options.tensors(&queue)? };
        let options = options.with(&tensors, &queue)?;
        let schedule = Schedule::build(&queue.stream, &shape, &options, &plan.read())?;
        give(Arranged(RwLock::new(schedule)), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_schedule_rebuild(
    stream: *mut abi::lacuna_stream,
    schedule: *mut abi::lacuna_schedule,
    plan: *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, schedule, plan) = (take::<Queue>(stream)?, take::<Arranged>(schedule)?, take::<Plan>(plan)?);
        let plan = plan.read();
        Ok(schedule.0.write().unwrap_or_else(PoisonError::into_inner).rebuild(&queue.stream, &plan)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_schedule_destroy(schedule: *mut abi::lacuna_schedule) -> abi::lacuna_status {
    guard(|| destroy::<Arranged>(schedule))
}
