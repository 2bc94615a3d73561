//! What finds the blocks of a call: once for a pattern, in every step where it depends on data.

use super::case::{Case, Pass};
use crate::config::Method;
use crate::failure::Result;
use lacuna::seer::{
    DecodeGate, DecodeGateConfig, DecodeGateWeights, DecodeSelectOptions, GateCache, GateConfig, GateWeights, Pools,
    Rope, SeerGate, Select, SelectOptions, Span,
};
use lacuna::{AttentionShape, BlockPlan, BlockSize, Buffer, ListRows, Mask, S2Config, Stream, Tensor, bf16};

/// Keys and queries of a block.
pub const BLOCK: usize = 64;

/// The base of the gates' rotation.
const ROPE_THETA: f64 = 10000.0;

/// A plan and what fills it.
pub struct Planner {
    pub plan: BlockPlan,
    pub settings: String,
    source: Source,
}

enum Source {
    /// Nothing: the pattern is known.
    Formula,
    /// A mask on the device.
    Mask(Tensor<u8>),
    Gate(Box<Gate>),
    Token(Box<Token>),
}

struct Gate {
    gate: SeerGate<bf16>,
    options: SelectOptions,
    shape: AttentionShape,
    q: Tensor<bf16>,
    k: Tensor<bf16>,
    workspace: Buffer,
}

/// The gate of decoding, which takes a key and picks blocks for a query.
struct Token {
    gate: DecodeGate<bf16>,
    cache: GateCache,
    options: DecodeSelectOptions,
    shape: AttentionShape,
    q: Tensor<bf16>,
    key: Tensor<bf16>,
    starts: Tensor<i32>,
    ones: Tensor<i32>,
    pooling: Buffer,
    workspace: Buffer,
}

impl Planner {
    /// The planner of a case over block plans, filled once.
    pub fn new(stream: &Stream, case: &Case) -> Result<Self> {
        let (shape, density) = (case.shape, case.density.unwrap_or(1.0));
        let formula = |plan, settings| Self { plan, settings, source: Source::Formula };
        let mut planner = match case.method {
            Method::S2 => {
                let small = S2Config { local_blocks: 2, vertical_stride: 4, ..S2Config::default() };
                let config = if case.small { small } else { S2Config::default() };
                let settings = format!("local {}, stride {}", config.local_blocks, config.vertical_stride);
                formula(config.plan(&shape)?, settings)
            }
            Method::Blocks => Self::mask(stream, &shape, density)?,
            Method::Seer if case.pass == Pass::Decode => Self::token(stream, &shape, density)?,
            Method::Seer => Self::gate(stream, &shape, density)?,
            Method::Dense | Method::Hyper => formula(BlockPlan::dense(), "every key".into()),
        };
        planner.fill(stream)?;
        Ok(planner)
    }

    /// Whether each step has to fill the plan.
    pub fn is_dynamic(&self) -> bool {
        !matches!(self.source, Source::Formula)
    }

    /// Fills the plan from the data.
    pub fn fill(&mut self, stream: &Stream) -> lacuna::Result<()> {
        match &mut self.source {
            Source::Formula => Ok(()),
            Source::Mask(mask) => self.plan.set_mask(stream, mask.view()),
            Source::Gate(gate) => {
                let Gate { gate, options, shape, q, k, workspace } = gate.as_mut();
                let (q, k) = (q.view(), k.view());
                gate.select_into(stream, shape, &Mask::CAUSAL, q, k, options, &mut self.plan, workspace)
            }
            Source::Token(token) => {
                let Token { gate, cache, options, shape, q, key, starts, ones, pooling, workspace } = token.as_mut();
                gate.append(stream, cache, key.view(), Span::Ragged { starts, lens: ones }, true, pooling)?;
                gate.select_into(stream, shape, None, q.view(), cache, options, &mut self.plan, workspace)
            }
        }
    }

