//! `--method hyper`: HyperAttention with given or drawn projections and samples.

use super::check::Report;
use super::grad::{Gradients, Upstream};
use crate::attention_call::{Inputs, Work};
use crate::config::{BucketOrder, HyperKeys, Sampling};
use crate::failure::{Failure, Result, request};
use crate::files::TensorFile;
use half::{bf16, f16};
use lacuna::methods::hyper;
use lacuna::reference::{HyperEstimator, HyperRanks, Problem, compare_lse, hyper_hash, value_shares, widen};
use lacuna::{AttentionShape, ForwardOptions, Half, HyperConfig, HyperPlan, Mask, Stream, Tensor, attention};
use safetensors::{Dtype, tensor::TensorView};

/// Rows nearer to a neighbouring bucket than this may be hashed into it by f32, see `HyperHash::margins`.
const TIE: f64 = 1e-5;

/// What the method needs beside q, k and v.
pub struct Hyper {
    config: HyperConfig,
    /// `[rounds, head_dim, num_projections]`
    projections: Option<Vec<f32>>,
    /// `[batch, kv_heads, sample_size]`
    samples: Option<Vec<i32>>,
}

/// What a call gave.
pub struct HyperAnswer {
    /// `[batch, q_heads, q_len, head_dim]`: values of the compute type.
    pub out: Vec<f32>,
    /// `[batch, q_heads, q_len]`
    pub lse: Vec<f32>,
    /// Kernels and counters.
    pub work: Work,
    /// Bucket ranks of q and k; none for an exact call.
    pub ranks: Option<[Vec<u16>; 2]>,
    /// Shares of the keys, where samples are drawn by values.
    shares: Option<Vec<u16>>,
    /// The pairs that those ranks give.
    pub estimator: HyperEstimator,
    /// Where they were asked for.
    pub gradients: Option<Gradients>,
}

impl Hyper {
    /// Projections and samples are drawn from the seed.
    pub fn drawn(config: HyperConfig) -> Self {
        Self { config, projections: None, samples: None }
    }

    /// Reads and checks the optional tensors; needs no device.
    pub fn read(file: &TensorFile, keys: &HyperKeys, shape: &AttentionShape, mask: &Mask) -> Result<Self> {
        let tensors = file.tensors()?;
        let mut config = HyperConfig {
            rounds: keys.rounds,
            block_size: keys.block_size,
            min_seq_len: keys.min_seq_len,
            bucket_order: match keys.bucket_order {
                BucketOrder::Gray => lacuna::BucketOrder::Gray,
                BucketOrder::Compat => lacuna::BucketOrder::Compat,
            },
            sampling: keys.sampling.into(),
            sinks: keys.sinks,
            local_window: keys.local_window,
            align_windows: keys.align_windows,
            center: keys.center,
            seed: keys.seed,
            ..HyperConfig::default()
        };
        let projections =
            tensors.tensor("projections").ok().map(|view| projections(file, &view, shape, keys.rounds)).transpose()?;
        let samples = tensors.tensor("samples").ok().map(|view| samples(file, &view, shape)).transpose()?;
        if samples.is_some() && mask.causal {
            return Err(file.error("tensor `samples` fits no causal call, which draws samples for each of its halves"));
        }
        if samples.is_some() && keys.sampling != Sampling::Uniform {
            let got = keys.sampling.name();
            let expected = "tensor `samples` is given, so `sampling` must be absent or \"uniform\"";
            return Err(file.error(format_args!("{expected}, got {got:?}")));
        }
        if samples.is_some() && keys.sinks != 0 {
            let expected = "tensor `samples` is given, so `sinks` must be absent or 0";
            return Err(file.error(format_args!("{expected}, got {}", keys.sinks)));
        }
        let defaults = HyperConfig::default();
        let given = projections.as_ref().map(|(count, _)| *count);
        config.num_projections =
            agreed(file, ["num_projections", "projections"], keys.num_projections, given, defaults.num_projections)?;
        let given = samples.as_ref().map(|(count, _)| *count);
        config.sample_size = agreed(file, ["sample_size", "samples"], keys.sample_size, given, defaults.sample_size)?;
        config.validate(shape, mask).map_err(|error| match Failure::from(error) {
            Failure::Request(text) => Failure::Request(format!("config: {text}")),
            other => other,
        })?;
        Ok(Self {
            config,
            projections: projections.map(|(_, values)| values),
            samples: samples.map(|(_, values)| values),
        })
    }

    /// Runs the call. `stream` is used by nobody else: its counters start at zero here.
    pub fn attend<T: Half + Into<f64>>(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        options: &ForwardOptions<'_>,
        inputs: Inputs<'_, T>,
    ) -> Result<HyperAnswer> {
        self.attend_and_differentiate(stream, shape, options, inputs, None)
    }

