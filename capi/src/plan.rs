//! Plans.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kernels::{AttentionShape, BlockFormula, BlockPlan, BlockSize, ListRows, S2Config, S2Variant};

use crate::abi;
use crate::argument::{Out, flag, size, slice};
use crate::failure::{Failure, Result};
use crate::guard::guard;
use crate::handle::{destroy, give, object, take};
use crate::request::{self, Options};
use crate::sized;
use crate::stream::Queue;
use crate::tensor::Given;

/// A plan. Calls read it; filling its lists is exclusive.
pub struct Plan(RwLock<BlockPlan>);

object!(Plan, abi::lacuna_plan, 3, "plan");

impl Plan {
    pub fn new(plan: BlockPlan) -> Self {
        Self(RwLock::new(plan))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, BlockPlan> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, BlockPlan> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Safety
/// `rows` is null or a struct as large as it says.
unsafe fn list_rows(rows: *const abi::lacuna_rows) -> Result<ListRows> {
    // SAFETY: passed on to the caller.
    let rows = unsafe { sized::read_optional(rows)? };
    let block = BlockSize { q: size("block_q", rows.block_q)?, k: size("block_k", rows.block_k)? };
    block.validate()?;
    let (batch, heads) = (size("rows.batch", rows.batch)?, size("rows.heads", rows.heads)?);
    Ok(ListRows { block, batch, heads, absolute: flag("absolute", rows.absolute)? })
}

/// Sizes of a mask for these rows; the block sizes and the shape are valid.
fn mask_sizes(shape: &AttentionShape, rows: &ListRows) -> [usize; 4] {
    let shift = if rows.absolute { shape.kv_len.saturating_sub(shape.q_len) % rows.block.q } else { 0 };
    let q_blocks = if shape.q_len == 0 { 0 } else { (shape.q_len + shift).div_ceil(rows.block.q) };
    [rows.batch, rows.heads, q_blocks, shape.kv_len.div_ceil(rows.block.k)]
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_dense(plan: *mut *mut abi::lacuna_plan) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a handle.
        let out = unsafe { Out::new("plan", plan)? };
        give(Plan::new(BlockPlan::dense()), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_window(
    block_size: i64,
    local_blocks: i64,
    sink_blocks: i64,
    plan: *mut *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a handle.
        let out = unsafe { Out::new("plan", plan)? };
        let block = BlockSize::square(size("block_size", block_size)?);
        let formula = BlockFormula::local(size("local_blocks", local_blocks)?, size("sink_blocks", sink_blocks)?);
        give(Plan::new(BlockPlan::formula(formula, block, 1, true)?), out)
    })
}

pub fn s2_config(given: &abi::lacuna_s2_config) -> Result<S2Config> {
    Ok(S2Config {
        block_size: size("block_size", given.block_size)?,
        local_blocks: size("local_blocks", given.local_blocks)?,
        vertical_stride: size("vertical_stride", given.vertical_stride)?,
        head_sliding_step: Some(given.head_sliding_step).filter(|&step| step != 0),
        head_sliding_offset: given.head_sliding_offset,
        num_dense_kv_heads: size("num_dense_kv_heads", given.num_dense_kv_heads)?,
        homogeneous: flag("homogeneous", given.homogeneous)?,
        sink_blocks: size("sink_blocks", given.sink_blocks)?,
        variant: if flag("phi3", given.phi3)? { S2Variant::Phi3 } else { S2Variant::Dkernel },
        ..S2Config::default()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_s2(
    shape: *const abi::lacuna_shape,
    config: *const abi::lacuna_s2_config,
    plan: *mut *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, and a place for a handle.
        let (out, shape, config) =
            unsafe { (Out::new("plan", plan)?, request::shape(shape)?, sized::read_optional(config)?) };
        give(Plan::new(s2_config(&config)?.plan(&shape)?), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_from_mask(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    rows: *const abi::lacuna_rows,
    mask: *const u8,
    mask_bytes: usize,
    plan: *mut *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, a place for a handle, and that many bytes.
        let (out, shape, rows, mask) = unsafe {
            (Out::new("plan", plan)?, request::shape(shape)?, list_rows(rows)?, slice("mask", mask, mask_bytes)?)
        };
        let queue = take::<Queue>(stream)?;
        let capacity = mask.iter().filter(|&&byte| byte != 0).count();
        let dims = mask_sizes(&shape, &rows);
        give(Plan::new(BlockPlan::from_mask_with_capacity(&queue.stream, &shape, rows, capacity, dims, mask)?), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_from_lists(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    rows: *const abi::lacuna_rows,
    row_offsets: *const i32,
    row_offsets_len: usize,
    indices: *const i32,
    indices_len: usize,
    plan: *mut *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, a place for a handle, and so many numbers.
        let (out, shape, rows, offsets, indices) = unsafe {
            (
                Out::new("plan", plan)?,
                request::shape(shape)?,
                list_rows(rows)?,
                slice("row_offsets", row_offsets, row_offsets_len)?,
                slice("indices", indices, indices_len)?,
            )
        };
        let queue = take::<Queue>(stream)?;
        give(Plan::new(BlockPlan::from_lists(&queue.stream, &shape, rows, offsets, indices)?), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_from_device_lists(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    rows: *const abi::lacuna_rows,
    row_offsets: *const abi::lacuna_tensor,
    indices: *const abi::lacuna_tensor,
    plan: *mut *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        let queue = take::<Queue>(stream)?;
        // SAFETY: the header asks for structs as large as they say, a place for a handle, and lists that outlive it.
        let (out, shape, rows, offsets, indices) = unsafe {
            (
                Out::new("plan", plan)?,
                request::shape(shape)?,
                list_rows(rows)?,
                Given::read("row_offsets", row_offsets, &queue)?,
                Given::read("indices", indices, &queue)?,
            )
        };
        let (offsets, indices) = (offsets.tensor(&queue)?, indices.tensor(&queue)?);
        give(Plan::new(BlockPlan::from_device_lists(&shape, rows, offsets, indices)?), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_create(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    rows: *const abi::lacuna_rows,
    capacity: i64,
    plan: *mut *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, and a place for a handle.
        let (out, shape, rows) = unsafe { (Out::new("plan", plan)?, request::shape(shape)?, list_rows(rows)?) };
        let queue = take::<Queue>(stream)?;
        give(Plan::new(BlockPlan::with_capacity(&queue.stream, &shape, rows, size("capacity", capacity)?)?), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_set_mask(
    stream: *mut abi::lacuna_stream,
    plan: *mut abi::lacuna_plan,
    mask: *const abi::lacuna_tensor,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        // SAFETY: the header asks for a struct as large as it says, of such memory.
        let mask = unsafe { Given::read("mask", mask, &queue)? };
        Ok(plan.write().set_mask(&queue.stream, mask.view(&queue)?)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_overflow(
    stream: *mut abi::lacuna_stream,
    plan: *mut abi::lacuna_plan,
    blocks: *mut i64,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for a place for a number.
        let out = unsafe { Out::new("blocks", blocks)? };
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        out.set(plan.read().overflow(&queue.stream)? as i64);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_block_mask(
    stream: *mut abi::lacuna_stream,
    plan: *mut abi::lacuna_plan,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    mask: *mut u8,
    mask_bytes: usize,
    sizes: *mut i64,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, and places for 4 numbers and so many bytes.
        let (out, shape, options) =
            unsafe { (Out::new("sizes", sizes.cast::<[i64; 4]>())?, request::shape(shape)?, Options::read(options)?) };
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        let found = plan.read().block_mask(&queue.stream, &shape, &options.mask)?;
        if !mask.is_null() {
            if mask_bytes != found.data.len() {
                let text = format!("mask_bytes: expected {}, got {mask_bytes}", found.data.len());
                return Err(Failure::new(abi::LACUNA_ERROR_SHAPE, text));
            }
            // SAFETY: as many bytes, of the caller.
            unsafe { std::ptr::copy_nonoverlapping(found.data.as_ptr(), mask, mask_bytes) };
        }
        out.set([found.batch, found.heads, found.q_blocks, found.kv_blocks].map(|n| n as i64));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_visited_pairs(
    stream: *mut abi::lacuna_stream,
    plan: *mut abi::lacuna_plan,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    pairs: *mut u64,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, and a place for a number.
        let (out, shape, options) =
            unsafe { (Out::new("pairs", pairs)?, request::shape(shape)?, Options::read(options)?) };
        let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
        out.set(plan.read().visited_pairs(&queue.stream, &shape, &options.mask)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_plan_destroy(plan: *mut abi::lacuna_plan) -> abi::lacuna_status {
    guard(|| destroy::<Plan>(plan))
}
