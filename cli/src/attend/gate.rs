//! `seer`: the gate's tensors and settings, checked before any device work, and its plan.

use super::method_options;
use crate::config::{SeerKeys, pool_set};
use crate::failure::{Failure, Result};
use crate::files::{TensorFile, rounded};
use crate::gates::{
    GateInputs, GateMatrices, Lists, Weight, frequencies, largest, plan, reference_pools, reference_rule,
};
use lacuna::methods::seer::{GateConfig, Pools, Rope, SelectOptions};
use lacuna::reference::gate::{PrefillGate, Rotation, Selection};
use lacuna::reference::widen;
use lacuna::{AttentionShape, BlockMask, BlockPlan, Half, Mask, Stream};

/// A gate with what it reads, rounded to the compute type.
pub struct Gate<T> {
    /// `[batch, q_heads, q_len, head_dim]` before the rotary embedding.
    pub q: Vec<T>,
    /// `[batch, kv_heads, kv_len, head_dim]` likewise.
    pub k: Vec<T>,
    /// Its weights.
    pub matrices: GateMatrices<T>,
    /// Queries and keys of a block.
    pub block_size: usize,
    /// Statistics of the queries of a block.
    pub q_pool: Pools,
    /// Statistics of the keys of a block.
    pub k_pool: Pools,
    /// Base of the rotation.
    pub rope_theta: f64,
    /// How scores become blocks.
    pub options: SelectOptions,
    /// Which pairs are visible at all.
    pub mask: Mask,
}

impl<T: Half> Gate<T> {
    /// Reads and checks the gate's tensors.
    pub fn read(file: &TensorFile, shape: &AttentionShape, keys: &SeerKeys) -> Result<Self> {
        let tensors = file.tensors()?;
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
        let q = file.float_tensor_of(&tensors, "gate_q", [batch, q_heads, q_len, head_dim], "as `q`")?;
        let k = file.float_tensor_of(&tensors, "gate_k", [batch, kv_heads, kv_len, head_dim], "as `k`")?;
        let (q_pool, k_pool) = (pool_set("q_pool", &keys.q_pool)?, pool_set("k_pool", &keys.k_pool)?);
        let (q_inputs, k_inputs) = (q_pool.count() * head_dim, k_pool.count() * head_dim);
        let (w_k, dims) = file.float_tensor::<3>(&tensors, "w_k")?;
        let gate_dim = check_gate_dim(file, "w_k", dims)?;
        if ![q_heads, kv_heads].contains(&dims[0]) || dims[1] != k_inputs {
            return Err(file.error(format_args!(
                "tensor `w_k` must be [{q_heads} or {kv_heads}, {k_inputs}, gate dim] (query or KV heads, head_dim × pools \
                 of k, gate dim), got {dims:?}"
            )));
        }
        let expected = [q_heads, q_inputs, gate_dim];
        let w_q = if tensors.tensor("w_q").is_ok() {
            let meaning = "query heads, head_dim × pools of q, gate dim of `w_k`";
            let view = file.float_tensor_of(&tensors, "w_q", expected, meaning)?;
            Some(Weight { dims: expected, data: rounded(&view) })
        } else if q_pool.count() == 1 && gate_dim == head_dim {
            None
        } else {
            return Err(file.error(format_args!(
                "without the tensor `w_q`, q_pool must have one entry and the gate dim, the last of `w_k`, be {head_dim}, got {} \
                 entries and {gate_dim}",
                q_pool.count()
            )));
        };
        Ok(Self {
            q: rounded(&q),
            k: rounded(&k),
            matrices: GateMatrices { w_k: Weight { dims, data: rounded(&w_k) }, w_q },
            block_size: keys.block_size,
            q_pool,
            k_pool,
            rope_theta: keys.rope_theta,
            options: SelectOptions {
                select: keys.rule()?,
                last_rows_dense: keys.last_rows_dense,
                force_diagonal: keys.force_diagonal,
                sink_blocks: keys.sink_blocks,
                share_heads: keys.share_heads,
            },
            mask: method_options(keys.options()).mask,
        })
    }

    /// The blocks that the gate picks.
    pub fn plan(&self, stream: &Stream, shape: &AttentionShape) -> Result<BlockPlan> {
        let config = GateConfig {
            block_size: self.block_size,
            q_pool: self.q_pool,
            k_pool: self.k_pool,
            rope: Some(Rope::new(self.rope_theta, self.matrices.w_k.dims[2])),
        };
        let inputs = GateInputs { q: &self.q, k: &self.k };
        plan(stream, shape, &self.mask, config, &self.matrices, &inputs, &self.options)
    }
}

impl<T: Half + Into<f64>> Gate<T> {
    /// Compares the blocks of a plan with the f64 gate on the same values.
    pub fn check(&self, shape: &AttentionShape, blocks: &BlockMask) -> Result<Lists> {
        let (q, k) = (widen(&self.q), widen(&self.k));
        let w_k = widen(&self.matrices.w_k.data);
        let w_q = self.matrices.w_q.as_ref().map(|w_q| widen(&w_q.data));
        let gate_dim = self.matrices.w_k.dims[2];
        let frequencies = frequencies(self.rope_theta, gate_dim);
        let gate = PrefillGate {
            shape: *shape,
            causal: self.mask.causal,
            block: self.block_size,
            gate_dim,
            q: &q,
            k: &k,
            q_pools: &reference_pools(self.q_pool),
            k_pools: &reference_pools(self.k_pool),
            w_q: w_q.as_deref(),
            w_k: &w_k,
            rotation: Some(Rotation { frequencies: &frequencies, factor: 1.0 }),
        };
        let options = &self.options;
        let lists = gate.lists(&Selection {
            rule: reference_rule(options.select, self.block_size),
            last_rows_dense: options.last_rows_dense,
            force_diagonal: options.force_diagonal,
            sink_blocks: options.sink_blocks,
            share_heads: options.share_heads,
        })?;
        let largest = largest(&gate.logits()?);
        let mut report = Lists::default();
        for (row, (list, marks)) in lists.iter().zip(blocks.data.chunks(blocks.kv_blocks.max(1))).enumerate() {
            report.add(format_args!("row {row}"), list, marks, largest);
        }
        Ok(report)
    }
}

/// The gate dim of a weight; the rotation takes its elements in pairs.
pub fn check_gate_dim(file: &TensorFile, name: &str, dims: [usize; 3]) -> Result<usize, Failure> {
    let gate_dim = dims[2];
    if (2..=256).contains(&gate_dim) && gate_dim.is_multiple_of(2) {
        return Ok(gate_dim);
    }
    Err(file.error(format_args!("the gate dim, the last of `{name}`, must be even and in 2..=256, got {dims:?}")))
}