    /// The same, and the backward kernels where `upstream` asks for gradients.
    pub fn attend_and_differentiate<T: Half + Into<f64>>(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        options: &ForwardOptions<'_>,
        inputs: Inputs<'_, T>,
        upstream: Option<&Upstream<T>>,
    ) -> Result<HyperAnswer> {
        let q_dims = [shape.batch, shape.q_heads, shape.q_len, shape.head_dim];
        let kv_dims = [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim];
        let q = Tensor::from_slice(stream, inputs.q, q_dims)?;
        let k = Tensor::from_slice(stream, inputs.k, kv_dims)?;
        let v = Tensor::from_slice(stream, inputs.v, kv_dims)?;
        let mut out = Tensor::<T>::uninit(stream, q_dims)?;
        let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1])?;
        let mut plan = HyperPlan::new(stream, shape, &options.mask, &self.config)?;
        if let Some(projections) = &self.projections {
            let dims = [1, self.config.rounds, shape.head_dim, self.config.num_projections];
            plan.set_projections(Tensor::from_slice(stream, projections, dims)?)?;
        }
        if let Some(samples) = &self.samples {
            let dims = [1, shape.batch, shape.kv_heads, self.config.sample_size];
            plan.set_samples(Tensor::from_slice(stream, samples, dims)?)?;
        }
        plan.update_with_values(stream, q.view(), k.view(), v.view())?;
        let mut workspace = stream.alloc_bytes(attention::hyper_workspace_bytes(&plan))?;
        let (scale, lse_view) = (options.scale, Some(lse.view_mut()));
        let (q, k, v) = (q.view(), k.view(), v.view());
        attention::hyper_forward(stream, &plan, scale, q, k, v, out.view_mut(), lse_view, &mut workspace)?;
        let work = Work { kernels: kernel_names(stream, &plan)?, counters: stream.counters() };
        let (ranks, shares) = (plan.ranks(stream)?, plan.shares(stream)?);
        let estimator = self.estimator(shape, &options.mask, ranks.as_ref(), shares.as_deref())?;
        let out: Vec<f32> = out.to_vec(stream)?.into_iter().map(T::to_f32).collect();
        let lse = lse.to_vec(stream)?;
        let gradients = upstream
            .map(|upstream| upstream.hyper_gradients(stream, &plan, options.scale, inputs, (&out, &lse)))
            .transpose()?;
        Ok(HyperAnswer { out, lse, work, ranks, shares, estimator, gradients })
    }

    /// The pairs and weights of these ranks and shares.
    fn estimator(
        &self,
        shape: &AttentionShape,
        mask: &Mask,
        ranks: Option<&[Vec<u16>; 2]>,
        shares: Option<&[u16]>,
    ) -> Result<HyperEstimator> {
        // An exact call reads none.
        let none = |heads: usize, len: usize| vec![0; self.config.rounds * shape.batch * heads * len];
        let none = ranks.is_none().then(|| [none(shape.q_heads, shape.q_len), none(shape.kv_heads, shape.kv_len)]);
        let Some([q, k]) = ranks.or(none.as_ref()) else {
            return request!("no bucket ranks");
        };
        let samples: Option<Vec<usize>> =
            self.samples.as_ref().map(|samples| samples.iter().map(|&at| at as usize).collect());
        let ranks = HyperRanks { q, k, v_shares: shares };
        Ok(HyperEstimator::new(&self.config, shape, mask, ranks, samples.as_deref())?)
    }

    /// Compares buckets with the f64 hash, and out and LSE with the f64 estimator over the buckets that the kernels
    /// found.
    pub fn check<T: Half + Into<f64>>(
        &self,
        shape: &AttentionShape,
        options: &ForwardOptions<'_>,
        inputs: Inputs<'_, T>,
        answer: &HyperAnswer,
        upstream: Option<&Upstream<T>>,
    ) -> Result<Report> {
        let (q, k, v) = (widen(inputs.q), widen(inputs.k), widen(inputs.v));
        let problem = Problem { scale: options.scale.map(f64::from), ..Problem::new(*shape, &q, &k, &v) };
        let expected = problem.expect(&answer.estimator)?;
        let out = expected.out.compare(&answer.out)?;
        let lse = compare_lse(&answer.lse, &expected.lse)?;
        let mut text = format!("out: {out}\nlse: {lse}\n");
        let mut passed = out.passed() && lse.passed();
        if let Some((upstream, gradients)) = upstream.zip(answer.gradients.as_ref()) {
            let (lines, right) = upstream.check(gradients, &problem, &answer.estimator)?;
            text += &lines;
            passed &= right;
        }
        if let Some([q_ranks, k_ranks]) = &answer.ranks {
            let HyperConfig { seed, rounds, num_projections, .. } = self.config;
            let of_round = |round| hyper::projections(seed, round, shape.head_dim, num_projections);
            let drawn = || (0..rounds).flat_map(of_round).collect();
            let projections = widen(&self.projections.clone().unwrap_or_else(drawn));
            let (mut ties, mut wrong) = (0, 0);
            for (x, heads, len, ranks) in
                [(&q, shape.q_heads, shape.q_len, q_ranks), (&k, shape.kv_heads, shape.kv_len, k_ranks)]
            {
                let dims = [shape.batch * heads, len, shape.head_dim];
                for (projections, ranks) in
                    projections.chunks(projections.len() / rounds).zip(ranks.chunks(ranks.len() / rounds))
                {
                    let hashed = hyper_hash(&self.config, x, dims, projections)?;
                    let differ =
                        ranks.iter().zip(&hashed.ranks).zip(&hashed.margins).filter(|((got, rank), _)| got != rank);
                    differ.for_each(|(_, &margin)| if margin < TIE { ties += 1 } else { wrong += 1 });
                }
            }
            let rows = q_ranks.len() + k_ranks.len();
            text += &format!("buckets: {wrong} of {rows} rows differ, {ties} more that f32 can't tell\n");
            passed &= wrong == 0;
        }
        if let Some(shares) = &answer.shares {
            let expected = value_shares(&v, [shape.batch * shape.kv_heads, shape.kv_len, shape.head_dim])?;
            // What f32 can't tell is off by one.
            let wrong = shares.iter().zip(&expected).filter(|(got, share)| got.abs_diff(**share) > 1).count();
            text += &format!("shares: {wrong} of {} rows differ\n", shares.len());
            passed &= wrong == 0;
        }
        Ok(Report { text, passed })
    }
}

