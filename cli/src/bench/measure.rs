//! One case: inputs, planning, attention.

use super::case::{Case, Pass};
use super::clock::{Timing, time};
use super::planner::Planner;
use crate::config::Method;
use crate::failure::Result;
use lacuna::attention::{self, BackwardInputs, GradientsMut};
use lacuna::reference::{HyperEstimator, HyperRanks};
use lacuna::{
    AttentionShape, BlockPlan, ColumnSchedule, ForwardOptions, HyperConfig, HyperPlan, Mask, Schedule, Stream, Tensor,
    bf16,
};
use std::time::Duration;

/// What a case took.
pub struct Measured {
    pub settings: String,
    pub kernels: Vec<String>,
    /// What each step has to do before attention: the planner, and schedules of its lists. `None` where a pattern is
    /// planned once.
    pub planning: Option<Timing>,
    pub attention: Timing,
    /// (query, key) pairs over batch and query heads; `None` where they were not counted.
    pub pairs: Option<u64>,
    /// Those of dense attention.
    pub dense_pairs: u64,
}

/// Tokens up to which the pairs of `hyper` are counted, which is done on the host.
const MOST_COUNTED: usize = 4096;

/// The tensors of a call.
struct Inputs {
    q: Tensor<bf16>,
    k: Tensor<bf16>,
    v: Tensor<bf16>,
    out: Tensor<bf16>,
    lse: Tensor<f32>,
}

impl Inputs {
    fn new(stream: &Stream, shape: &AttentionShape) -> Result<Self> {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
        let (q_dims, kv_dims) = ([batch, q_heads, q_len, head_dim], [batch, kv_heads, kv_len, head_dim]);
        Ok(Self {
            q: Tensor::random(stream, q_dims, 1)?,
            k: Tensor::random(stream, kv_dims, 2)?,
            v: Tensor::random(stream, kv_dims, 3)?,
            out: Tensor::uninit(stream, q_dims)?,
            lse: Tensor::uninit(stream, [batch, q_heads, q_len, 1])?,
        })
    }
}

/// Measures a case for about `budget` a number.
pub fn measure(stream: &Stream, case: &Case, budget: Duration) -> Result<Measured> {
    if case.method == Method::Hyper {
        return hyper(stream, case, budget);
    }
    let planner = Planner::new(stream, case)?;
    match case.pass {
        Pass::Forward => forward(stream, case, planner, budget),
        Pass::Backward => backward(stream, case, planner, budget),
        Pass::Decode => decode(stream, case, planner, budget),
    }
}

/// Pairs of dense attention under the causal mask.
fn dense_pairs(shape: &AttentionShape) -> u64 {
    let (queries, keys) = (shape.q_len as u64, shape.kv_len as u64);
    (shape.batch * shape.q_heads) as u64 * (queries * keys - queries * (queries - 1) / 2)
}

fn measured(
    stream: &Stream,
    case: &Case,
    planner: Planner,
    planning: Option<Timing>,
    attention: Timing,
) -> Result<Measured> {
    let (shape, plan) = (&case.shape, &planner.plan);
    // A formula's blocks are counted without a kernel.
    let pairs = match plan.as_formula() {
        Some(_) => plan.host_mask(shape, &Mask::CAUSAL)?.visited_pairs(shape, &Mask::CAUSAL),
        None => plan.visited_pairs(stream, shape, &Mask::CAUSAL)?,
    };
    let kernels = kernels(stream, case, plan)?;
    let dense_pairs = dense_pairs(shape);
    Ok(Measured { settings: planner.settings, kernels, planning, attention, pairs: Some(pairs), dense_pairs })
}

