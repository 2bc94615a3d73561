//! Block plans: formulas that kernels evaluate, or lists on the device.

use std::sync::atomic::{AtomicU64, Ordering};

use super::block_mask::BlockMask;
use super::block_size::BlockSize;
use super::formula::BlockFormula;
use super::geometry::{Geometry, Rows};
use super::lists::{ListRows, Lists, SelectionTargets, check_host_lists};
use crate::device::{Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::shape::{AttentionShape, Mask};
use crate::tensor::{Tensor, TensorView};

/// Which key blocks each query block attends.
///
/// A row of a plan is one query block of one plan head of one sequence (or of all sequences). The token mask of a call
/// still applies inside every block, so a list can't let a future token through.
///
/// Made of lists, a plan is used with a [`Schedule`](crate::Schedule) built from it.
#[derive(Debug)]
pub struct BlockPlan {
    block: BlockSize,
    heads: usize,
    rows: Rows,
    kind: Kind,
    /// Different for every plan of the process: a schedule remembers which one it was built from.
    id: u64,
}

#[derive(Debug)]
enum Kind {
    Formula(BlockFormula),
    Lists { batch: usize, lists: Box<Lists> },
}

impl BlockPlan {
    /// A pattern that kernels evaluate themselves: no index memory, no schedule to build.
    ///
    /// `heads` is 1, the KV heads or the query heads. `absolute` numbers query blocks by key positions; otherwise
    /// block 0 starts at the call's first query. Blocks are square, as a formula compares their indices.
    ///
    /// # Errors
    /// [`Error::Value`] for a block size or a formula outside its range. The rest is checked against a shape in use.
    pub fn formula(formula: BlockFormula, block: BlockSize, heads: usize, absolute: bool) -> Result<Self> {
        let rows = if absolute { Rows::Absolute } else { Rows::FirstQuery };
        Self::of_formula(formula, block, heads, rows)
    }

    /// As [`BlockPlan::formula`], for a call whose first query stands at `position` among the keys: before the first
    /// one if negative, and wherever the last query stands. The lengths of decode do not move the queries.
    ///
    /// # Errors
    /// As [`BlockPlan::formula`].
    pub fn formula_at(formula: BlockFormula, block: BlockSize, heads: usize, position: i64) -> Result<Self> {
        Self::of_formula(formula, block, heads, Rows::At(position))
    }

    fn of_formula(formula: BlockFormula, block: BlockSize, heads: usize, rows: Rows) -> Result<Self> {
        block.validate()?;
        if block.q != block.k {
            let expected = format!("block_k ({}) in a formula", block.k);
            return Err(Error::Value { what: "block_q", expected, got: block.q.to_string() });
        }
        formula.validate(heads, 0)?;
        Ok(Self::new(block, heads, rows, Kind::Formula(formula)))
    }

    /// Every block: dense attention under whatever token mask.
    pub fn dense() -> Self {
        Self::new(BlockSize::square(64), 1, Rows::FirstQuery, Kind::Formula(BlockFormula::dense()))
    }

    /// The blocks of a dense mask on the host, as lists; each non-zero byte is a block to attend.
    ///
    /// `dims` is `[1 or batch, 1, kv_heads or q_heads, ceil(q_len / block_q), ceil(kv_len / block_k)]`; rows count
    /// from the call's first query. The capacity is the number of non-zero bytes.
    ///
    /// # Errors
    /// [`Error::Value`] for sizes outside their ranges, [`Error::Shape`] for a mask of another size,
    /// [`Error::OutOfMemory`].
    pub fn from_mask(
        stream: &Stream,
        shape: &AttentionShape,
        block_q: usize,
        block_k: usize,
        dims: [usize; 4],
        mask: &[u8],
    ) -> Result<Self> {
        let block = BlockSize { q: block_q, k: block_k };
        let rows = ListRows { block, batch: dims[0], heads: dims[1], absolute: false };
        let capacity = mask.iter().filter(|&&byte| byte != 0).count();
        Self::from_mask_with_capacity(stream, shape, rows, capacity, dims, mask)
    }

    /// As [`BlockPlan::from_mask`], for rows of any kind, with room for `capacity` blocks: those that do not fit are
    /// left out, see [`BlockPlan::overflow`].
    ///
    /// # Errors
    /// As [`BlockPlan::from_mask`]; [`Error::Value`] for a capacity of 2^31 or more.
    pub fn from_mask_with_capacity(
        stream: &Stream,
        shape: &AttentionShape,
        rows: ListRows,
        capacity: usize,
        dims: [usize; 4],
        mask: &[u8],
    ) -> Result<Self> {
        let geometry = rows.geometry(shape)?;
        if dims != geometry.dims() || mask.len() != geometry.blocks()? {
            return Err(Error::Shape {
                what: "block mask",
                expected: format!("{:?}", geometry.dims()),
                got: format!("{dims:?} ({} bytes)", mask.len()),
            });
        }
        let mut plan = Self::with_capacity(stream, shape, rows, capacity)?;
        let mask = Tensor::from_slice(stream, mask, geometry.dims())?;
        plan.set_mask(stream, mask.view())?;
        Ok(plan)
    }

    /// The blocks of a dense mask `[batch, heads, q_blocks, kv_blocks]` on the device, with room for `capacity` blocks.
    ///
    /// # Errors
    /// As [`BlockPlan::from_mask_with_capacity`] (also [`Error::Shape`] for a mask of another size); [`Error::Device`]
    /// for a mask on another device.
    pub fn from_device_mask(
        stream: &Stream,
        shape: &AttentionShape,
        rows: ListRows,
        capacity: usize,
        mask: TensorView<'_, u8>,
    ) -> Result<Self> {
        let dims = rows.geometry(shape)?.dims();
        if mask.dims() != dims {
            let (expected, got) = (format!("{dims:?}"), format!("{:?}", mask.dims()));
            return Err(Error::Shape { what: "block mask", expected, got });
        }
        let mut plan = Self::with_capacity(stream, shape, rows, capacity)?;
        plan.set_mask(stream, mask)?;
        Ok(plan)
    }

    /// Lists without a block, with room for `capacity` blocks.
    ///
    /// # Errors
    /// [`Error::Value`] for sizes outside their ranges, [`Error::OutOfMemory`].
    pub fn with_capacity(stream: &Stream, shape: &AttentionShape, rows: ListRows, capacity: usize) -> Result<Self> {
        let geometry = rows.geometry(shape)?;
        let lists = Box::new(Lists::with_capacity(stream, geometry.rows(), capacity)?);
        Ok(Self::new(rows.block, rows.heads, rows.rows(), Kind::Lists { batch: rows.batch, lists }))
    }

    /// Lists from the host: row `r` attends `indices[row_offsets[r]..row_offsets[r + 1]]`. A block named twice counts
    /// twice.
    ///
    /// # Errors
    /// [`Error::Value`] for sizes outside their ranges; [`Error::Shape`] for a wrong number of offsets;
    /// [`Error::List`] names the row whose offsets descend or leave `indices`, or whose ids descend or name no block.
    pub fn from_lists(
        stream: &Stream,
        shape: &AttentionShape,
        rows: ListRows,
        row_offsets: &[i32],
        indices: &[i32],
    ) -> Result<Self> {
        check_host_lists(&rows.geometry(shape)?, row_offsets, indices)?;
        let offsets = Tensor::vector(stream, row_offsets)?;
        let indices = Tensor::vector(stream, indices)?;
        Self::from_device_lists(shape, rows, offsets, indices)
    }

    /// Lists that are on the device already, `[rows + 1]` and `[capacity]`. Their contents are data: ids outside the
    /// keys are skipped, offsets are cut to the capacity. At most 2^28 elements.
    ///
    /// # Errors
    /// [`Error::Value`] for sizes outside their ranges, [`Error::Shape`] for tensors of another size or with gaps,
    /// [`Error::Device`] when they are on different devices.
    pub fn from_device_lists(
        shape: &AttentionShape,
        rows: ListRows,
        row_offsets: Tensor<i32>,
        indices: Tensor<i32>,
    ) -> Result<Self> {
        let geometry = rows.geometry(shape)?;
        row_offsets.stream().device().check_memory("indices", indices.stream().device())?;
        let vector = |what, tensor: &Tensor<i32>, size: Option<usize>| {
            let layout = tensor.layout();
            if layout.is_contiguous() && size.is_none_or(|size| layout.len() == size) {
                return Ok(());
            }
            let expected = size.map_or("packed elements".into(), |size| format!("{size} packed elements"));
            Err(Error::Shape { what, expected, got: format!("{:?}", layout.dims()) })
        };
        vector("row_offsets", &row_offsets, Some(geometry.rows() + 1))?;
        vector("indices", &indices, None)?;
        // Offsets that overlap may list every element in each of the (at most 8) rows that share a tile, and the
        // kernels count a tile's blocks in 32 bits.
        if indices.layout().len() >= 1 << 28 {
            let got = indices.layout().len().to_string();
            return Err(Error::Value { what: "indices", expected: "below 2^28 elements".into(), got });
        }
        let lists = Box::new(Lists { offsets: row_offsets, indices, build: None });
        Ok(Self::new(rows.block, rows.heads, rows.rows(), Kind::Lists { batch: rows.batch, lists }))
    }

    fn new(block: BlockSize, heads: usize, rows: Rows, kind: Kind) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { block, heads, rows, kind, id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Refills the lists from a dense mask on the device, in stream order and without allocating (a CUDA graph may
    /// hold it). Blocks beyond the capacity are left out: each row keeps its first ones.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a formula and for lists given from outside; [`Error::Shape`] for a mask of another
    /// size or with gaps; [`Error::Device`] for one on another device.
    pub fn set_mask(&mut self, stream: &Stream, mask: TensorView<'_, u8>) -> Result<()> {
        let foreign = || Error::Unsupported {
            what: "filling this plan from a mask".into(),
            hint: "make it with BlockPlan::with_capacity or from a mask".into(),
        };
        let Kind::Lists { lists, .. } = &mut self.kind else { return Err(foreign()) };
        let Lists { offsets, indices, build } = lists.as_mut();
        let build = build.as_mut().ok_or_else(foreign)?;
        let rows = offsets.layout().len() - 1;
        let [batch, heads, q_blocks, kv_blocks] = mask.dims();
        let mask_rows = batch.checked_mul(heads).and_then(|n| n.checked_mul(q_blocks));
        if mask_rows != Some(rows) || !mask.layout().is_contiguous() || kv_blocks > i32::MAX as usize {
            return Err(Error::Shape {
                what: "block mask",
                expected: format!("[batch, heads, q_blocks, kv_blocks] with {rows} rows, packed"),
                got: format!("{:?} with strides {:?}", mask.dims(), mask.layout().strides()),
            });
        }
        stream.device().check_memory("plan", offsets.stream().device())?;
        stream.device().check_memory("block mask", mask.stream().device())?;
        let capacity = indices.layout().len();
        let params = abi::lacuna_mask_to_lists_params {
            rows: rows as i32,
            kv_blocks: kv_blocks as i32,
            mask: mask.as_ptr(),
            capacity: capacity as i32,
            reserved: 0,
            row_offsets: offsets.view_mut().as_mut_ptr(),
            indices: indices.view_mut().as_mut_ptr(),
            counts: build.counts.view_mut().as_mut_ptr(),
            overflow: build.overflow.view_mut().as_mut_ptr(),
        };
        if rows == 0 {
            return Ok(());
        }
        ordered(stream, &[offsets.stream(), mask.stream()], || {
            // SAFETY: the mask has `rows * kv_blocks` bytes, and the plan's tensors, all made on one stream, have the
            // sizes that the header names.
            stream.launch(|kernels, raw| unsafe { kernels.mask_to_lists(&params, raw) })
        })
    }

    /// Blocks that did not fit the capacity when the lists were built last; waits for `stream`.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn overflow(&self, stream: &Stream) -> Result<usize> {
        let Kind::Lists { lists, .. } = &self.kind else { return Ok(0) };
        let Some(build) = &lists.build else { return Ok(0) };
        Ok(build.overflow.to_vec(stream)?.first().map_or(0, |&count| usize::try_from(count).unwrap_or(0)))
    }

    /// The lists `(row_offsets, indices)` as they are on the device; `None` for a formula. Waits for `stream`.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn lists(&self, stream: &Stream) -> Result<Option<(Vec<i32>, Vec<i32>)>> {
        match &self.kind {
            Kind::Formula(_) => Ok(None),
            Kind::Lists { lists, .. } => Ok(Some((lists.offsets.to_vec(stream)?, lists.indices.to_vec(stream)?))),
        }
    }

    /// Sizes of a block.
    pub fn block_size(&self) -> BlockSize {
        self.block
    }

    /// Plan heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Whether the plan is made of lists, which need a built schedule.
    pub fn has_lists(&self) -> bool {
        matches!(self.kind, Kind::Lists { .. })
    }

    /// The formula of a plan without lists.
    pub fn as_formula(&self) -> Option<&BlockFormula> {
        match &self.kind {
            Kind::Formula(formula) => Some(formula),
            Kind::Lists { .. } => None,
        }
    }

    /// Room for blocks in the lists; 0 for a formula.
    pub fn capacity(&self) -> usize {
        match &self.kind {
            Kind::Formula(_) => 0,
            Kind::Lists { lists, .. } => lists.capacity(),
        }
    }

    /// Device memory of the plan, in bytes; 0 for a formula.
    pub fn memory_bytes(&self) -> usize {
        match &self.kind {
            Kind::Formula(_) => 0,
            Kind::Lists { lists, .. } => lists.memory_bytes(),
        }
    }

    /// The blocks that the plan attends in a call, computed by the kernel `plan_to_mask`: what the forward kernel sees.
    /// Of a causal call only blocks with a visible pair. A block listed twice shows once. Waits for `stream`.
    ///
    /// # Errors
    /// [`Error::Value`] when the plan does not fit the shape, [`Error::OutOfMemory`], or what the kernel reports.
    pub fn block_mask(&self, stream: &Stream, shape: &AttentionShape, mask: &Mask) -> Result<BlockMask> {
        mask.validate(shape)?;
        let geometry = self.geometry(shape)?;
        self.check_device(stream)?;
        let mut result = Tensor::<u8>::zeros(stream, geometry.dims())?;
        if geometry.blocks()? > 0 {
            // A shared plan has rows although the batch may be empty.
            let shape = AttentionShape { batch: shape.batch.max(1), ..*shape };
            let shape = &shape;
            let params = abi::lacuna_plan_to_mask_params {
                shape: convert::shape(shape),
                mask: convert::mask(mask, shape),
                plan: self.to_abi(&geometry),
                block_mask: result.view_mut().as_mut_ptr(),
            };
            ordered(stream, &self.owners(stream), || {
                // SAFETY: `geometry` checked the plan against the shape, the result has its size and is on `stream`.
                stream.launch(|kernels, raw| unsafe { kernels.plan_to_mask(&params, raw) })
            })?;
        }
        BlockMask::of_data(shape, self.block, geometry.batch, geometry.heads, self.rows, result.to_vec(stream)?)
    }

    /// The blocks that a formula attends in a call, computed on the host: what [`BlockPlan::block_mask`] gives.
    ///
    /// # Errors
    /// As [`BlockPlan::block_mask`]; [`Error::Unsupported`] for lists, which are on the device.
    pub fn host_mask(&self, shape: &AttentionShape, mask: &Mask) -> Result<BlockMask> {
        match &self.kind {
            Kind::Formula(formula) => BlockMask::of_formula(shape, mask, formula, self.heads, self.block, self.rows),
            Kind::Lists { .. } => Err(Error::Unsupported {
                what: "the blocks of lists on the host".into(),
                hint: "they are on the device: use block_mask".into(),
            }),
        }
    }

    /// (query, key) pairs that pass plan and mask, summed over sequences and query heads. Waits for `stream`.
    ///
    /// # Errors
    /// As [`BlockPlan::block_mask`].
    pub fn visited_pairs(&self, stream: &Stream, shape: &AttentionShape, mask: &Mask) -> Result<u64> {
        Ok(self.block_mask(stream, shape, mask)?.visited_pairs(shape, mask))
    }

    /// Visited pairs as a part of those that the mask alone lets through. Waits for `stream`.
    ///
    /// # Errors
    /// As [`BlockPlan::block_mask`].
    pub fn density(&self, stream: &Stream, shape: &AttentionShape, mask: &Mask) -> Result<f64> {
        Ok(self.block_mask(stream, shape, mask)?.density(shape, mask))
    }

    /// The plan laid over a shape.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] when it does not fit.
    pub(crate) fn geometry(&self, shape: &AttentionShape) -> Result<Geometry> {
        let batch = match &self.kind {
            Kind::Formula(_) => 1,
            Kind::Lists { batch, .. } => *batch,
        };
        let geometry = Geometry::new(shape, self.block, batch, self.heads, self.rows)?;
        match &self.kind {
            Kind::Formula(formula) => formula.validate(self.heads, geometry.kv_blocks)?,
            Kind::Lists { lists, .. } => {
                let rows = lists.offsets.layout().len() - 1;
                if rows != geometry.rows() {
                    return Err(Error::Shape {
                        what: "plan",
                        expected: format!("{} rows for {:?}", geometry.rows(), &geometry.dims()[..3]),
                        got: rows.to_string(),
                    });
                }
            }
        }
        Ok(geometry)
    }

    /// The memory that a selector fills; the plan must be made of lists with these rows and have memory to build them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a formula and for lists given from outside, [`Error::Shape`] for other rows.
    pub(crate) fn selection_targets(&mut self, shape: &AttentionShape, rows: ListRows) -> Result<SelectionTargets<'_>> {
        let geometry = self.geometry(shape)?;
        if (self.block, self.rows, geometry) != (rows.block, rows.rows(), rows.geometry(shape)?) {
            return Err(Error::Shape {
                what: "plan",
                expected: format!("rows {rows:?}"),
                got: format!("{:?} with {:?} rows, {:?}", self.block, self.rows, &geometry.dims()[..3]),
            });
        }
        match &mut self.kind {
            Kind::Lists { lists, .. } if lists.build.is_some() => Ok(lists.selection_targets()),
            _ => Err(Error::Unsupported {
                what: "selecting into this plan".into(),
                hint: "make it with BlockPlan::with_capacity or with empty_plan of the gate".into(),
            }),
        }
    }

    pub(crate) fn check_device(&self, stream: &Stream) -> Result<()> {
        match &self.kind {
            Kind::Formula(_) => Ok(()),
            Kind::Lists { lists, .. } => stream.device().check_memory("plan", lists.offsets.stream().device()),
        }
    }

    /// The streams that the lists belong to; `stream` where there are none.
    pub(crate) fn owners<'a>(&'a self, stream: &'a Stream) -> [&'a Stream; 2] {
        match &self.kind {
            Kind::Formula(_) => [stream; 2],
            Kind::Lists { lists, .. } => [lists.offsets.stream(), lists.indices.stream()],
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The plan as the kernels see it. `geometry` comes from [`BlockPlan::geometry`].
    pub(crate) fn to_abi(&self, geometry: &Geometry) -> abi::lacuna_block_plan {
        let mut plan = abi::lacuna_block_plan {
            kind: abi::LACUNA_PLAN_FORMULA,
            plan_batch: geometry.batch as i32,
            heads: geometry.heads as i32,
            block_q: self.block.q as i32,
            block_k: self.block.k as i32,
            row_shift: geometry.row_shift as i32,
            first_row: geometry.first_row as i32,
            absolute: i32::from(self.rows == Rows::Absolute),
            ..Default::default()
        };
        match &self.kind {
            Kind::Formula(formula) => {
                plan.formula = formula.to_abi();
            }
            Kind::Lists { lists, .. } => {
                plan.kind = abi::LACUNA_PLAN_LISTS;
                plan.capacity = lists.capacity() as i32;
                plan.row_offsets = lists.offsets.view().as_ptr();
                plan.indices = lists.indices.view().as_ptr();
                plan.formula = abi::lacuna_block_formula { vertical_stride: 1, heads_per_step: 1, ..plan.formula };
            }
        }
        plan
    }
}
