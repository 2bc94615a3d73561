//! Selection of blocks by gates.

use std::ffi::c_void;

use kernels::Mask;
use kernels::seer::{DecodeSelectOptions, Select, SelectOptions};

use crate::abi;
use crate::argument::{Out, flag, size};
use crate::failure::{Failure, Result};
use crate::gate::{Gate, by_kind};
use crate::gate_cache::Cache;
use crate::guard::guard;
use crate::handle::{give, take, take_optional};
use crate::plan::Plan;
use crate::request::{self, Options};
use crate::sized;
use crate::stream::Queue;
use crate::tensor::{Given, workspace};

/// # Safety
/// `select` is null or a struct as large as it says.
unsafe fn select_options(select: *const abi::lacuna_select) -> Result<SelectOptions> {
    // SAFETY: passed on to the caller.
    let given = unsafe { sized::read(select)? };
    let count = || size("count", given.count);
    let select = match given.rule {
        abi::LACUNA_RULE_THRESHOLD => Select::Threshold(given.value),
        abi::LACUNA_RULE_DENSITY => Select::Density(given.value),
        abi::LACUNA_RULE_BLOCKS => Select::Blocks(count()?),
        abi::LACUNA_RULE_TOP_P => Select::TopP(given.value),
        abi::LACUNA_RULE_TOKEN_BUDGET => Select::TokenBudget(count()?),
        other => return Err(Failure::value("rule", "a lacuna_rule", other)),
    };
    Ok(SelectOptions {
        select,
        last_rows_dense: size("last_rows_dense", given.last_rows_dense)?,
        force_diagonal: flag("force_diagonal", given.force_diagonal)?,
        sink_blocks: size("sink_blocks", given.sink_blocks)?,
        share_heads: flag("share_heads", given.share_heads)?,
    })
}

/// What a decode gate reads of the options.
fn decode_options(options: &SelectOptions) -> DecodeSelectOptions {
    DecodeSelectOptions { select: options.select, sink_blocks: options.sink_blocks }
}

/// A decode gate works under a causal mask, whatever the options leave out.
fn decode_mask(mask: &Mask) -> Result<()> {
    if mask.window_left.is_none() && mask.window_right.is_none() {
        return Ok(());
    }
    let text = "unsupported: a gate with a sliding window (select without it, and give the window to attention alone)";
    Err(Failure::new(abi::LACUNA_ERROR_UNSUPPORTED, text))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_plan_create(
    stream: *mut abi::lacuna_stream,
    gate: *mut abi::lacuna_gate,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    select: *const abi::lacuna_select,
    capacity: i64,
    plan: *mut *mut abi::lacuna_plan,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, gate) = (take::<Queue>(stream)?, take::<Gate>(gate)?);
        // SAFETY: the header asks for structs as large as they say, and a place for a handle.
        let (out, shape, options, select) = unsafe {
            (Out::new("plan", plan)?, request::shape(shape)?, Options::read(options)?, select_options(select)?)
        };
        let capacity = Some(size("capacity", capacity)?).filter(|&capacity| capacity > 0);
        let (stream, mask) = (&queue.stream, &options.mask);
        let plan = by_kind!(&*gate,
        gate => gate.empty_plan(stream, &shape, mask, &select, capacity)?,
        gate => {
            decode_mask(mask)?;
            gate.empty_plan(stream, &shape, &decode_options(&select), capacity)?
        });
        give(Plan::new(plan), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_workspace(
    gate: *mut abi::lacuna_gate,
    shape: *const abi::lacuna_shape,
    select: *const abi::lacuna_select,
    cached: i32,
    bytes: *mut usize,
) -> abi::lacuna_status {
    guard(|| {
        let gate = take::<Gate>(gate)?;
        // SAFETY: the header asks for structs as large as they say, and a place for a number.
        let (out, shape, select) =
            unsafe { (Out::new("bytes", bytes)?, request::shape(shape)?, select_options(select)?) };
        let cached = flag("cached", cached)?;
        out.set(by_kind!(&*gate,
            gate => if cached {
                gate.cached_workspace_bytes(&shape, &select)
            } else {
                gate.workspace_bytes(&shape, &select)
            },
            gate => gate.workspace_bytes(&shape)));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_gate_select(
    stream: *mut abi::lacuna_stream,
    gate: *mut abi::lacuna_gate,
    shape: *const abi::lacuna_shape,
    options: *const abi::lacuna_options,
    select: *const abi::lacuna_select,
    gate_q: *const abi::lacuna_tensor,
    gate_k: *const abi::lacuna_tensor,
    cache: *mut abi::lacuna_gate_cache,
    kv_lens: *const abi::lacuna_tensor,
    plan: *mut abi::lacuna_plan,
    workspace_pointer: *mut c_void,
    workspace_bytes: usize,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, gate, plan) = (take::<Queue>(stream)?, take::<Gate>(gate)?, take::<Plan>(plan)?);
        let cache = take_optional::<Cache>(cache)?;
        // SAFETY: the header asks for structs as large as they say.
        let (shape, options, select) =
            unsafe { (request::shape(shape)?, Options::read(options)?, select_options(select)?) };
        // SAFETY: the header asks for such tensors and such a workspace.
        let (gate_q, gate_k, kv_lens, mut memory) = unsafe {
            (
                Given::read("gate_q", gate_q, &queue)?,
                Given::read_optional("gate_k", gate_k, &queue)?,
                Given::read_optional("kv_lens", kv_lens, &queue)?,
                workspace(&queue, workspace_pointer, workspace_bytes)?,
            )
        };
        let (stream, mask) = (&queue.stream, &options.mask);
        let either = || Failure::new(abi::LACUNA_ERROR_VALUE, "expected either gate_k or a cache, got both or neither");
        by_kind!(&*gate,
        gate => {
            if kv_lens.is_some() {
                return Err(Failure::value("kv_lens", "null for a prefill gate", "a tensor"));
            }
            let gate_q = gate_q.view(&queue)?;
            match (gate_k, &cache) {
                (Some(gate_k), None) => {
                    let (gate_k, mut plan) = (gate_k.view(&queue)?, plan.write());
                    gate.select_into(stream, &shape, mask, gate_q, gate_k, &select, &mut plan, &mut memory)?;
                }
                (None, Some(cache)) => {
                    let (cache, mut plan) = (cache.read(), plan.write());
                    gate.select_with_cache(stream, &shape, mask, gate_q, &cache, &select, &mut plan, &mut memory)?;
                }
                _ => return Err(either()),
            }
        },
        gate => {
            decode_mask(mask)?;
            let (None, Some(cache)) = (&gate_k, &cache) else {
                let text = "a decode gate: expected a cache and no gate_k";
                return Err(Failure::new(abi::LACUNA_ERROR_VALUE, text));
            };
            let lens = kv_lens.map(|lens| lens.tensor(&queue)).transpose()?;
            let (gate_q, cache, mut plan) = (gate_q.view(&queue)?, cache.read(), plan.write());
            let lens = lens.as_ref();
            let select = decode_options(&select);
            gate.select_into(stream, &shape, lens, gate_q, &cache, &select, &mut plan, &mut memory)?;
        });
        Ok(())
    })
}