fn kernels(stream: &Stream, case: &Case, plan: &BlockPlan) -> Result<Vec<String>> {
    let (device, shape, options) = (stream.device(), &case.shape, ForwardOptions::causal());
    Ok(match case.pass {
        Pass::Forward => vec![attention::kernel(device, shape, &options, plan)?.name],
        Pass::Backward => attention::backward_kernels(device, shape, &options, plan)?.map(|kernel| kernel.name).into(),
        Pass::Decode => vec![attention::decode_kernel(device, shape, &options, plan)?.name],
    })
}

/// Times what a step plans, if it has to.
fn planning(
    stream: &Stream,
    planner: &mut Planner,
    budget: Duration,
    mut schedules: impl FnMut(&BlockPlan) -> lacuna::Result<()>,
) -> Result<Option<Timing>> {
    if !planner.is_dynamic() {
        return Ok(None);
    }
    let step = || {
        planner.fill(stream)?;
        schedules(&planner.plan)
    };
    time(stream, budget, step).map(Some)
}

fn forward(stream: &Stream, case: &Case, mut planner: Planner, budget: Duration) -> Result<Measured> {
    let (shape, options) = (&case.shape, ForwardOptions::causal());
    let mut x = Inputs::new(stream, shape)?;
    let mut schedule = Schedule::build(stream, shape, &options, &planner.plan)?;
    let planning = planning(stream, &mut planner, budget, |plan| schedule.rebuild(stream, plan))?;
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, &options))?;
    let plan = &planner.plan;
    let attention = time(stream, budget, || {
        let (q, k, v) = (x.q.view(), x.k.view(), x.v.view());
        let (out, lse) = (x.out.view_mut(), Some(x.lse.view_mut()));
        attention::forward(stream, shape, &options, plan, &schedule, q, k, v, out, lse, &mut workspace)
    })?;
    measured(stream, case, planner, planning, attention)
}

fn backward(stream: &Stream, case: &Case, mut planner: Planner, budget: Duration) -> Result<Measured> {
    let (shape, options) = (&case.shape, ForwardOptions::causal());
    let (mut x, mut d) = (Inputs::new(stream, shape)?, Inputs::new(stream, shape)?);
    let mut schedule = Schedule::build(stream, shape, &options, &planner.plan)?;
    let mut columns = ColumnSchedule::build(stream, shape, &options, &planner.plan)?;
    let planning = planning(stream, &mut planner, budget, |plan| {
        schedule.rebuild(stream, plan)?;
        columns.rebuild(stream, plan)
    })?;
    let plan = &planner.plan;
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, &options))?;
    let (q, k, v) = (x.q.view(), x.k.view(), x.v.view());
    let (out, lse) = (x.out.view_mut(), Some(x.lse.view_mut()));
    attention::forward(stream, shape, &options, plan, &schedule, q, k, v, out, lse, &mut workspace)?;
    let bytes = attention::backward_workspace_bytes(stream.device(), shape, &options, plan)?;
    let mut workspace = stream.alloc_bytes(bytes)?;
    let dout = Tensor::<bf16>::random(stream, x.q.dims(), 4)?;
    let inputs = BackwardInputs { q, k, v, out: x.out.view(), lse: x.lse.view(), dout: dout.view(), dlse: None };
    let mut gradients = GradientsMut { dq: d.q.view_mut(), dk: d.k.view_mut(), dv: d.v.view_mut(), dsink: None };
    let attention = time(stream, budget, || {
        let (inputs, gradients) = (&inputs, &mut gradients);
        attention::backward(stream, shape, &options, plan, &schedule, &columns, inputs, gradients, &mut workspace)
    })?;
    measured(stream, case, planner, planning, attention)
}

fn decode(stream: &Stream, case: &Case, mut planner: Planner, budget: Duration) -> Result<Measured> {
    let (shape, options) = (&case.shape, ForwardOptions::causal());
    let mut x = Inputs::new(stream, shape)?;
    let planning = planning(stream, &mut planner, budget, |_| Ok(()))?;
    let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(shape, &planner.plan))?;
    let plan = &planner.plan;
    let attention = time(stream, budget, || {
        let (q, k, v) = (x.q.view(), x.k.view(), x.v.view());
        let (out, lse) = (x.out.view_mut(), Some(x.lse.view_mut()));
        attention::decode(stream, shape, &options, plan, None, q, k, v, out, lse, &mut workspace)
    })?;
    measured(stream, case, planner, planning, attention)
}

