//! Schedules of the backward pass: who attends each tile of keys.

use crate::attention::{ForwardOptions, backward_sizes};
use crate::device::{Buffer, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::plan::BlockPlan;
use crate::profile::range;
use crate::shape::{AttentionShape, Mask};

/// What [`backward`](crate::attention::backward()) walks for the gradients of keys and values: for each tile of 64 keys
/// of a KV head the query blocks that attend it, those of lists by a stable sort on the device, and the order of the
/// tiles, longest first; long ones are cut into parts.
///
/// It belongs to one plan, shape and mask, and may be used for many calls.
#[derive(Debug)]
pub struct ColumnSchedule {
    plan: u64,
    shape: AttentionShape,
    mask: Mask,
    memory: Buffer,
}

impl ColumnSchedule {
    /// Allocates a schedule and builds it on the device, in stream order and without a copy to the host.
    ///
    /// # Errors
    /// As [`Schedule::build`](crate::Schedule::build).
    pub fn build(
        stream: &Stream,
        shape: &AttentionShape,
        options: &ForwardOptions<'_>,
        plan: &BlockPlan,
    ) -> Result<Self> {
        let _range = range!("columns.build", q_len = shape.q_len, kv_len = shape.kv_len);
        plan.check_device(stream)?;
        let memory = stream.alloc_bytes(backward_sizes(stream.device(), shape, options, plan)?.schedule)?;
        let mut schedule = Self { plan: plan.id(), shape: *shape, mask: options.mask, memory };
        schedule.rebuild(stream, plan)?;
        Ok(schedule)
    }

    /// Builds again after the plan's lists changed, in stream order and without allocating: a CUDA graph may hold it.
    ///
    /// # Errors
    /// [`Error::Value`] for another plan than the one it was built for, [`Error::Device`], or what the kernels report.
    pub fn rebuild(&mut self, stream: &Stream, plan: &BlockPlan) -> Result<()> {
        self.check_plan(plan)?;
        stream.device().check_memory("columns", self.memory.stream().device())?;
        plan.check_device(stream)?;
        let shape = self.shape;
        if shape.batch == 0 || shape.kv_len == 0 {
            return Ok(());
        }
        let params = abi::lacuna_backward_params {
            forward: abi::lacuna_forward_params {
                shape: convert::shape(&shape),
                mask: convert::mask(&self.mask, &shape),
                plan: plan.to_abi(&plan.geometry(&shape)?),
                ..Default::default()
            },
            schedule: self.memory.as_mut_ptr().cast(),
            schedule_bytes: self.memory.len() as u64,
            ..Default::default()
        };
        let [offsets, indices] = plan.owners(stream);
        ordered(stream, &[self.memory.stream(), offsets, indices], || {
            // SAFETY: the memory has the bytes that the kernels asked for, for this plan and shape; `self` is borrowed
            // exclusively, and the lists are data to the kernels.
            stream.launch(|kernels, raw| unsafe { kernels.backward_schedule(&params, raw) })
        })
    }

    /// Device memory of the schedule, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory.len()
    }

    /// Checks that the schedule was built for a request.
    pub(crate) fn check(&self, shape: &AttentionShape, options: &ForwardOptions<'_>, plan: &BlockPlan) -> Result<()> {
        self.check_plan(plan)?;
        if self.shape == *shape && self.mask == options.mask {
            return Ok(());
        }
        Err(Error::Value {
            what: "columns",
            expected: format!("built for {shape:?} and {:?}", options.mask),
            got: format!("one for {:?} and {:?}", self.shape, self.mask),
        })
    }

    /// The memory, which `backward` only reads.
    pub(crate) fn memory(&self) -> &Buffer {
        &self.memory
    }

    fn check_plan(&self, plan: &BlockPlan) -> Result<()> {
        if self.plan == plan.id() {
            return Ok(());
        }
        Err(Error::Value {
            what: "columns",
            expected: "built from the plan of the call".into(),
            got: "one of another plan".into(),
        })
    }
}
