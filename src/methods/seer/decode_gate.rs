//! The decode gate of SeerAttention-R: one selection a KV head, for the newest tokens.
//!
//! Source: "SeerAttention-R: Sparse Attention Adaptation for Long Reasoning" (arXiv 2506.08889) and its code.

use super::cache::{GateCache, Sizes, Span};
use super::config::{DecodeGateConfig, check_block_size};
use super::gate::{check_dims, check_gate_dim, check_model, check_weight, check_workspace};
use super::rope::RopeTables;
use super::scratch::Scratch;
use super::selection::{DecodeSelectOptions, Select};
use super::stages::{Projection, pool, uniform};
use crate::device::{Buffer, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::bindings as abi;
use crate::plan::{BlockPlan, BlockSize, ListRows};
use crate::profile::range;
use crate::shape::AttentionShape;
use crate::tensor::{Half, Tensor, TensorView};

/// Queries of a call at most.
const MOST_QUERIES: usize = 16;

/// Weights of a decode gate, packed, on one device.
#[derive(Debug)]
pub struct DecodeGateWeights<T: Half> {
    /// `[1, kv_heads, group * head_dim, gate_dim]`: what the joined queries of a group are multiplied with.
    pub w_q: Tensor<T>,
    /// `[1, kv_heads, head_dim * pools, gate_dim]`
    pub w_k: Tensor<T>,
    /// `[1, 1, 1, gate_dim]`: weight of the RMS norm of query vectors, before the rotation; `None`: no norm.
    pub q_norm: Option<Tensor<f32>>,
    /// `[1, 1, 1, gate_dim]`: weight of the RMS norm of key vectors.
    pub k_norm: Option<Tensor<f32>>,
}

/// A decode gate on a device. Nothing changes after it is made: threads may share it.
///
/// For a query at position `p` and key block `j` of KV head `h`, with `Q` and `K` before the model's rotation:
///
/// ```text
/// q_gate = rope(norm(join(Q of the group) * w_q[h]), p)
/// k_gate[j] = rope(norm(pools(K in block j) * w_k[h]), j * block_size)
/// logit[j] = q_gate . k_gate[j] / sqrt(gate_dim)      for the blocks before that of p
/// ```
///
/// The block of `p` itself is always attended, on top of what is selected.
#[derive(Debug)]
pub struct DecodeGate<T: Half> {
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    gate_dim: usize,
    max_len: usize,
    config: DecodeGateConfig,
    weights: DecodeGateWeights<T>,
    rope: Option<RopeTables>,
}

impl<T: Half> DecodeGate<T> {
    /// A gate for attention with these heads and sequences of up to `max_len` keys.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] names the setting or the weight that does not fit; [`Error::Device`] for
    /// weights on another device; [`Error::OutOfMemory`].
    pub fn new(
        stream: &Stream,
        (q_heads, kv_heads, head_dim): (usize, usize, usize),
        max_len: usize,
        config: DecodeGateConfig,
        weights: DecodeGateWeights<T>,
    ) -> Result<Self> {
        check_block_size(config.block_size)?;
        config.k_pool.check("k_pool")?;
        check_model(q_heads, kv_heads, head_dim, max_len)?;
        if !(config.norm_eps.is_finite() && config.norm_eps >= 0.0) {
            let got = config.norm_eps.to_string();
            return Err(Error::Value { what: "norm_eps", expected: "finite and at least 0".into(), got });
        }
        let gate_dim = weights.w_k.dims()[3];
        check_gate_dim(gate_dim)?;
        let inputs = q_heads / kv_heads * head_dim;
        check_weight("w_q", &weights.w_q, [1, kv_heads, inputs, gate_dim])?;
        check_weight("w_k", &weights.w_k, [1, kv_heads, head_dim * config.k_pool.count(), gate_dim])?;
        let device = stream.device();
        device.check_memory("w_q", weights.w_q.stream().device())?;
        device.check_memory("w_k", weights.w_k.stream().device())?;
        for (what, norm) in [("q_norm", &weights.q_norm), ("k_norm", &weights.k_norm)] {
            let Some(norm) = norm else { continue };
            check_weight(what, norm, [1, 1, 1, gate_dim])?;
            device.check_memory(what, norm.stream().device())?;
        }
        config.rope.as_ref().map_or(Ok(()), |rope| rope.check(gate_dim))?;
        let tables = |rope| RopeTables::new(stream, rope, config.block_size, max_len.div_ceil(config.block_size));
        let rope = config.rope.as_ref().map(tables).transpose()?;
        Ok(Self { q_heads, kv_heads, head_dim, gate_dim, max_len, config, weights, rope })
    }

    /// Settings.
    pub fn config(&self) -> &DecodeGateConfig {
        &self.config
    }

    /// A cache of key vectors for `batch` sequences of up to `max_len` tokens.
    ///
    /// # Errors
    /// [`Error::Value`] for more tokens than the gate knows positions; [`Error::OutOfMemory`].
    pub fn cache(&self, stream: &Stream, batch: usize, max_len: usize) -> Result<GateCache> {
        GateCache::with_sizes(stream, self.sizes(), batch, max_len)
    }

    /// Appends the tokens `gate_k [batch, kv_heads, tokens, head_dim]`, keys before the model's rotation. `workspace`
    /// has [`GateCache::workspace_bytes`]. `decoding` says whether the tokens are generated ones: it matters only to
    /// the `compat` mode, which rotates the blocks that complete then at their last token.
    ///
    /// Never allocates, waits or copies to the host.
    ///
    /// # Errors
    /// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit; [`Error::Cuda`] or
    /// [`Error::Simt`].
    pub fn append(
        &self,
        stream: &Stream,
        cache: &mut GateCache,
        gate_k: TensorView<'_, T>,
        span: Span<'_>,
        decoding: bool,
        workspace: &mut Buffer,
    ) -> Result<()> {
        self.check_cache(cache, cache.batch(), 0)?;
        let projection = Projection { rotate_last: self.config.compat && decoding, ..self.k_projection() };
        cache.append_with(stream, &projection, gate_k, span, workspace)
    }

    /// Lists for a call of `shape.q_len` queries a sequence: a row for each sequence and KV head that serves all of
    /// them (the selection is by the largest of their probabilities). `capacity` in blocks; `None`: the most that the
    /// options can select.
    ///
    /// # Errors
    /// [`Error::Value`] when shape or options do not fit; [`Error::OutOfMemory`].
    pub fn empty_plan(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        options: &DecodeSelectOptions,
        capacity: Option<usize>,
    ) -> Result<BlockPlan> {
        self.check_shape(shape, options)?;
        let blocks = shape.kv_len.div_ceil(self.config.block_size);
        // The queries may lie in two blocks, both of which are attended.
        let most =
            options.select.most(self.config.block_size, blocks).saturating_add(options.sink_blocks).saturating_add(2);
        let lists = shape.batch.saturating_mul(self.kv_heads);
        let capacity = capacity.unwrap_or_else(|| most.min(blocks).saturating_mul(lists));
        BlockPlan::with_capacity(stream, shape, self.rows(shape), capacity)
    }

    /// Bytes of workspace that [`select_into`](Self::select_into) needs.
    pub fn workspace_bytes(&self, shape: &AttentionShape) -> usize {
        self.parts(shape).3.bytes()
    }

    /// Selects blocks for the newest `shape.q_len` tokens (1 to 16), which `cache` already holds: fills the lists of
    /// `plan` (from [`empty_plan`](Self::empty_plan)). `gate_q [batch, q_heads, q_len, head_dim]` are queries before
    /// the model's rotation; `kv_lens [1, 1, 1, batch]` the keys of each sequence, the newest included, where they
    /// differ from `shape.kv_len`, their maximum.
    ///
    /// Never allocates, waits or copies to the host; a CUDA graph may hold it.
    ///
    /// # Errors
    /// As [`SeerGate::select_into`](super::SeerGate::select_into).
    #[expect(clippy::too_many_arguments, reason = "each is one tensor or one decision of the caller")]
    pub fn select_into(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        kv_lens: Option<&Tensor<i32>>,
        gate_q: TensorView<'_, T>,
        cache: &GateCache,
        options: &DecodeSelectOptions,
        plan: &mut BlockPlan,
        workspace: &mut Buffer,
    ) -> Result<()> {
        self.run(stream, shape, kv_lens, gate_q, cache, options, plan, None, workspace)
    }

    /// The logits `[batch, kv_heads, q_len, key blocks]`, -inf where a query sees nothing of a block. Those of a
    /// query's own block are there, whether they take part or not. Allocates; for tests and tools.
    ///
    /// # Errors
    /// As [`select_into`](Self::select_into), and [`Error::OutOfMemory`].
    pub fn logits(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        kv_lens: Option<&Tensor<i32>>,
        gate_q: TensorView<'_, T>,
        cache: &GateCache,
    ) -> Result<Tensor<f32>> {
        let options = DecodeSelectOptions::new(Select::Blocks(1));
        let mut plan = self.empty_plan(stream, shape, &options, None)?;
        let mut workspace = stream.alloc_bytes(self.workspace_bytes(shape))?;
        let blocks = shape.kv_len.div_ceil(self.config.block_size);
        let mut logits = Tensor::uninit(stream, [shape.batch, self.kv_heads, shape.q_len, blocks])?;
        self.run(stream, shape, kv_lens, gate_q, cache, &options, &mut plan, Some(&mut logits), &mut workspace)?;
        Ok(logits)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one tensor or one decision of the caller")]
    fn run(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        kv_lens: Option<&Tensor<i32>>,
        gate_q: TensorView<'_, T>,
        cache: &GateCache,
        options: &DecodeSelectOptions,
        plan: &mut BlockPlan,
        logits: Option<&mut Tensor<f32>>,
        workspace: &mut Buffer,
    ) -> Result<()> {
        let _range = range!("seer.decode_select", q_len = shape.q_len, kv_len = shape.kv_len);
        self.check_shape(shape, options)?;
        self.check_cache(cache, shape.batch, shape.kv_len)?;
        check_dims("gate_q", gate_q.dims(), [shape.batch, self.q_heads, shape.q_len, self.head_dim])?;
        kv_lens.map_or(Ok(()), |lens| check_dims("kv_lens", lens.dims(), [1, 1, 1, shape.batch]))?;
        let (features, vectors, selected, scratch) = self.parts(shape);
        check_workspace(workspace, scratch.bytes())?;
        let targets = plan.selection_targets(shape, self.rows(shape))?;
        let memory: *mut f32 = workspace.as_mut_ptr().cast();
        let owners = [
            gate_q.stream(),
            cache.stream(),
            kv_lens.map_or(stream, |lens| lens.stream()),
            self.weights.w_q.stream(),
            self.weights.q_norm.as_ref().map_or(stream, |norm| norm.stream()),
            self.rope.as_ref().map_or(stream, |rope| rope.starts.stream()),
            targets.stream,
            workspace.stream(),
        ];
        let names = ["gate_q", "gate cache", "kv_lens", "w_q", "q_norm", "rope", "plan", "workspace"];
        for (what, owner) in names.into_iter().zip(owners) {
            stream.device().check_memory(what, owner.device())?;
        }
        if shape.batch == 0 {
            return Ok(());
        }
        // SAFETY: `parts` gave each array its place inside the workspace, whose size was checked.
        let at = |start: usize| unsafe { memory.add(start) };
        let (k_gate, k_rows) = (cache.vectors().view().as_ptr(), cache.blocks());
        let block = self.config.block_size;
        let (rule, count, value) = options.select.rule(block);
        let (apart, neutral) = (abi::LACUNA_GATE_CURRENT_APART, abi::LACUNA_GATE_CURRENT_NEUTRAL);
        let lens = kv_lens.map_or(std::ptr::null(), |lens| lens.view().as_ptr());
        let select = abi::lacuna_gate_select_params {
            batch: shape.batch as i32,
            q_heads: self.kv_heads as i32,
            k_heads: self.kv_heads as i32,
            plan_heads: self.kv_heads as i32,
            gate_dim: self.gate_dim as i32,
            rows: shape.q_len as i32,
            rows_per_list: shape.q_len as i32,
            row_tokens: 1,
            block: block as i32,
            kv_len: shape.kv_len as i32,
            q_len: shape.q_len as i32,
            causal: 1,
            kv_lens: lens,
            rule,
            count,
            value,
            current: if self.config.compat { neutral } else { apart },
            force_diagonal: 1,
            sink_blocks: options.sink_blocks.min(i32::MAX as usize) as i32,
            k_rows: k_rows as i32,
            capacity: targets.capacity,
            q_gate: at(vectors),
            k_gate,
            logits: logits.map_or(std::ptr::null_mut(), |logits| logits.view_mut().as_mut_ptr()),
            row_offsets: targets.row_offsets,
            indices: targets.indices,
            counts: targets.counts,
            selected: at(selected).cast(),
            overflow: targets.overflow,
            ..Default::default()
        };
        let tokens = uniform(shape.batch, shape.q_len, 1, shape.kv_len - shape.q_len);
        let place = abi::lacuna_gate_span { ends: lens, ..tokens };
        ordered(stream, &owners, || {
            let average = abi::LACUNA_POOL_AVG;
            // SAFETY: the arrays lie apart in the workspace, borrowed exclusively, with the sizes that `parts` computed
            // from the same shape; tensors were checked above; the plan's lists are borrowed exclusively.
            unsafe {
                pool(stream, tokens, gate_q, average, shape.q_len, at(features), std::ptr::null_mut())?;
                let out = (at(vectors), shape.q_len, false);
                self.q_projection().run(stream, place, shape.q_len, at(features), out)?;
                stream.launch(|kernels, raw| kernels.gate_select(&select, raw))
            }
        })
    }

    fn q_projection(&self) -> Projection<'_, T> {
        Projection {
            in_heads: self.q_heads,
            width: self.head_dim,
            heads: self.kv_heads,
            join: true,
            gate_dim: self.gate_dim,
            weight: Some(&self.weights.w_q),
            norm: self.weights.q_norm.as_ref(),
            norm_eps: self.config.norm_eps,
            rope: self.rope.as_ref(),
            rope_block: self.config.block_size,
            rotate_last: false,
        }
    }

    fn k_projection(&self) -> Projection<'_, T> {
        Projection {
            in_heads: self.kv_heads,
            width: self.head_dim * self.config.k_pool.count(),
            join: false,
            weight: Some(&self.weights.w_k),
            norm: self.weights.k_norm.as_ref(),
            ..self.q_projection()
        }
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            heads: self.kv_heads,
            gate_dim: self.gate_dim,
            block_size: self.config.block_size,
            pools: self.config.k_pool,
            max_len: self.max_len,
        }
    }

    fn rows(&self, shape: &AttentionShape) -> ListRows {
        let block = BlockSize { q: MOST_QUERIES, k: self.config.block_size };
        ListRows { block, batch: shape.batch, heads: self.kv_heads, absolute: false }
    }

    /// Features, vectors and selected bits in the workspace, and all of it.
    fn parts(&self, shape: &AttentionShape) -> (usize, usize, usize, Scratch) {
        let mut scratch = Scratch::default();
        let features = scratch.take(&[shape.batch, self.q_heads, shape.q_len, self.head_dim]);
        let vectors = scratch.take(&[shape.batch, self.kv_heads, shape.q_len, self.gate_dim]);
        let words = shape.kv_len.div_ceil(self.config.block_size).div_ceil(32);
        let selected = scratch.take(&[shape.batch, self.kv_heads, words]);
        (features, vectors, selected, scratch)
    }

    fn check_cache(&self, cache: &GateCache, batch: usize, kv_len: usize) -> Result<()> {
        cache.check(self.sizes(), batch, kv_len)
    }

    fn check_shape(&self, shape: &AttentionShape, options: &DecodeSelectOptions) -> Result<()> {
        shape.validate()?;
        options.select.check()?;
        let (got, expected) =
            ([shape.q_heads, shape.kv_heads, shape.head_dim], [self.q_heads, self.kv_heads, self.head_dim]);
        if got != expected {
            let expected = format!("q_heads, kv_heads, head_dim of the gate, {expected:?}");
            return Err(Error::Shape { what: "shape", expected, got: format!("{got:?}") });
        }
        if shape.dtype != T::DTYPE {
            return Err(Error::Value { what: "dtype", expected: T::DTYPE.to_string(), got: shape.dtype.to_string() });
        }
        if !(1..=MOST_QUERIES).contains(&shape.q_len) || shape.q_len > shape.kv_len {
            let expected = format!("in 1..={MOST_QUERIES} and at most kv_len ({})", shape.kv_len);
            return Err(Error::Value { what: "q_len", expected, got: shape.q_len.to_string() });
        }
        if shape.kv_len > self.max_len {
            let expected = format!("at most max_len of the gate ({})", self.max_len);
            return Err(Error::Value { what: "kv_len", expected, got: shape.kv_len.to_string() });
        }
        Ok(())
    }
}