    /// Random blocks, a list for each KV head: each block with the same chance, and each row's newest one.
    fn mask(stream: &Stream, shape: &AttentionShape, density: f64) -> Result<Self> {
        let (rows, blocks) = (shape.q_len.div_ceil(BLOCK), shape.kv_len.div_ceil(BLOCK));
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut chance = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut mask = Vec::with_capacity(shape.kv_heads * rows * blocks);
        for row in (0..shape.kv_heads).flat_map(|_| 0..rows) {
            let newest = blocks - rows + row;
            mask.extend((0..blocks).map(|block| u8::from(block == newest || chance() < density)));
        }
        let picked = mask.iter().filter(|&&bit| bit != 0).count();
        let dims = [1, shape.kv_heads, rows, blocks];
        let rows = ListRows { block: BlockSize::square(BLOCK), batch: 1, heads: shape.kv_heads, absolute: false };
        Ok(Self {
            plan: BlockPlan::with_capacity(stream, shape, rows, picked)?,
            settings: format!("{:.0} % of blocks at random", density * 100.0),
            source: Source::Mask(Tensor::from_slice(stream, &mask, dims)?),
        })
    }

    fn gate(stream: &Stream, shape: &AttentionShape, density: f64) -> Result<Self> {
        let AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, .. } = *shape;
        let config = GateConfig { block_size: BLOCK, ..GateConfig::published(ROPE_THETA, head_dim) };
        let weights = GateWeights {
            w_k: Tensor::random(stream, [1, q_heads, config.k_pool.count() * head_dim, head_dim], 4)?,
            w_q: None,
        };
        let gate = SeerGate::new(stream, (q_heads, kv_heads, head_dim), kv_len, config, weights)?;
        let options = SelectOptions { last_rows_dense: 0, ..SelectOptions::new(Select::Density(density)) };
        let plan = gate.empty_plan(stream, shape, &Mask::CAUSAL, &options, None)?;
        let workspace = stream.alloc_bytes(gate.workspace_bytes(shape, &options))?;
        let (q, k) = (
            Tensor::random(stream, [batch, q_heads, q_len, head_dim], 5)?,
            Tensor::random(stream, [batch, kv_heads, kv_len, head_dim], 6)?,
        );
        let settings = format!("density {density}");
        let source = Source::Gate(Box::new(Gate { gate, options, shape: *shape, q, k, workspace }));
        Ok(Self { plan, settings, source })
    }

    fn token(stream: &Stream, shape: &AttentionShape, density: f64) -> Result<Self> {
        let AttentionShape { batch, q_heads, kv_heads, kv_len, head_dim, .. } = *shape;
        let config = DecodeGateConfig {
            block_size: BLOCK,
            k_pool: Pools::MAX_MIN_AVG,
            rope: Some(Rope::new(ROPE_THETA, head_dim)),
            norm_eps: 1e-6,
            compat: false,
        };
        let group = q_heads / kv_heads * head_dim;
        let weights = DecodeGateWeights {
            w_q: Tensor::random(stream, [1, kv_heads, group, head_dim], 4)?,
            w_k: Tensor::random(stream, [1, kv_heads, config.k_pool.count() * head_dim, head_dim], 5)?,
            q_norm: None,
            k_norm: None,
        };
        let gate = DecodeGate::new(stream, (q_heads, kv_heads, head_dim), kv_len, config, weights)?;
        let mut cache = gate.cache(stream, batch, kv_len)?;
        let prompt = Tensor::<bf16>::random(stream, [batch, kv_heads, kv_len, head_dim], 6)?;
        let vector = |value: usize| Tensor::vector(stream, &vec![value as i32; batch]);
        let (zeros, before) = (vector(0)?, vector(kv_len - 1)?);
        let span = Span::Ragged { starts: &zeros, lens: &before };
        let mut pooling = stream.alloc_bytes(cache.workspace_bytes(kv_len))?;
        gate.append(stream, &mut cache, prompt.view(), span, false, &mut pooling)?;
        let budget = ((density * kv_len as f64) as usize).max(BLOCK);
        let options = DecodeSelectOptions::new(Select::TokenBudget(budget));
        let plan = gate.empty_plan(stream, shape, &options, None)?;
        let token = Token {
            options,
            shape: *shape,
            q: Tensor::random(stream, [batch, q_heads, 1, head_dim], 7)?,
            key: Tensor::random(stream, [batch, kv_heads, 1, head_dim], 8)?,
            starts: before,
            ones: vector(1)?,
            pooling: stream.alloc_bytes(cache.workspace_bytes(1))?,
            workspace: stream.alloc_bytes(gate.workspace_bytes(shape))?,
            gate,
            cache,
        };
        Ok(Self { plan, settings: format!("{budget} tokens"), source: Source::Token(Box::new(token)) })
    }
}
