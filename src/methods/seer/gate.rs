//! The prefill gate: SeerAttention's AttnGate.
//!
//! Source: "SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs" (arXiv 2410.13276) as its code states it.

use super::cache::{GateCache, Sizes, Span};
use super::config::{GateConfig, check_block_size};
use super::rope::RopeTables;
use super::scratch::Scratch;
use super::selection::{Select, SelectOptions};
use super::stages::{Projection, pool, touched, uniform};
use crate::device::{Buffer, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::bindings as abi;
use crate::plan::{BlockPlan, BlockSize, ListRows};
use crate::profile::range;
use crate::shape::{AttentionShape, Mask};
use crate::tensor::{Half, Tensor, TensorView};

/// Weights of a prefill gate, packed, on one device.
#[derive(Debug)]
pub struct GateWeights<T: Half> {
    /// `[1, q_heads or kv_heads, head_dim * pools, gate_dim]`: what the pools of a key block are multiplied with.
    pub w_k: Tensor<T>,
    /// `[1, q_heads, head_dim * pools, gate_dim]` for query blocks; `None`: the pools of the queries are the gate
    /// vector themselves (published: one pool and `gate_dim = head_dim`).
    pub w_q: Option<Tensor<T>>,
}

/// A prefill gate on a device: weights and rotation tables. Nothing changes after it is made: threads may share it.
///
/// For query block `i` and key block `j` of query head `h`, with `Q` and `K` before the model's rotation:
///
/// ```text
/// q_gate[i] = rope(pools(Q in block i) * w_q[h], i * block_size)
/// k_gate[j] = rope(pools(K in block j) * w_k[h], j * block_size)
/// logit[i, j] = q_gate[i] . k_gate[j] / sqrt(gate_dim)
/// ```
///
/// A block that the sequence does not fill is pooled over the tokens it has.
#[derive(Debug)]
pub struct SeerGate<T: Half> {
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    gate_dim: usize,
    max_len: usize,
    config: GateConfig,
    weights: GateWeights<T>,
    rope: Option<RopeTables>,
}

/// The workspace of a selection, in elements.
struct Parts {
    q_rows: usize,
    k_rows: usize,
    q_features: usize,
    q_gate: usize,
    k_features: usize,
    k_gate: usize,
    selected: usize,
    scratch: Scratch,
}

impl<T: Half> SeerGate<T> {
    /// A gate for attention with these heads and sequences of up to `max_len` keys.
    ///
    /// # Errors
    /// [`Error::Value`] or [`Error::Shape`] names the setting or the weight that does not fit; [`Error::Device`] for
    /// weights on another device; [`Error::OutOfMemory`].
    pub fn new(
        stream: &Stream,
        (q_heads, kv_heads, head_dim): (usize, usize, usize),
        max_len: usize,
        config: GateConfig,
        weights: GateWeights<T>,
    ) -> Result<Self> {
        check_block_size(config.block_size)?;
        config.q_pool.check("q_pool")?;
        config.k_pool.check("k_pool")?;
        check_model(q_heads, kv_heads, head_dim, max_len)?;
        let [_, k_heads, _, gate_dim] = weights.w_k.dims();
        if k_heads != q_heads && k_heads != kv_heads {
            return Err(Error::Shape {
                what: "w_k",
                expected: format!("{q_heads} (query) or {kv_heads} (KV) heads"),
                got: format!("{:?}", weights.w_k.dims()),
            });
        }
        check_gate_dim(gate_dim)?;
        check_weight("w_k", &weights.w_k, [1, k_heads, head_dim * config.k_pool.count(), gate_dim])?;
        stream.device().check_memory("w_k", weights.w_k.stream().device())?;
        match &weights.w_q {
            Some(w_q) => {
                check_weight("w_q", w_q, [1, q_heads, head_dim * config.q_pool.count(), gate_dim])?;
                stream.device().check_memory("w_q", w_q.stream().device())?;
            }
            None if gate_dim != head_dim * config.q_pool.count() => {
                let pooled = head_dim * config.q_pool.count();
                let expected = format!("given, or w_k with a gate dim of {pooled}, that of the pooled queries");
                return Err(Error::Value { what: "w_q", expected, got: format!("none, and a gate dim of {gate_dim}") });
            }
            None => {}
        }
        let tables = |rope| RopeTables::new(stream, rope, config.block_size, max_len.div_ceil(config.block_size));
        config.rope.as_ref().map_or(Ok(()), |rope| rope.check(gate_dim))?;
        let rope = config.rope.as_ref().map(tables).transpose()?;
        Ok(Self { q_heads, kv_heads, head_dim, gate_dim, max_len, config, weights, rope })
    }

    /// Settings.
    pub fn config(&self) -> &GateConfig {
        &self.config
    }

    /// Elements of a gate vector.
    pub fn gate_dim(&self) -> usize {
        self.gate_dim
    }

    /// Heads of the key vectors: query heads or KV heads.
    pub fn k_heads(&self) -> usize {
        self.weights.w_k.dims()[1]
    }

    /// A cache of key vectors for `batch` sequences of up to `max_len` tokens.
    ///
    /// # Errors
    /// [`Error::Value`] for more tokens than the gate knows positions; [`Error::OutOfMemory`].
    pub fn cache(&self, stream: &Stream, batch: usize, max_len: usize) -> Result<GateCache> {
        GateCache::with_sizes(stream, self.cache_sizes(), batch, max_len)
    }

    /// Appends the tokens `gate_k [batch, kv_heads, tokens, head_dim]`, keys before the model's rotation. `workspace`
    /// has [`GateCache::workspace_bytes`]. Never allocates, waits or copies to the host.
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
        workspace: &mut Buffer,
    ) -> Result<()> {
        cache.check(self.cache_sizes(), cache.batch(), 0)?;
        cache.append_with(stream, &self.k_projection(), gate_k, span, workspace)
    }

    /// Lists for a call, with room for `capacity` blocks; `None`: for the most that the options can select.
    ///
    /// # Errors
    /// [`Error::Value`] when options or shape do not fit, or when the room needs more than 2^31 - 1 blocks;
    /// [`Error::OutOfMemory`].
    pub fn empty_plan(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        mask: &Mask,
        options: &SelectOptions,
        capacity: Option<usize>,
    ) -> Result<BlockPlan> {
        self.check_shape(shape, mask, options)?;
        let capacity = capacity.unwrap_or_else(|| self.largest(shape, mask, options));
        BlockPlan::with_capacity(stream, shape, self.rows(shape, options), capacity)
    }

    /// Bytes of workspace that [`select_into`](Self::select_into) needs.
    pub fn workspace_bytes(&self, shape: &AttentionShape, options: &SelectOptions) -> usize {
        self.parts(shape, options, true).scratch.bytes()
    }

    /// Bytes of workspace that [`select_with_cache`](Self::select_with_cache) needs.
    pub fn cached_workspace_bytes(&self, shape: &AttentionShape, options: &SelectOptions) -> usize {
        self.parts(shape, options, false).scratch.bytes()
    }

    /// Pools, projects and selects: fills the lists of `plan` (from [`empty_plan`](Self::empty_plan) for the same shape
    /// and options). `gate_q` `[batch, q_heads, q_len, head_dim]` and `gate_k` `[batch, kv_heads, kv_len, head_dim]`
    /// are queries and keys before the model's rotation, any strides. `workspace` has
    /// [`workspace_bytes`](Self::workspace_bytes).
    ///
    /// Never allocates, waits or copies to the host; a CUDA graph may hold it. Where the blocks do not fit the plan,
    /// all lists are cut to one length, their best blocks stay, and [`BlockPlan::overflow`] says how many were cut.
    ///
    /// # Errors
    /// [`Error::Value`], [`Error::Shape`] or [`Error::Device`] names the argument that does not fit the others;
    /// [`Error::Unsupported`] for more key blocks than the selection holds; [`Error::Cuda`] or [`Error::Simt`].
    #[expect(clippy::too_many_arguments, reason = "each is one tensor or one decision of the caller")]
    pub fn select_into(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        mask: &Mask,
        gate_q: TensorView<'_, T>,
        gate_k: TensorView<'_, T>,
        options: &SelectOptions,
        plan: &mut BlockPlan,
        workspace: &mut Buffer,
    ) -> Result<()> {
        self.run(stream, shape, mask, gate_q, Keys::Tokens(gate_k), options, plan, None, workspace)
    }

    /// As [`select_into`](Self::select_into), with key vectors that `cache` holds for all `kv_len` keys: a chunk of a
    /// prompt selects with what earlier chunks pooled.
    ///
    /// # Errors
    /// As [`select_into`](Self::select_into).
    #[expect(clippy::too_many_arguments, reason = "each is one tensor or one decision of the caller")]
    pub fn select_with_cache(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        mask: &Mask,
        gate_q: TensorView<'_, T>,
        cache: &GateCache,
        options: &SelectOptions,
        plan: &mut BlockPlan,
        workspace: &mut Buffer,
    ) -> Result<()> {
        cache.check(self.cache_sizes(), shape.batch, shape.kv_len)?;
        self.run(stream, shape, mask, gate_q, Keys::Cached(cache), options, plan, None, workspace)
    }

    /// Lists with room for all that can be selected, filled.
    ///
    /// # Errors
    /// As [`empty_plan`](Self::empty_plan) and [`select_into`](Self::select_into).
    pub fn plan(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        mask: &Mask,
        gate_q: TensorView<'_, T>,
        gate_k: TensorView<'_, T>,
        options: &SelectOptions,
    ) -> Result<BlockPlan> {
        let mut plan = self.empty_plan(stream, shape, mask, options, None)?;
        let mut workspace = stream.alloc_bytes(self.workspace_bytes(shape, options))?;
        self.select_into(stream, shape, mask, gate_q, gate_k, options, &mut plan, &mut workspace)?;
        Ok(plan)
    }

    /// The logits `[batch, q_heads, query blocks, key blocks]`, -inf where a row sees nothing of a block. Allocates;
    /// for tests and tools.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn logits(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        mask: &Mask,
        gate_q: TensorView<'_, T>,
        gate_k: TensorView<'_, T>,
    ) -> Result<Tensor<f32>> {
        let options = SelectOptions::new(Select::Blocks(1));
        let mut plan = self.empty_plan(stream, shape, mask, &options, None)?;
        let mut workspace = stream.alloc_bytes(self.workspace_bytes(shape, &options))?;
        let parts = self.parts(shape, &options, true);
        let mut logits = Tensor::uninit(stream, [shape.batch, self.q_heads, parts.q_rows, parts.k_rows])?;
        let keys = Keys::Tokens(gate_k);
        self.run(stream, shape, mask, gate_q, keys, &options, &mut plan, Some(&mut logits), &mut workspace)?;
        Ok(logits)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one tensor or one decision of the caller")]
    fn run(
        &self,
        stream: &Stream,
        shape: &AttentionShape,
        mask: &Mask,
        gate_q: TensorView<'_, T>,
        keys: Keys<'_, T>,
        options: &SelectOptions,
        plan: &mut BlockPlan,
        logits: Option<&mut Tensor<f32>>,
        workspace: &mut Buffer,
    ) -> Result<()> {
        let _range = range!("seer.select", q_len = shape.q_len, kv_len = shape.kv_len);
        self.check_shape(shape, mask, options)?;
        check_dims("gate_q", gate_q.dims(), [shape.batch, self.q_heads, shape.q_len, self.head_dim])?;
        if let Keys::Tokens(gate_k) = &keys {
            check_dims("gate_k", gate_k.dims(), [shape.batch, self.kv_heads, shape.kv_len, self.head_dim])?;
        }
        let parts = self.parts(shape, options, matches!(keys, Keys::Tokens(_)));
        check_workspace(workspace, parts.scratch.bytes())?;
        let targets = plan.selection_targets(shape, self.rows(shape, options))?;
        let memory: *mut f32 = workspace.as_mut_ptr().cast();
        let (k_owner, vectors) = match &keys {
            Keys::Tokens(gate_k) => (gate_k.stream(), None),
            Keys::Cached(cache) => (cache.stream(), Some((cache.vectors().view().as_ptr(), cache.blocks()))),
        };
        let w_q_owner = self.weights.w_q.as_ref().map_or(stream, |w_q| w_q.stream());
        let rope_owner = self.rope.as_ref().map_or(stream, |rope| rope.starts.stream());
        let owners = [
            gate_q.stream(),
            k_owner,
            self.weights.w_k.stream(),
            w_q_owner,
            rope_owner,
            targets.stream,
            workspace.stream(),
        ];
        for (what, owner) in ["gate_q", "gate_k", "w_k", "w_q", "rope", "plan", "workspace"].into_iter().zip(owners) {
            stream.device().check_memory(what, owner.device())?;
        }
        if parts.q_rows == 0 || shape.batch == 0 {
            return Ok(());
        }

        // SAFETY: `Parts` gave each array its place inside the workspace, whose size was checked.
        let at = |start: usize| unsafe { memory.add(start) };
        let block = self.config.block_size;
        let q_span = uniform(shape.batch, shape.q_len, block, shape.kv_len - shape.q_len);
        let (k_gate, k_capacity) = vectors.unwrap_or((at(parts.k_gate).cast_const(), parts.k_rows));
        let (rule, count, value) = options.select.rule(block);
        let select = abi::lacuna_gate_select_params {
            batch: shape.batch as i32,
            q_heads: self.q_heads as i32,
            k_heads: self.k_heads() as i32,
            plan_heads: self.rows(shape, options).heads as i32,
            gate_dim: self.gate_dim as i32,
            rows: parts.q_rows as i32,
            rows_per_list: 1,
            row_tokens: block as i32,
            block: block as i32,
            kv_len: shape.kv_len as i32,
            q_len: shape.q_len as i32,
            causal: i32::from(mask.causal),
            rule,
            count,
            value,
            current: abi::LACUNA_GATE_CURRENT_SCORED,
            last_rows_dense: options.last_rows_dense.min(i32::MAX as usize) as i32,
            force_diagonal: i32::from(options.force_diagonal),
            sink_blocks: options.sink_blocks.min(i32::MAX as usize) as i32,
            k_rows: k_capacity as i32,
            capacity: targets.capacity,
            q_gate: at(parts.q_gate),
            k_gate,
            logits: logits.map_or(std::ptr::null_mut(), |logits| logits.view_mut().as_mut_ptr()),
            row_offsets: targets.row_offsets,
            indices: targets.indices,
            counts: targets.counts,
            selected: at(parts.selected).cast(),
            overflow: targets.overflow,
            ..Default::default()
        };
        ordered(stream, &owners, || {
            let q_pool = self.config.q_pool.bits();
            let no_state = std::ptr::null_mut();
            // SAFETY: the arrays lie apart in the workspace, borrowed exclusively, with the sizes that `Parts` computed
            // from the same shape; tensors were checked above; the plan's lists are borrowed exclusively.
            unsafe {
                pool(stream, q_span, gate_q, q_pool, parts.q_rows, at(parts.q_features), no_state)?;
                let out = (at(parts.q_gate), parts.q_rows, false);
                self.q_projection().run(stream, q_span, parts.q_rows, at(parts.q_features), out)?;
                if let Keys::Tokens(gate_k) = keys
                    && parts.k_rows > 0
                {
                    let span = uniform(shape.batch, shape.kv_len, block, 0);
                    let k_pool = self.config.k_pool.bits();
                    pool(stream, span, gate_k, k_pool, parts.k_rows, at(parts.k_features), no_state)?;
                    let out = (at(parts.k_gate), parts.k_rows, true);
                    self.k_projection().run(stream, span, parts.k_rows, at(parts.k_features), out)?;
                }
                stream.launch(|kernels, raw| kernels.gate_select(&select, raw))
            }
        })
    }

    fn q_projection(&self) -> Projection<'_, T> {
        Projection {
            in_heads: self.q_heads,
            width: self.head_dim * self.config.q_pool.count(),
            heads: self.q_heads,
            join: false,
            gate_dim: self.gate_dim,
            weight: self.weights.w_q.as_ref(),
            norm: None,
            norm_eps: 0.0,
            rope: self.rope.as_ref(),
            rope_block: self.config.block_size,
            rotate_last: false,
        }
    }

    fn k_projection(&self) -> Projection<'_, T> {
        Projection {
            in_heads: self.kv_heads,
            width: self.head_dim * self.config.k_pool.count(),
            heads: self.k_heads(),
            weight: Some(&self.weights.w_k),
            ..self.q_projection()
        }
    }

    fn cache_sizes(&self) -> Sizes {
        Sizes {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            heads: self.k_heads(),
            gate_dim: self.gate_dim,
            block_size: self.config.block_size,
            pools: self.config.k_pool,
            max_len: self.max_len,
        }
    }

    fn rows(&self, shape: &AttentionShape, options: &SelectOptions) -> ListRows {
        let heads = if options.share_heads { self.kv_heads } else { self.q_heads };
        ListRows { block: BlockSize::square(self.config.block_size), batch: shape.batch, heads, absolute: true }
    }

    fn parts(&self, shape: &AttentionShape, options: &SelectOptions, keys: bool) -> Parts {
        let block = self.config.block_size;
        let q_rows = touched(shape.kv_len.saturating_sub(shape.q_len), shape.q_len, block);
        let k_rows = shape.kv_len.div_ceil(block);
        let mut scratch = Scratch::default();
        let q_width = self.head_dim * self.config.q_pool.count();
        let q_features = scratch.take(&[shape.batch, self.q_heads, q_rows, q_width]);
        let q_gate = scratch.take(&[shape.batch, self.q_heads, q_rows, self.gate_dim]);
        let made = if keys { k_rows } else { 0 };
        let k_width = self.head_dim * self.config.k_pool.count();
        let k_features = scratch.take(&[shape.batch, self.kv_heads, made, k_width]);
        let k_gate = scratch.take(&[shape.batch, self.k_heads(), made, self.gate_dim]);
        let lists = self.rows(shape, options).heads;
        let selected = scratch.take(&[shape.batch, lists, q_rows, k_rows.div_ceil(32)]);
        Parts { q_rows, k_rows, q_features, q_gate, k_features, k_gate, selected, scratch }
    }

    /// The most blocks that a selection can have; sizes beyond `usize` saturate.
    fn largest(&self, shape: &AttentionShape, mask: &Mask, options: &SelectOptions) -> usize {
        let block = self.config.block_size;
        let blocks = shape.kv_len.div_ceil(block);
        let first = (shape.kv_len - shape.q_len) / block;
        let q_rows = touched(shape.kv_len - shape.q_len, shape.q_len, block);
        let forced = options.sink_blocks.saturating_add(usize::from(options.force_diagonal));
        let some = options.select.most(block, blocks).saturating_add(forced);
        let row = |r: usize| {
            let visible = if mask.causal { (first + r + 1).min(blocks) } else { blocks };
            if r + options.last_rows_dense >= q_rows { visible } else { visible.min(some) }
        };
        let heads = shape.batch.saturating_mul(self.rows(shape, options).heads);
        (0..q_rows).map(row).fold(0, usize::saturating_add).saturating_mul(heads)
    }

    fn check_shape(&self, shape: &AttentionShape, mask: &Mask, options: &SelectOptions) -> Result<()> {
        shape.validate()?;
        mask.validate(shape)?;
        options.select.check()?;
        if mask.window_left.is_some() || mask.window_right.is_some() {
            return Err(Error::Unsupported {
                what: "a gate with a sliding window".into(),
                hint: "select without it, and give the window to attention alone".into(),
            });
        }
        let gate = [self.q_heads, self.kv_heads, self.head_dim];
        if [shape.q_heads, shape.kv_heads, shape.head_dim] != gate {
            return Err(Error::Shape {
                what: "shape",
                expected: format!("q_heads, kv_heads, head_dim of the gate, {gate:?}"),
                got: format!("{:?}", [shape.q_heads, shape.kv_heads, shape.head_dim]),
            });
        }
        if shape.dtype != T::DTYPE {
            return Err(Error::Value { what: "dtype", expected: T::DTYPE.to_string(), got: shape.dtype.to_string() });
        }
        if shape.kv_len > self.max_len {
            let expected = format!("at most max_len of the gate ({})", self.max_len);
            return Err(Error::Value { what: "kv_len", expected, got: shape.kv_len.to_string() });
        }
        if shape.q_len > shape.kv_len {
            let expected = format!("at most kv_len ({}): query blocks count absolute positions", shape.kv_len);
            return Err(Error::Value { what: "q_len", expected, got: shape.q_len.to_string() });
        }
        Ok(())
    }
}