fn hyper(stream: &Stream, case: &Case, budget: Duration) -> Result<Measured> {
    let shape = &case.shape;
    let small = HyperConfig { block_size: 64, sample_size: 64, min_seq_len: 128, ..HyperConfig::default() };
    let config = if case.small { small } else { HyperConfig { min_seq_len: 2048, ..HyperConfig::default() } };
    let mut x = Inputs::new(stream, shape)?;
    let mut plan = HyperPlan::new(stream, shape, &Mask::CAUSAL, &config)?;
    let planning = if plan.is_exact() {
        None
    } else {
        Some(time(stream, budget, || plan.update(stream, x.q.view(), x.k.view()))?)
    };
    let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan))?;
    let mut forward = || {
        let (q, k, v) = (x.q.view(), x.k.view(), x.v.view());
        let (out, lse) = (x.out.view_mut(), Some(x.lse.view_mut()));
        attention::hyper_forward(stream, &plan, None, q, k, v, out, lse, &mut workspace)
    };
    let (attention, kernels) = if case.pass == Pass::Backward {
        forward()?;
        let kernels = attention::hyper_backward_kernels(stream.device(), &plan)?.map(|kernel| kernel.name);
        (hyper_backward(stream, &plan, &x, budget)?, kernels.into())
    } else {
        (time(stream, budget, forward)?, vec![attention::hyper_kernel(stream.device(), &plan)?.name])
    };
    let dense_pairs = dense_pairs(shape);
    let pairs = match plan.ranks(stream)? {
        None => Some(dense_pairs),
        Some([q, k]) if case.len() <= MOST_COUNTED => {
            let ranks = HyperRanks { q: &q, k: &k, v_shares: None };
            Some(HyperEstimator::new(&config, shape, &Mask::CAUSAL, ranks, None)?.visited_pairs())
        }
        Some(_) => None,
    };
    Ok(Measured {
        settings: match plan.is_exact() {
            true => "exact at this length".into(),
            false => format!("block {}, {} samples", config.block_size, config.sample_size),
        },
        kernels,
        planning,
        attention,
        pairs,
        dense_pairs,
    })
}

fn hyper_backward(stream: &Stream, plan: &HyperPlan, x: &Inputs, budget: Duration) -> Result<Timing> {
    let mut d = Inputs::new(stream, plan.shape())?;
    let dout = Tensor::<bf16>::random(stream, x.q.dims(), 4)?;
    let bytes = attention::hyper_backward_workspace_bytes(stream.device(), plan)?;
    let mut workspace = stream.alloc_bytes(bytes)?;
    let inputs = BackwardInputs {
        q: x.q.view(),
        k: x.k.view(),
        v: x.v.view(),
        out: x.out.view(),
        lse: x.lse.view(),
        dout: dout.view(),
        dlse: None,
    };
    let mut gradients = GradientsMut { dq: d.q.view_mut(), dk: d.k.view_mut(), dv: d.v.view_mut(), dsink: None };
    time(stream, budget, || attention::hyper_backward(stream, plan, None, &inputs, &mut gradients, &mut workspace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::DType;

    #[test]
    fn pairs_of_the_triangle() {
        let shape =
            AttentionShape { batch: 2, q_heads: 3, kv_heads: 1, q_len: 4, kv_len: 4, head_dim: 64, dtype: DType::BF16 };
        assert_eq!(dense_pairs(&shape), 6 * 10);
        assert_eq!(dense_pairs(&AttentionShape { q_len: 1, ..shape }), 6 * 4);
    }
}