impl HyperAnswer {
    /// Pairs attended, and their part of those that the mask lets through.
    pub fn visited(&self, shape: &AttentionShape, mask: &Mask) -> (u64, f64) {
        let pairs = self.estimator.visited_pairs();
        let visible: u64 = (0..shape.q_len).map(|t| mask.visible(shape, t).len() as u64).sum();
        let all = visible * (shape.batch * shape.q_heads) as u64;
        (pairs, if all == 0 { 0.0 } else { pairs as f64 / all as f64 })
    }
}

/// The kernels of a call, from plan to outputs.
fn kernel_names(stream: &Stream, plan: &HyperPlan) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if !plan.is_exact() {
        names.push("hyper_plan".to_owned());
    }
    let name = attention::hyper_kernel(stream.device(), plan)?.name;
    if plan.mask().causal && !plan.is_exact() {
        names.extend([name.clone(), name.replace("_gather_", "_gather_leaf_")]);
    } else {
        names.push(name);
    }
    Ok(names)
}

/// What a key and the size of a tensor say, each if it is there.
fn agreed(
    file: &TensorFile,
    [key, tensor]: [&str; 2],
    asked: Option<usize>,
    given: Option<usize>,
    default: usize,
) -> Result<usize> {
    match (asked, given) {
        (Some(asked), Some(given)) if asked != given => {
            Err(file.error(format_args!("tensor `{tensor}` has {given}, but {key} is {asked}")))
        }
        _ => Ok(asked.or(given).unwrap_or(default)),
    }
}

/// The tensor `projections` and how many there are in a round. They are not rounded to the compute type.
fn projections(
    file: &TensorFile,
    view: &TensorView<'_>,
    shape: &AttentionShape,
    rounds: usize,
) -> Result<(usize, Vec<f32>)> {
    let (dims, most) = (view.shape(), HyperConfig::MAX_PROJECTIONS);
    let fits = |dim, count| dim == shape.head_dim && (1..=most).contains(&count);
    let count = match *dims {
        [dim, count] if rounds == 1 && fits(dim, count) => count,
        [given, dim, count] if rounds == given && fits(dim, count) => count,
        _ => {
            let of_rounds = if rounds == 1 { String::new() } else { format!("{rounds}, ") };
            let expected = format!("[{of_rounds}{}, 1..={most}]", shape.head_dim);
            return Err(file.error(format_args!("tensor `projections` must be {expected}, got {dims:?}")));
        }
    };
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        other => {
            return Err(file.error(format_args!("tensor `projections` must be F16, BF16 or F32, got {other:?}")));
        }
    };
    Ok((count, values))
}

/// The tensor `samples` and how many there are for each KV head.
fn samples(file: &TensorFile, view: &TensorView<'_>, shape: &AttentionShape) -> Result<(usize, Vec<i32>)> {
    let dims = view.shape();
    let count = match *dims {
        [batch, heads, count] if (batch, heads) == (shape.batch, shape.kv_heads) => count,
        _ => {
            let expected = format!("[{}, {}, samples]", shape.batch, shape.kv_heads);
            return Err(file.error(format_args!("tensor `samples` must be {expected}, got {dims:?}")));
        }
    };
    if view.dtype() != Dtype::I64 {
        return Err(file.error(format_args!("tensor `samples` must be I64, got {:?}", view.dtype())));
    }
    let place = |&bytes: &[u8; 8]| {
        let place = i64::from_le_bytes(bytes);
        i32::try_from(place).ok().filter(|_| (0..shape.kv_len as i64).contains(&place)).ok_or_else(|| {
            file.error(format_args!("tensor `samples` must hold places in 0..{}, got {place}", shape.kv_len))
        })
    };
    Ok((count, view.data().as_chunks().0.iter().map(place).collect::<Result<_>>()?))
}