/// Where the key vectors of a selection come from.
enum Keys<'a, T: Half> {
    Tokens(TensorView<'a, T>),
    Cached(&'a GateCache),
}

pub(super) fn check_model(q_heads: usize, kv_heads: usize, head_dim: usize, max_len: usize) -> Result<()> {
    if kv_heads == 0 || q_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
        let expected = format!("a multiple of kv_heads ({kv_heads}), at least 1");
        return Err(Error::Value { what: "q_heads", expected, got: q_heads.to_string() });
    }
    if head_dim == 0 || !head_dim.is_multiple_of(8) || head_dim > 256 {
        let expected = "a multiple of 8 in 8..=256 for a gate".into();
        return Err(Error::Value { what: "head_dim", expected, got: head_dim.to_string() });
    }
    if max_len > 1 << 30 {
        return Err(Error::Value { what: "max_len", expected: "at most 2^30".into(), got: max_len.to_string() });
    }
    Ok(())
}

pub(super) fn check_gate_dim(gate_dim: usize) -> Result<()> {
    if (2..=256).contains(&gate_dim) && gate_dim.is_multiple_of(2) {
        return Ok(());
    }
    Err(Error::Value { what: "gate_dim", expected: "even, in 2..=256".into(), got: gate_dim.to_string() })
}

pub(super) fn check_weight<T: crate::tensor::Element>(
    what: &'static str,
    weight: &Tensor<T>,
    dims: [usize; 4],
) -> Result<()> {
    check_dims(what, weight.dims(), dims)?;
    if weight.layout().is_contiguous() {
        return Ok(());
    }
    let got = format!("strides {:?}", weight.layout().strides());
    Err(Error::Shape { what, expected: "packed".into(), got })
}

pub(super) fn check_dims(what: &'static str, got: [usize; 4], expected: [usize; 4]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Shape { what, expected: format!("{expected:?}"), got: format!("{got:?}") })
}

pub(super) fn check_workspace(workspace: &Buffer, needed: usize) -> Result<()> {
    if workspace.len() >= needed {
        return Ok(());
    }
    let expected = format!("at least {needed} bytes");
    Err(Error::Shape { what: "workspace", expected, got: workspace.len().to_string() })
}
