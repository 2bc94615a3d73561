//! Sorted rows and sampled keys on the device.

use super::config::HyperConfig;
use super::hashed::Hashed;
use crate::attention::ForwardOptions;
use crate::device::Stream;
use crate::error::{Error, Result};
use crate::kernels::bindings as abi;
use crate::kernels::family::KernelFamily;
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
        Ok(plan(Kind::Hashed(Box::new(Hashed::new(stream, shape, mask, config)?))))
    }

    /// The kernels that may run the plan forward; [`KernelFamily::Auto`] unless this says otherwise. A family that
    /// can't is an error of the call.
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

    /// Attends these samples, `[1, batch, kv_heads, sample_size]` packed, from the next update on: places in the keys
    /// as the first round sorts them, below `kv_len`. Samples outside are attended by nobody. All have the weight
    /// `ln(kv_len / sample_size)`, and `sampling` no part in it any more.
    ///
    /// # Errors
    /// [`Error::Value`] for a causal call, which draws for each of its halves, and for a plan with sinks;
    /// [`Error::Shape`] for another size; [`Error::Device`] for memory of another device.
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
    /// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit; [`Error::Value`]
    /// where samples are drawn by values, which [`update_with_values`](Self::update_with_values) takes; [`Error::Cuda`]
    /// or [`Error::Simt`] when a launch fails.
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
        match &mut self.kind {
            Kind::Exact(..) => Ok(()),
            Kind::Hashed(hashed) => hashed.update(stream, &self.config, &shape, &self.mask, [q, k], v),
        }
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
        match &self.kind {
            Kind::Exact(..) => 0,
            Kind::Hashed(hashed) => hashed.memory_bytes(),
        }
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

    /// The shares that the last update gave the keys, `[batch, kv_heads, kv_len]`, where samples are drawn by values;
    /// waits.
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
    /// kv_heads, kv_len]`; waits. In a causal call each half is sorted at its own places, and of each pair of halves
    /// the queries of the second and the keys of the first are written. `None` for an exact call.
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
        match &self.kind {
            Kind::Exact(..) => abi::lacuna_gather_plan::default(),
            Kind::Hashed(hashed) => hashed.to_abi(&self.config, &self.mask),
        }
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
