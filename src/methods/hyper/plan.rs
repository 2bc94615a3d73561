//! Sorted rows and sampled keys on the device.

use super::config::{BucketOrder, HyperConfig};
use super::random;
use super::sampling::Sampling;
use crate::attention::ForwardOptions;
use crate::device::{Buffer, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::family::KernelFamily;
use crate::kernels::{bindings as abi, convert};
use crate::plan::BlockPlan;
use crate::profile::range;
use crate::schedule::{ColumnSchedule, Schedule};
use crate::shape::{AttentionShape, Mask};
use crate::tensor::{Half, Tensor, TensorView};

/// HyperAttention for one shape: which rows meet which, written on the device by [`HyperPlan::update`] and read by
/// [`attention::hyper_forward`](crate::attention::hyper_forward).
///
/// Calls that are short enough to be exact hold a dense plan instead, and need no update.
#[derive(Debug)]
pub struct HyperPlan {
    config: HyperConfig,
    shape: AttentionShape,
    mask: Mask,
    family: KernelFamily,
    kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// Every visible key.
    Exact(Box<Dense>),
    /// Hash blocks and samples.
    Hashed(Box<Hashed>),
}

/// A dense plan with what forward and backward walk.
#[derive(Debug)]
pub(crate) struct Dense {
    pub(crate) plan: BlockPlan,
    pub(crate) schedule: Schedule,
    pub(crate) columns: ColumnSchedule,
}

#[derive(Debug)]
pub(crate) struct Hashed {
    levels: usize,
    /// `[1, rounds, head_dim, num_projections]`
    directions: Tensor<f32>,
    /// Samples come from the seed.
    draw: bool,
    /// `[rounds, batch, q_heads, q_len]`
    q_ranks: Tensor<u16>,
    /// `[rounds, batch, kv_heads, kv_len]`
    k_ranks: Tensor<u16>,
    /// `[rounds * levels, batch, q_heads, q_len]`
    q_order: Tensor<i32>,
    /// `[rounds * levels, batch, kv_heads, kv_len]`
    k_order: Tensor<i32>,
    /// `[nodes, batch, kv_heads, sample_size]`
    sample_places: Tensor<i32>,
    /// `[nodes, batch, kv_heads, sample_size]`
    sample_rows: Tensor<i32>,
    /// As `sample_rows`, of samples drawn by values.
    sample_weights: Option<Tensor<f32>>,
    /// `[1, batch, kv_heads, kv_len]`, of those as well.
    v_shares: Option<Tensor<u16>>,
    /// `[rounds * levels, batch, q_heads, windows]`, with aligned windows
    windows: Option<Tensor<i32>>,
    /// As `k_order` and `q_order` of all rounds but the first, of several: where keys stand, and where those of queries
    /// begin.
    places: Option<[Tensor<i32>; 2]>,
    scratch: Buffer,
    /// Whether `update` has run.
    filled: bool,
}

impl HyperPlan {
    /// Allocates a plan, with projections drawn from the seed; samples will be drawn from it too.
    ///
    /// # Errors
    /// As [`HyperConfig::validate`]; [`Error::Unsupported`] or [`Error::NoKernel`] when no kernel serves the shape;
    /// [`Error::OutOfMemory`].
    pub fn new(stream: &Stream, shape: &AttentionShape, mask: &Mask, config: &HyperConfig) -> Result<Self> {
        let _range = range!("hyper.new", q_len = shape.q_len, kv_len = shape.kv_len);
        config.validate(shape, mask)?;
        let family = KernelFamily::Auto;
        let plan = |kind| Self { config: config.clone(), shape: *shape, mask: *mask, family, kind };
        if config.is_exact(shape, mask) {
            let (dense, options) = (BlockPlan::dense(), ForwardOptions { mask: *mask, ..ForwardOptions::default() });
            let schedule = Schedule::build(stream, shape, &options, &dense)?;
            let columns = ColumnSchedule::build(stream, shape, &options, &dense)?;
            return Ok(plan(Kind::Exact(Box::new(Dense { plan: dense, schedule, columns }))));
        }
        let request = abi::lacuna_hyper_plan_params {
            plan: abi::lacuna_gather_plan {
                block_size: config.block_size as i32,
                samples: (config.exact() + config.sample_size) as i32,
                exact: config.exact() as i32,
                causal: i32::from(mask.causal),
                min_seq_len: config.least() as i32,
                rounds: config.rounds as i32,
                ..Default::default()
            },
            draw: 1,
            ..settings(config, shape)
        };
        let served =
            abi::lacuna_gather_forward_params { shape: request.shape, plan: request.plan, ..Default::default() };
        // SAFETY: the queries read no tensor.
        let sizes = stream.device().with_kernels(|kernels| unsafe {
            kernels.gather_config(&served)?;
            kernels.hyper_sizes(&request)
        })?;
        let (levels, nodes) = (sizes.levels as usize, sizes.nodes as usize);
        let bytes = usize::try_from(sizes.scratch_bytes).unwrap_or(usize::MAX);
        let of_round = |round| random::projections(config.seed, round, shape.head_dim, config.num_projections);
        let rounds = config.rounds;
        let directions: Vec<f32> = (0..rounds).flat_map(of_round).collect();
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
        let samples = [nodes, batch, kv_heads, config.exact() + config.sample_size];
        let windows = [rounds * levels, batch, q_heads, sizes.windows_of_head as usize];
        let by_values = config.sampling == Sampling::Values && config.sample_size > 0;
        Ok(plan(Kind::Hashed(Box::new(Hashed {
            levels,
            directions: Tensor::from_slice(stream, &directions, [1, rounds, head_dim, config.num_projections])?,
            draw: true,
            q_ranks: Tensor::uninit(stream, [rounds, batch, q_heads, q_len])?,
            k_ranks: Tensor::uninit(stream, [rounds, batch, kv_heads, kv_len])?,
            q_order: Tensor::uninit(stream, [rounds * levels, batch, q_heads, q_len])?,
            k_order: Tensor::uninit(stream, [rounds * levels, batch, kv_heads, kv_len])?,
            sample_places: Tensor::uninit(stream, samples)?,
            sample_rows: Tensor::uninit(stream, samples)?,
            sample_weights: by_values.then(|| Tensor::uninit(stream, samples)).transpose()?,
            v_shares: by_values.then(|| Tensor::uninit(stream, [1, batch, kv_heads, kv_len])).transpose()?,
            windows: config.align_windows.then(|| Tensor::uninit(stream, windows)).transpose()?,
            places: match rounds {
                1 => None,
                _ => Some([
                    Tensor::uninit(stream, [(rounds - 1) * levels, batch, kv_heads, kv_len])?,
                    Tensor::uninit(stream, [(rounds - 1) * levels, batch, q_heads, q_len])?,
                ]),
            },
            scratch: stream.alloc_bytes(bytes)?,
            filled: false,
        }))))
    }

    /// The kernels that may run the plan forward; [`KernelFamily::Auto`] unless this says otherwise. A family that can't
    /// is an error of the call.
    pub fn set_family(&mut self, family: KernelFamily) {
        self.family = family;
    }

    /// As [`set_family`](Self::set_family) was told.
    pub fn family(&self) -> KernelFamily {
        self.family
    }

    /// Hashes with these projections, `[1, rounds, head_dim, num_projections]` packed, from the next update on.
    ///
    /// # Errors
    /// [`Error::Shape`] for another size; [`Error::Device`] for memory of another device.
    pub fn set_projections(&mut self, projections: Tensor<f32>) -> Result<()> {
        let dims = [1, self.config.rounds, self.shape.head_dim, self.config.num_projections];
        check_packed("projections", &projections, dims)?;
        if let Kind::Hashed(hashed) = &mut self.kind {
            hashed.scratch.stream().device().check_memory("projections", projections.stream().device())?;
            hashed.directions = projections;
            hashed.filled = false;
        }
        Ok(())
    }

    /// Attends these samples, `[1, batch, kv_heads, sample_size]` packed, from the next update on: places in the keys as
    /// the first round sorts them, below `kv_len`. Samples outside are attended by nobody. All have the weight `ln(kv_len / sample_size)`,
    /// and `sampling` no part in it any more.
    ///
    /// # Errors
    /// [`Error::Value`] for a causal call, which draws for each of its halves, and for a plan with sinks; [`Error::Shape`] for another size;
    /// [`Error::Device`] for memory of another device.
    pub fn set_samples(&mut self, samples: Tensor<i32>) -> Result<()> {
        if self.mask.causal {
            let got = "samples for a causal call, which draws them for each of its halves".into();
            return Err(Error::Value { what: "samples", expected: "absent".into(), got });
        }
        if self.config.sinks > 0 {
            let got = format!("samples for a plan with {} sinks, which belong to no sample", self.config.sinks);
            return Err(Error::Value { what: "samples", expected: "absent".into(), got });
        }
        let dims = [1, self.shape.batch, self.shape.kv_heads, self.config.sample_size];
        check_packed("samples", &samples, dims)?;
        if let Kind::Hashed(hashed) = &mut self.kind {
            hashed.scratch.stream().device().check_memory("samples", samples.stream().device())?;
            hashed.sample_places = samples;
            hashed.draw = false;
            (hashed.sample_weights, hashed.v_shares) = (None, None);
            hashed.filled = false;
        }
        Ok(())
    }

    /// Hashes and sorts the rows of `q` `[batch, q_heads, q_len, head_dim]` and `k` `[batch, kv_heads, kv_len,
    /// head_dim]`, any strides, and draws samples. In stream order, without allocating or waiting: a CUDA graph may
    /// hold it. Nothing to do for an exact call.
    ///
    /// # Errors
    /// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit; [`Error::Value`] where
    /// samples are drawn by values, which [`update_with_values`](Self::update_with_values) takes; [`Error::Cuda`] or
    /// [`Error::Simt`] when a launch fails.
    pub fn update<T: Half>(&mut self, stream: &Stream, q: TensorView<'_, T>, k: TensorView<'_, T>) -> Result<()> {
        if self.draws_by_values() {
            let expected = "given to update_with_values, since samples are drawn by values".into();
            return Err(Error::Value { what: "v", expected, got: "none".into() });
        }
        self.fill(stream, q, k, None)
    }

    /// As [`update`](Self::update), for any sampling; `v` is as `k`, and read where samples are drawn by values.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn update_with_values<T: Half>(
        &mut self,
        stream: &Stream,
        q: TensorView<'_, T>,
        k: TensorView<'_, T>,
        v: TensorView<'_, T>,
    ) -> Result<()> {
        self.fill(stream, q, k, Some(v))
    }

    fn fill<T: Half>(
        &mut self,
        stream: &Stream,
        q: TensorView<'_, T>,
        k: TensorView<'_, T>,
        v: Option<TensorView<'_, T>>,
    ) -> Result<()> {
        let shape = self.shape;
        check_dtype::<T>(&shape)?;
        let kv_dims = [shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim];
        check_dims("q", q.dims(), [shape.batch, shape.q_heads, shape.q_len, shape.head_dim])?;
        check_dims("k", k.dims(), kv_dims)?;
        if let Some(v) = &v {
            check_dims("v", v.dims(), kv_dims)?;
        }
        let v = v.filter(|_| self.draws_by_values());
        let plan = self.to_abi();
        let Kind::Hashed(hashed) = &mut self.kind else { return Ok(()) };
        let params = abi::lacuna_hyper_plan_params {
            plan,
            draw: i32::from(hashed.draw),
            q: q.as_ptr().cast(),
            k: k.as_ptr().cast(),
            v: v.as_ref().map_or(std::ptr::null(), |v| v.as_ptr().cast()),
            q_stride: convert::strides(&q.layout()),
            k_stride: convert::strides(&k.layout()),
            v_stride: v.as_ref().map_or_else(Default::default, |v| convert::strides(&v.layout())),
            directions: hashed.directions.view().as_ptr(),
            q_ranks: hashed.q_ranks.view_mut().as_mut_ptr(),
            k_ranks: hashed.k_ranks.view_mut().as_mut_ptr(),
            v_shares: hashed.v_shares.as_mut().map_or(std::ptr::null_mut(), |shares| shares.view_mut().as_mut_ptr()),
            scratch: hashed.scratch.as_mut_ptr().cast(),
            scratch_bytes: hashed.scratch.len() as u64,
            ..settings(&self.config, &shape)
        };
        let owners = [
            q.stream(),
            k.stream(),
            v.as_ref().map_or(stream, |v| v.stream()),
            hashed.directions.stream(),
            hashed.sample_places.stream(),
            hashed.scratch.stream(),
        ];
        for (what, owner) in ["q", "k", "v", "projections", "samples", "plan"].into_iter().zip(owners) {
            stream.device().check_memory(what, owner.device())?;
        }
        ordered(stream, &owners, || {
            // SAFETY: `new` gave the plan's tensors and scratch the sizes that the header names, for this shape, on one
            // stream, and the setters let in no other sizes; `self` is borrowed exclusively. q, k and v have memory for
            // their layouts. What device memory holds is data to the kernels.
            stream.launch(|kernels, raw| unsafe { kernels.hyper_plan(&params, raw) })
        })?;
        hashed.filled = true;
        Ok(())
    }

    /// The settings.
    pub fn config(&self) -> &HyperConfig {
        &self.config
    }

    /// The sizes that it is for.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// The mask that it is for.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Whether every visible key is attended.
    pub fn is_exact(&self) -> bool {
        matches!(self.kind, Kind::Exact(..))
    }

    /// Levels of halving with estimated pairs: 1 for a call that is not causal, 0 for an exact one.
    pub fn levels(&self) -> usize {
        match &self.kind {
            Kind::Exact(..) => 0,
            Kind::Hashed(hashed) => hashed.levels,
        }
    }

    /// Device memory of the plan, in bytes; 0 for an exact call.
    pub fn memory_bytes(&self) -> usize {
        let Kind::Hashed(hashed) = &self.kind else { return 0 };
        let words = [&hashed.q_order, &hashed.k_order, &hashed.sample_places, &hashed.sample_rows];
        let words: usize = words
            .into_iter()
            .chain(&hashed.windows)
            .chain(hashed.places.iter().flatten())
            .map(|tensor| tensor.layout().len())
            .sum();
        let floats = hashed.directions.layout().len() + hashed.sample_weights.as_ref().map_or(0, |x| x.layout().len());
        let shares = hashed.v_shares.as_ref().map_or(0, |shares| shares.layout().len());
        let shorts = hashed.q_ranks.layout().len() + hashed.k_ranks.layout().len() + shares;
        4 * (words + floats) + 2 * shorts + hashed.scratch.len()
    }

    /// The bucket ranks that the last update found, of q `[rounds, batch, q_heads, q_len]` and of k `[rounds, batch,
    /// kv_heads, kv_len]`; waits. `None` for an exact call.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn ranks(&self, stream: &Stream) -> Result<Option<[Vec<u16>; 2]>> {
        let Kind::Hashed(hashed) = &self.kind else { return Ok(None) };
        Ok(Some([hashed.q_ranks.to_vec(stream)?, hashed.k_ranks.to_vec(stream)?]))
    }

    /// The shares that the last update gave the keys, `[batch, kv_heads, kv_len]`, where samples are drawn by values; waits.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn shares(&self, stream: &Stream) -> Result<Option<Vec<u16>>> {
        let Kind::Hashed(hashed) = &self.kind else { return Ok(None) };
        hashed.v_shares.as_ref().map(|shares| shares.to_vec(stream)).transpose()
    }

    /// Whether the next update needs v.
    pub fn draws_by_values(&self) -> bool {
        matches!(&self.kind, Kind::Hashed(hashed) if hashed.v_shares.is_some())
    }

    /// The rows in sorted order, of q `[rounds, levels, batch, q_heads, q_len]` and of k `[rounds, levels, batch,
    /// kv_heads, kv_len]`; waits. In a causal call each half is sorted at its own places, and of each pair of halves the queries of the
    /// second and the keys of the first are written. `None` for an exact call.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn orders(&self, stream: &Stream) -> Result<Option<[Vec<i32>; 2]>> {
        let Kind::Hashed(hashed) = &self.kind else { return Ok(None) };
        Ok(Some([hashed.q_order.to_vec(stream)?, hashed.k_order.to_vec(stream)?]))
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The plan as the kernels read it. Zeros for an exact call.
    pub(crate) fn to_abi(&self) -> abi::lacuna_gather_plan {
        let Kind::Hashed(hashed) = &self.kind else { return abi::lacuna_gather_plan::default() };
        let pointer = |tensor: &Tensor<i32>| tensor.view().as_ptr().cast_mut();
        let weights = hashed.sample_weights.as_ref();
        abi::lacuna_gather_plan {
            causal: i32::from(self.mask.causal),
            levels: hashed.levels as i32,
            block_size: self.config.block_size as i32,
            samples: (self.config.exact() + self.config.sample_size) as i32,
            exact: self.config.exact() as i32,
            local: self.config.local_window as i32,
            min_seq_len: self.config.least() as i32,
            q_order: pointer(&hashed.q_order),
            k_order: pointer(&hashed.k_order),
            sample_places: pointer(&hashed.sample_places),
            sample_rows: pointer(&hashed.sample_rows),
            sample_weights: weights.map_or(std::ptr::null_mut(), |weights| weights.view().as_ptr().cast_mut()),
            windows: hashed.windows.as_ref().map_or(std::ptr::null_mut(), pointer),
            windows_of_head: hashed.windows.as_ref().map_or(0, |windows| windows.dims()[3] as i32),
            rounds: self.config.rounds as i32,
            k_places: hashed.places.as_ref().map_or(std::ptr::null_mut(), |places| pointer(&places[0])),
            q_starts: hashed.places.as_ref().map_or(std::ptr::null_mut(), |places| pointer(&places[1])),
        }
    }
}

