//! One attention call from host memory to host memory, with what it did.

use crate::failure::Result;
use lacuna::{
    AttentionShape, BlockMask, BlockPlan, Counters, Device, ForwardOptions, Half, Schedule, Stream, Tensor, attention,
};
use std::time::{Duration, Instant};

/// The inputs of a call, `[batch, heads, len, head_dim]` packed.
#[derive(Clone, Copy)]
pub struct Inputs<'a, T> {
    /// `[batch, q_heads, q_len, head_dim]`
    pub q: &'a [T],
    /// `[batch, kv_heads, kv_len, head_dim]`; paged: `[pages, kv_heads, page_size, head_dim]`
    pub k: &'a [T],
    /// As `k`
    pub v: &'a [T],
}

/// What a call gave.
pub struct Answer {
    /// `[batch, q_heads, q_len, head_dim]`: values of the compute type.
    pub out: Vec<f32>,
    /// `[batch, q_heads, q_len]`, natural logarithm.
    pub lse: Vec<f32>,
    /// The blocks that the plan attended, as a kernel drew them.
    pub blocks: BlockMask,
    /// What the calls below counted.
    pub work: Work,
    /// From the first copy to the device to the last back, `blocks` left out.
    pub elapsed: Duration,
}

/// Kernels launched and what they did.
pub struct Work {
    /// Names, in the order of the launches.
    pub kernels: Vec<String>,
    /// Counted by the SIMT host only.
    pub counters: Option<Counters>,
}

/// The function of the library that runs a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Over a schedule of the plan.
    Forward,
    /// Over the plan itself.
    Decode,
}

/// Runs a plan. `stream` is used by nobody else: its counters start at zero here.
pub fn attend<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
    inputs: Inputs<'_, T>,
) -> Result<Answer> {
    run(stream, Entry::Forward, shape, options, plan, inputs)
}

/// The same by the decode kernels, for at most 16 queries a sequence.
pub fn decode<T: Half>(
    stream: &Stream,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
    inputs: Inputs<'_, T>,
) -> Result<Answer> {
    run(stream, Entry::Decode, shape, options, plan, inputs)
}

fn run<T: Half>(
    stream: &Stream,
    entry: Entry,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
    inputs: Inputs<'_, T>,
) -> Result<Answer> {
    let q_dims = [shape.batch, shape.q_heads, shape.q_len, shape.head_dim];
    let kv_dims = match options.paged {
        None => [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim],
        Some(paged) => {
            let page = shape.kv_heads * paged.page_size * shape.head_dim;
            [inputs.k.len() / page, shape.kv_heads, paged.page_size, shape.head_dim]
        }
    };
    let start = Instant::now();
    let q = Tensor::from_slice(stream, inputs.q, q_dims)?;
    let k = Tensor::from_slice(stream, inputs.k, kv_dims)?;
    let v = Tensor::from_slice(stream, inputs.v, kv_dims)?;
    let mut out = Tensor::<T>::uninit(stream, q_dims)?;
    let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1])?;
    let (written, rows) = (out.view_mut(), Some(lse.view_mut()));
    let (q, k, v) = (q.view(), k.view(), v.view());
    match entry {
        Entry::Forward => {
            let schedule = Schedule::build(stream, shape, options, plan)?;
            let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, options))?;
            attention::forward(stream, shape, options, plan, &schedule, q, k, v, written, rows, &mut workspace)?;
        }
        Entry::Decode => {
            let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(shape, plan))?;
            attention::decode(stream, shape, options, plan, None, q, k, v, written, rows, &mut workspace)?;
        }
    }
    let out = out.to_vec(stream)?.into_iter().map(T::to_f32).collect();
    let lse = lse.to_vec(stream)?;
    let elapsed = start.elapsed();
    let blocks = plan.block_mask(stream, shape, &options.mask)?;
    let work =
        Work { kernels: kernel_names(stream.device(), entry, shape, options, plan)?, counters: stream.counters() };
    Ok(Answer { out, lse, blocks, work, elapsed })
}

/// The kernels of a call, from a plan to outputs.
fn kernel_names(
    device: &Device,
    entry: Entry,
    shape: &AttentionShape,
    options: &ForwardOptions<'_>,
    plan: &BlockPlan,
) -> Result<Vec<String>> {
    let mut names = Vec::new();
    match entry {
        Entry::Forward => {
            if plan.has_lists() {
                names.push("schedule_build".to_owned());
            }
            names.push(attention::kernel(device, shape, options, plan)?.name);
        }
        Entry::Decode => names.push(attention::decode_kernel(device, shape, options, plan)?.name),
    }
    names.push("plan_to_mask".to_owned());
    Ok(names)
}
