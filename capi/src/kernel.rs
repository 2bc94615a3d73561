//! Which kernel serves a call.

use kernels::attention::{decode_kernel, kernel};
use kernels::{AttentionShape, BlockPlan, Device, ForwardOptions, KernelFamily, KernelInfo};

use crate::abi;
use crate::argument::put_text;
use crate::failure::Result;
use crate::guard::guard;
use crate::handle::take;
use crate::plan::Plan;
use crate::request::{self, Options};
use crate::sized::{Place, Versioned};
use crate::stream::Queue;

type Query = fn(&Device, &AttentionShape, &ForwardOptions<'_>, &BlockPlan) -> kernels::Result<KernelInfo>;

fn to_abi(info: &KernelInfo) -> abi::lacuna_kernel_info {
    let mut value = abi::lacuna_kernel_info {
        family: match info.family {
            KernelFamily::Hopper => abi::LACUNA_FAMILY_HOPPER,
            _ => abi::LACUNA_FAMILY_PORTABLE,
        },
        tile_q: info.tile_q as i64,
        tile_k: info.tile_k as i64,
        heads: info.heads as i64,
        threads: info.threads as i64,
        smem_bytes: info.smem_bytes as i64,
        ..Versioned::defaults()
    };
    put_text(&mut value.name, &info.name);
    value
}

/// # Safety
/// Pointers are as the header asks.
unsafe fn answer(
    query: Query,
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    info: *mut abi::lacuna_kernel_info,
) -> Result<()> {
    // SAFETY: passed on to the caller.
    let (place, shape, options) = unsafe { (Place::new(info)?, request::shape(shape)?, Options::read(options)?) };
    let (queue, plan) = (take::<Queue>(stream)?, take::<Plan>(plan)?);
    // SAFETY: passed on to the caller.
    let tensors = unsafe { options.tensors(&queue)? };
    let options = options.with(&tensors, &queue)?;
    place.set(to_abi(&query(queue.stream.device(), &shape, &options, &plan.read())?));
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_forward_kernel(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    info: *mut abi::lacuna_kernel_info,
) -> abi::lacuna_status {
    // SAFETY: passed on to the caller.
    guard(|| unsafe { answer(kernel, stream, shape, options, plan, info) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_decode_kernel(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    plan: *mut abi::lacuna_plan,
    info: *mut abi::lacuna_kernel_info,
) -> abi::lacuna_status {
    // SAFETY: passed on to the caller.
    guard(|| unsafe { answer(decode_kernel, stream, shape, options, plan, info) })
}