impl Hashed {
    /// The streams that the memory read by attention belongs to.
    pub(crate) fn owners(&self) -> [&Stream; 2] {
        [self.scratch.stream(), self.sample_places.stream()]
    }

    /// # Errors
    /// [`Error::Value`] before the first update.
    pub(crate) fn check_filled(&self) -> Result<()> {
        if self.filled {
            return Ok(());
        }
        let got = "one without an update since it was made or given projections or samples".into();
        Err(Error::Value { what: "plan", expected: "updated with q and k".into(), got })
    }
}

/// The settings of a request, without its plan and pointers.
fn settings(config: &HyperConfig, shape: &AttentionShape) -> abi::lacuna_hyper_plan_params {
    abi::lacuna_hyper_plan_params {
        shape: convert::shape(shape),
        projections: config.num_projections as i32,
        bucket_order: match config.bucket_order {
            BucketOrder::Gray => abi::LACUNA_BUCKETS_GRAY,
            BucketOrder::Compat => abi::LACUNA_BUCKETS_COMPAT,
        },
        center: i32::from(config.center),
        sinks: config.sinks as i32,
        sampling: match config.sampling {
            Sampling::Uniform => abi::LACUNA_SAMPLING_UNIFORM,
            Sampling::Distinct => abi::LACUNA_SAMPLING_DISTINCT,
            Sampling::Stratified => abi::LACUNA_SAMPLING_STRATIFIED,
            Sampling::Values => abi::LACUNA_SAMPLING_VALUES,
        },
        seed: config.seed,
        ..Default::default()
    }
}

pub(crate) fn check_dtype<T: Half>(shape: &AttentionShape) -> Result<()> {
    if T::DTYPE == shape.dtype {
        return Ok(());
    }
    Err(Error::Value { what: "dtype", expected: shape.dtype.to_string(), got: T::DTYPE.to_string() })
}

fn check_dims(what: &'static str, got: [usize; 4], expected: [usize; 4]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{expected:?}"), got: format!("{got:?}") })
}

fn check_packed<T: crate::tensor::Element>(what: &'static str, tensor: &Tensor<T>, dims: [usize; 4]) -> Result<()> {
    if tensor.dims() == dims && tensor.layout().is_contiguous() {
        return Ok(());
    }
    let got = format!("{:?} with strides {:?}", tensor.dims(), tensor.layout().strides());
    Err(Error::Shape { what, expected: format!("{dims:?}, packed"), got })
}
