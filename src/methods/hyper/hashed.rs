//! The device memory of a plan that hashes, and what its kernels are told.

use super::config::{BucketOrder, HyperConfig};
use super::random;
use super::sampling::Sampling;
use crate::device::{Buffer, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::{bindings as abi, convert};
use crate::shape::{AttentionShape, Mask};
use crate::tensor::{Element, Half, Tensor, TensorView};

#[derive(Debug)]
pub(crate) struct Hashed {
    pub(super) levels: usize,
    /// `[1, rounds, head_dim, num_projections]`
    pub(super) directions: Tensor<f32>,
    /// Samples come from the seed.
    pub(super) draw: bool,
    /// `[rounds, batch, q_heads, q_len]`
    pub(super) q_ranks: Tensor<u16>,
    /// `[rounds, batch, kv_heads, kv_len]`
    pub(super) k_ranks: Tensor<u16>,
    /// `[rounds * levels, batch, q_heads, q_len]`
    pub(super) q_order: Tensor<i32>,
    /// `[rounds * levels, batch, kv_heads, kv_len]`
    pub(super) k_order: Tensor<i32>,
    /// `[nodes, batch, kv_heads, sample_size]`
    pub(super) sample_places: Tensor<i32>,
    /// `[nodes, batch, kv_heads, sample_size]`
    pub(super) sample_rows: Tensor<i32>,
    /// As `sample_rows`, of samples drawn by values.
    pub(super) sample_weights: Option<Tensor<f32>>,
    /// `[1, batch, kv_heads, kv_len]`, of those as well.
    pub(super) v_shares: Option<Tensor<u16>>,
    /// `[rounds * levels, batch, q_heads, windows]`, with aligned windows
    windows: Option<Tensor<i32>>,
    /// As `k_order` and `q_order` of all rounds but the first, of several: where keys stand, and where those of queries
    /// begin.
    places: Option<[Tensor<i32>; 2]>,
    pub(super) scratch: Buffer,
    /// Whether `update` has run.
    pub(super) filled: bool,
}

impl Hashed {
    /// Allocates it, with projections from the seed.
    ///
    /// # Errors
    /// As [`HyperPlan::new`](super::HyperPlan::new).
    pub(super) fn new(stream: &Stream, shape: &AttentionShape, mask: &Mask, config: &HyperConfig) -> Result<Self> {
        let request =
            abi::lacuna_hyper_plan_params { plan: sizes_of(config, mask), draw: 1, ..settings(config, shape) };
        let served =
            abi::lacuna_gather_forward_params { shape: request.shape, plan: request.plan, ..Default::default() };
        // SAFETY: the queries read no tensor.
        let sizes = stream.device().with_kernels(|kernels| unsafe {
            kernels.gather_config(&served)?;
            kernels.hyper_sizes(&request)
        })?;
        let (levels, nodes) = (sizes.levels as usize, sizes.nodes as usize);
        let bytes = usize::try_from(sizes.scratch_bytes).unwrap_or(usize::MAX);
        let rounds = config.rounds;
        let of_round = |round| random::projections(config.seed, round, shape.head_dim, config.num_projections);
        let directions: Vec<f32> = (0..rounds).flat_map(of_round).collect();
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
        let samples = [nodes, batch, kv_heads, config.exact() + config.sample_size];
        let windows = [rounds * levels, batch, q_heads, sizes.windows_of_head as usize];
        let by_values = config.sampling == Sampling::Values && config.sample_size > 0;
        let places = || {
            let of_keys = Tensor::uninit(stream, [(rounds - 1) * levels, batch, kv_heads, kv_len])?;
            Ok([of_keys, Tensor::uninit(stream, [(rounds - 1) * levels, batch, q_heads, q_len])?])
        };
        Ok(Self {
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
            places: (rounds > 1).then(places).transpose()?,
            scratch: stream.alloc_bytes(bytes)?,
            filled: false,
        })
    }

    /// Hashes, sorts and draws. The tensors have the sizes of the shape; `v` is read where samples are drawn by values.
    pub(super) fn update<T: Half>(
        &mut self,
        stream: &Stream,
        config: &HyperConfig,
        shape: &AttentionShape,
        mask: &Mask,
        [q, k]: [TensorView<'_, T>; 2],
        v: Option<TensorView<'_, T>>,
    ) -> Result<()> {
        let v = v.filter(|_| self.v_shares.is_some());
        let params = abi::lacuna_hyper_plan_params {
            plan: self.to_abi(config, mask),
            draw: i32::from(self.draw),
            q: q.as_ptr().cast(),
            k: k.as_ptr().cast(),
            v: v.as_ref().map_or(std::ptr::null(), |v| v.as_ptr().cast()),
            q_stride: convert::strides(&q.layout()),
            k_stride: convert::strides(&k.layout()),
            v_stride: v.as_ref().map_or_else(Default::default, |v| convert::strides(&v.layout())),
            directions: self.directions.view().as_ptr(),
            q_ranks: self.q_ranks.view_mut().as_mut_ptr(),
            k_ranks: self.k_ranks.view_mut().as_mut_ptr(),
            v_shares: self.v_shares.as_mut().map_or(std::ptr::null_mut(), |shares| shares.view_mut().as_mut_ptr()),
            scratch: self.scratch.as_mut_ptr().cast(),
            scratch_bytes: self.scratch.len() as u64,
            ..settings(config, shape)
        };
        let owners = [
            q.stream(),
            k.stream(),
            v.as_ref().map_or(stream, |v| v.stream()),
            self.directions.stream(),
            self.sample_places.stream(),
            self.scratch.stream(),
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
        self.filled = true;
        Ok(())
    }

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

    /// Device memory in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let words = [&self.q_order, &self.k_order, &self.sample_places, &self.sample_rows];
        let words = words.into_iter().chain(&self.windows).chain(self.places.iter().flatten());
        let floats = [Some(&self.directions), self.sample_weights.as_ref()];
        let shorts = [Some(&self.q_ranks), Some(&self.k_ranks), self.v_shares.as_ref()];
        words.map(bytes).sum::<usize>()
            + floats.into_iter().flatten().map(bytes).sum::<usize>()
            + shorts.into_iter().flatten().map(bytes).sum::<usize>()
            + self.scratch.len()
    }

    /// The plan as the kernels read it.
    pub(super) fn to_abi(&self, config: &HyperConfig, mask: &Mask) -> abi::lacuna_gather_plan {
        let [k_places, q_starts] = [0, 1].map(|i| pointer(self.places.as_ref().map(|places| &places[i])));
        abi::lacuna_gather_plan {
            levels: self.levels as i32,
            q_order: pointer(Some(&self.q_order)),
            k_order: pointer(Some(&self.k_order)),
            sample_places: pointer(Some(&self.sample_places)),
            sample_rows: pointer(Some(&self.sample_rows)),
            sample_weights: pointer(self.sample_weights.as_ref()),
            windows: pointer(self.windows.as_ref()),
            windows_of_head: self.windows.as_ref().map_or(0, |windows| windows.dims()[3] as i32),
            k_places,
            q_starts,
            ..sizes_of(config, mask)
        }
    }
}

/// Where a tensor begins; null for none.
fn pointer<T: Element>(tensor: Option<&Tensor<T>>) -> *mut T {
    tensor.map_or(std::ptr::null_mut(), |tensor| tensor.view().as_ptr().cast_mut())
}

fn bytes<T: Element>(tensor: &Tensor<T>) -> usize {
    size_of::<T>() * tensor.layout().len()
}

/// A plan's sizes, without its levels and pointers.
fn sizes_of(config: &HyperConfig, mask: &Mask) -> abi::lacuna_gather_plan {
    abi::lacuna_gather_plan {
        causal: i32::from(mask.causal),
        block_size: config.block_size as i32,
        samples: (config.exact() + config.sample_size) as i32,
        exact: config.exact() as i32,
        local: config.local_window as i32,
        min_seq_len: config.least() as i32,
        rounds: config.rounds as i32,
        ..Default::default()
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
