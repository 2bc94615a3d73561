//! Schedules: a plan arranged for the tiles of one kernel, on the device.

mod columns;

pub use columns::ColumnSchedule;

use crate::attention::{ForwardOptions, kernel};
use crate::device::{Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::plan::BlockPlan;
use crate::profile::range;
use crate::shape::{AttentionShape, Mask};
use crate::tensor::Tensor;

/// What forward walks: for each tile of query rows the key blocks to visit and which of the tile's rows want them,
/// longest tiles first.
///
/// A schedule belongs to one plan, shape and mask, and may be used for many calls (a static pattern is scheduled once).
/// One for a kernel with wide tiles serves kernels with narrower tiles as well, with the same results.
/// Formula plans need none: theirs holds no memory. One for [`Ragged`](crate::Ragged) calls serves any lengths.
#[derive(Debug)]
pub struct Schedule {
    plan: u64,
    shape: AttentionShape,
    mask: Mask,
    /// For calls with lengths on the device.
    ragged: bool,
    lists: Option<Lists>,
}

#[derive(Debug)]
struct Lists {
    /// Query rows of a schedule row.
    tile_q: usize,
    /// Keys of an entry.
    unit: usize,
    rows: usize,
    capacity: usize,
    /// `[rows + 1]`
    offsets: Tensor<i32>,
    /// `[capacity]`, `block << 8 | row-group mask`
    entries: Tensor<u32>,
    /// `[rows]`
    order: Tensor<i32>,
    /// `[rows]` scratch
    counts: Tensor<i32>,
    /// `[1]`
    overflow: Tensor<i32>,
}

impl Schedule {
    /// Allocates a schedule for a plan and builds it on the device, in stream order and without a copy to the host.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] when plan, shape and mask do not fit each other; [`Error::Device`] for a
    /// plan on another device; [`Error::Unsupported`] when no kernel serves the request; [`Error::OutOfMemory`].
    pub fn build(
        stream: &Stream,
        shape: &AttentionShape,
        options: &ForwardOptions<'_>,
        plan: &BlockPlan,
    ) -> Result<Self> {
        let _range = range!("schedule.build", q_len = shape.q_len, kv_len = shape.kv_len);
        options.mask.validate(shape)?;
        let geometry = plan.geometry(shape)?;
        plan.check_device(stream)?;
        let mut schedule =
            Self { plan: plan.id(), shape: *shape, mask: options.mask, ragged: options.ragged.is_any(), lists: None };
        if plan.has_lists() {
            let block = plan.block_size();
            // Both are powers of two: whole tiles and whole query blocks.
            let tile_q = kernel(stream.device(), shape, options, plan)?.schedule_q.max(block.q);
            let q_rows = if shape.q_len == 0 { 0 } else { shape.q_len + geometry.row_shift };
            // At most one row for each row of the plan, so it fits as well.
            let rows = geometry.batch * geometry.heads * q_rows.div_ceil(tile_q);
            // Merging the lists of small query blocks never makes more entries than the lists have.
            let capacity = plan.capacity();
            let vector = |len| Tensor::<i32>::uninit(stream, [1, 1, 1, len]);
            schedule.lists = Some(Lists {
                tile_q,
                unit: block.k,
                rows,
                capacity,
                offsets: vector(rows + 1)?,
                entries: Tensor::uninit(stream, [1, 1, 1, capacity])?,
                order: vector(rows)?,
                counts: vector(rows)?,
                overflow: vector(1)?,
            });
        }
        schedule.rebuild(stream, plan)?;
        Ok(schedule)
    }

    /// Builds again after the plan's lists changed, in stream order and without allocating: a CUDA graph may hold it.
    ///
    /// # Errors
    /// [`Error::Value`] for another plan than the one it was built for, [`Error::Device`], or what the kernel reports.
    pub fn rebuild(&mut self, stream: &Stream, plan: &BlockPlan) -> Result<()> {
        self.check_plan(plan)?;
        let (shape, mask) = (self.shape, self.mask);
        let Some(lists) = &self.lists else { return Ok(()) };
        stream.device().check_memory("schedule", lists.offsets.stream().device())?;
        plan.check_device(stream)?;
        if lists.rows == 0 || shape.batch == 0 {
            return Ok(());
        }
        let params = abi::lacuna_schedule_params {
            shape: convert::shape(&shape),
            mask: convert::mask(&mask, &shape),
            plan: plan.to_abi(&plan.geometry(&shape)?),
            schedule: lists.to_abi(),
            ragged: i32::from(self.ragged),
            reserved: 0,
        };
        let [offsets, indices] = plan.owners(stream);
        ordered(stream, &[lists.offsets.stream(), offsets, indices], || {
            // SAFETY: `build` gave the tensors the sizes that the header names, for this plan and shape; nobody else
            // reads or writes them, as `self` is borrowed exclusively.
            stream.launch(|kernels, raw| unsafe { kernels.schedule_build(&params, raw) })
        })
    }

    /// Device memory of the schedule, in bytes; 0 for a formula.
    pub fn memory_bytes(&self) -> usize {
        // offsets, order, counts and overflow: 3 * rows + 2 elements of 4 bytes.
        self.lists.as_ref().map_or(0, |lists| 4 * (3 * lists.rows + 2 + lists.capacity))
    }

    /// Checks that the schedule was built for a request.
    pub(crate) fn check(&self, shape: &AttentionShape, options: &ForwardOptions<'_>, plan: &BlockPlan) -> Result<()> {
        self.check_plan(plan)?;
        let mask = &options.mask;
        if self.shape != *shape || self.mask != *mask {
            return Err(Error::Value {
                what: "schedule",
                expected: format!("built for {shape:?} and {mask:?}"),
                got: format!("one for {:?} and {:?}", self.shape, self.mask),
            });
        }
        if self.lists.is_some() && self.ragged != options.ragged.is_any() {
            let kind = |ragged| if ragged { "sequences of different lengths" } else { "sequences of one length" };
            let expected = format!("built for {}", kind(!self.ragged));
            return Err(Error::Value { what: "schedule", expected, got: format!("one for {}", kind(self.ragged)) });
        }
        Ok(())
    }

    fn check_plan(&self, plan: &BlockPlan) -> Result<()> {
        if self.plan == plan.id() {
            return Ok(());
        }
        Err(Error::Value {
            what: "schedule",
            expected: "built from the plan of the call".into(),
            got: "one of another plan".into(),
        })
    }

    /// The stream that the memory belongs to; `stream` where there is none.
    pub(crate) fn owner<'a>(&'a self, stream: &'a Stream) -> &'a Stream {
        self.lists.as_ref().map_or(stream, |lists| lists.offsets.stream())
    }

    /// The schedule as the kernels see it; zeros for a formula. `forward` only reads through these pointers, and
    /// `rebuild`, which writes, holds the schedule exclusively.
    pub(crate) fn to_abi(&self) -> abi::lacuna_schedule {
        self.lists.as_ref().map_or_else(Default::default, Lists::to_abi)
    }
}

impl Lists {
    fn to_abi(&self) -> abi::lacuna_schedule {
        let pointer = |tensor: &Tensor<i32>| tensor.view().as_ptr().cast_mut();
        abi::lacuna_schedule {
            tile_q: self.tile_q as i32,
            unit: self.unit as i32,
            rows: self.rows as i32,
            capacity: self.capacity as i32,
            offsets: pointer(&self.offsets),
            entries: self.entries.view().as_ptr().cast_mut(),
            order: pointer(&self.order),
            counts: pointer(&self.counts),
            overflow: pointer(&self.overflow),
        }
    }
}
