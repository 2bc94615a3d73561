//! Prefill and decode steps over a cache that grows.

use super::cache::KvCache;
use super::marks::GateMask;
use super::planner::{StepPlanner, prefill_plan};
use super::reachable::Reachable;
use super::request::{Planner, Request, Tokens};
use crate::attend::Pattern;
use crate::config::{Cache, DecodeKeys};
use crate::failure::Result;
use lacuna::{AttentionShape, Counters, ForwardOptions, Half, PagedKv, Schedule, Stream, Tensor, attention};
use std::ops::Range;

/// What a request gave.
pub struct Outcome {
    /// `[batch, q_heads, q_len, head_dim]`: values of the compute type; 0 for rows that are no token.
    pub out: Vec<f32>,
    /// `[batch, q_heads, q_len]`; -inf for rows that are no token.
    pub lse: Vec<f32>,
    /// What a gate picked.
    pub picked: Option<GateMask>,
    /// The tokens that each decode call decoded: of each sequence equally many, or none.
    pub steps: Vec<Vec<Tokens>>,
    /// Names of the kernels, in the order of their first launch.
    pub kernels: Vec<String>,
    /// Counted by the SIMT host only.
    pub work: Work,
    /// Bytes of a cache that evicts, and of one that keeps every key.
    pub cache_bytes: Option<(usize, usize)>,
}

/// What the kernels did.
#[derive(Default)]
pub struct Work {
    /// Attention of the prompts.
    pub prefill: Counters,
    /// A gate and its cache.
    pub gate: Counters,
    /// Attention of the steps.
    pub decode: Counters,
}

/// Adds what a stream counted since it was asked last.
fn count(stream: &Stream, total: &mut Counters) {
    if let Some(new) = stream.counters() {
        total.launches += new.launches;
        total.mma_macs += new.mma_macs;
        total.copy_bytes += new.copy_bytes;
    }
    stream.reset_counters();
}

/// Runs a request. `stream` is used by nobody else.
pub fn run<T: Half>(
    stream: &Stream,
    request: &Request<T>,
    keys: &DecodeKeys,
    options: &ForwardOptions<'_>,
) -> Result<Outcome> {
    let shape = request.qkv.shape;
    let outcome = Outcome {
        out: vec![0.0; request.qkv.q.len()],
        lse: vec![f32::NEG_INFINITY; shape.batch * shape.q_heads * shape.q_len],
        picked: match &request.planner {
            Planner::Pattern(_) => None,
            Planner::Gate(gate) => Some(GateMask::new(request, gate.keys.block_size)),
        },
        steps: Vec::new(),
        kernels: Vec::new(),
        work: Work::default(),
        cache_bytes: None,
    };
    if outcome.lse.is_empty() {
        return Ok(outcome);
    }
    let cache = match (&request.planner, keys.cache) {
        (Planner::Pattern(Pattern::S2(config, _)), Cache::Evict) => {
            Store::Reachable(Box::new(Reachable::new(stream, &shape, config, keys.tokens_per_step)?))
        }
        _ => Store::Full(Box::new(KvCache::new(stream, &shape, keys.page_size)?)),
    };
    let mut run = Run { stream, request, options, cache, outcome };
    let prompts: Vec<Tokens> = request.prompts.iter().map(|&prompt| 0..prompt).collect();
    let (k, v) = (request.qkv.k.as_slice(), request.qkv.v.as_slice());
    if let Store::Full(cache) = &mut run.cache {
        cache.append(stream, k, v, &prompts)?;
    }
    if prompts.windows(2).all(|pair| pair[0] == pair[1]) {
        run.prefill(0..shape.batch)?;
    } else {
        // A forward call has one length.
        (0..shape.batch).try_for_each(|b| run.prefill(b..b + 1))?;
    }
    if let Store::Reachable(cache) = &mut run.cache {
        // Prompts have attended to their own keys; only what later tokens reach is kept.
        cache.append(stream, [k, v], &prompts, 0)?;
        run.outcome.cache_bytes = Some(cache.bytes());
    }
    run.decode(keys.tokens_per_step)?;
    Ok(run.outcome)
}

/// Where keys and values are kept.
enum Store<T: Half> {
    Full(Box<KvCache<T>>),
    Reachable(Box<Reachable<T>>),
}

struct Run<'a, T: Half> {
    stream: &'a Stream,
    request: &'a Request<T>,
    options: &'a ForwardOptions<'a>,
    cache: Store<T>,
    outcome: Outcome,
}

impl<T: Half> Run<'_, T> {
    /// Attention of the prompts of some sequences, all equally long, over the cache.
    fn prefill(&mut self, batch: Range<usize>) -> Result<()> {
        let past = self.request.past();
        let prompt = self.request.prompts.get(batch.start).copied().unwrap_or(past);
        if prompt == past {
            return Ok(());
        }
        let stream = self.stream;
        let shape =
            AttentionShape { batch: batch.len(), q_len: prompt - past, kv_len: prompt, ..self.request.qkv.shape };
        let tokens = vec![past..prompt; batch.len()];
        let q = self.request.queries(&self.request.qkv.q, &tokens, batch.start, shape.q_len);
        let q = Tensor::from_slice(stream, &q, [shape.batch, shape.q_heads, shape.q_len, shape.head_dim])?;
        let mut out = Tensor::<T>::uninit(stream, q.dims())?;
        let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1])?;
        let plan = prefill_plan(stream, self.request, &shape, batch.start)?;
        let mut options = *self.options;
        let own;
        let [mut k, mut v] = match &self.cache {
            Store::Full(cache) => cache.tensors().map(Tensor::view),
            Store::Reachable(_) => {
                own = self.whole_sequences()?;
                own.each_ref().map(Tensor::view)
            }
        };
        let pages = match &self.cache {
            Store::Full(cache) => cache.paged(),
            Store::Reachable(_) => None,
        };
        if let Some((table, page_size)) = pages {
            let rows = table.view().narrow(0, batch.start, batch.len())?;
            options.paged = Some(PagedKv { block_table: rows.narrow(3, 0, prompt.div_ceil(page_size))?, page_size });
        } else {
            for x in [&mut k, &mut v] {
                *x = x.narrow(0, batch.start, batch.len())?.narrow(2, 0, prompt)?;
            }
        }
        stream.reset_counters();
        let schedule = Schedule::build(stream, &shape, &options, &plan)?;
        let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options))?;
        attention::forward(
            stream,
            &shape,
            &options,
            &plan,
            &schedule,
            q.view(),
            k,
            v,
            out.view_mut(),
            Some(lse.view_mut()),
            &mut workspace,
        )?;
        count(stream, &mut self.outcome.work.prefill);
        let kernel = attention::kernel(stream.device(), &shape, &options, &plan)?.name;
        if plan.has_lists() {
            self.name("mask_to_lists");
            self.name("schedule_build");
        }
        self.name(&kernel);
        self.keep(&out.to_vec(stream)?, &lse.to_vec(stream)?, batch.start, shape.q_len, &tokens);
        Ok(())
    }

    /// k and v of the file.
    fn whole_sequences(&self) -> Result<[Tensor<T>; 2]> {
        let AttentionShape { batch, kv_heads, kv_len, head_dim, .. } = self.request.qkv.shape;
        let tensor = |values: &[T]| Tensor::from_slice(self.stream, values, [batch, kv_heads, kv_len, head_dim]);
        Ok([tensor(&self.request.qkv.k)?, tensor(&self.request.qkv.v)?])
    }

    /// Steps until every sequence has all its tokens.
    fn decode(&mut self, tokens_per_step: usize) -> Result<()> {
        let (stream, request) = (self.stream, self.request);
        stream.reset_counters();
        let mut planner = StepPlanner::new(stream, request)?;
        count(stream, &mut self.outcome.work.gate);
        let mut positions = request.prompts.clone();
        loop {
            let next = |(b, &start): (usize, &usize)| start..planner.end_of_step(b, start, tokens_per_step);
            let mut tokens: Vec<Tokens> = positions.iter().enumerate().map(next).collect();
            let q_len = tokens.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
            if q_len == 0 {
                return Ok(());
            }
            // A sequence with fewer tokens waits for a call of its own, so that the others do not show in what a gate
            // picks for it.
            for tokens in tokens.iter_mut().filter(|tokens| tokens.len() < q_len) {
                tokens.end = tokens.start;
            }
            self.step(&mut planner, &tokens, q_len)?;
            positions.iter_mut().zip(&tokens).for_each(|(position, tokens)| *position = tokens.end);
            self.outcome.steps.push(tokens);
        }
    }

    /// Decodes `q_len` new tokens of each sequence, or none.
    fn step(&mut self, planner: &mut StepPlanner<'_, T>, tokens: &[Tokens], q_len: usize) -> Result<()> {
        let (stream, request) = (self.stream, self.request);
        // The keys of a sequence are counted on the device; the host knows only their maximum.
        let shape = AttentionShape { q_len, ..request.qkv.shape };
        let (k, v) = (request.qkv.k.as_slice(), request.qkv.v.as_slice());
        match &mut self.cache {
            Store::Full(cache) => cache.append(stream, k, v, tokens)?,
            Store::Reachable(cache) => cache.append(stream, [k, v], tokens, q_len)?,
        }
        let kv_lens: Vec<i32> = kv_lens(tokens).into_iter().map(|len| len as i32).collect();
        let kv_lens = Tensor::vector(stream, &kv_lens)?;
        let q = request.queries(&request.qkv.q, tokens, 0, q_len);
        let q = Tensor::from_slice(stream, &q, [shape.batch, shape.q_heads, q_len, shape.head_dim])?;
        let mut out = Tensor::<T>::uninit(stream, q.dims())?;
        let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, q_len, 1])?;
        stream.reset_counters();
        let plan = planner.plan(stream, &shape, &kv_lens, tokens)?;
        count(stream, &mut self.outcome.work.gate);
        let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&shape, &plan))?;
        let ([k, v], paged) = match &self.cache {
            Store::Full(cache) => {
                let pages = cache.paged();
                let paged = pages.map(|(table, page_size)| PagedKv { block_table: table.view(), page_size });
                (cache.tensors().map(Tensor::view), paged)
            }
            Store::Reachable(cache) => (cache.tensors()?, Some(cache.paged()?)),
        };
        let options = ForwardOptions { paged, ..*self.options };
        attention::decode(
            stream,
            &shape,
            &options,
            &plan,
            Some(&kv_lens),
            q.view(),
            k,
            v,
            out.view_mut(),
            Some(lse.view_mut()),
            &mut workspace,
        )?;
        count(stream, &mut self.outcome.work.decode);
        let kernel = attention::decode_kernel(stream.device(), &shape, &options, &plan)?.name;
        planner.kernels().iter().for_each(|kernel| self.name(kernel));
        self.name(&kernel);
        if let Some(picked) = &mut self.outcome.picked {
            planner.mark(stream, &plan, tokens, picked)?;
        }
        self.keep(&out.to_vec(stream)?, &lse.to_vec(stream)?, 0, q_len, tokens);
        Ok(())
    }

    /// Copies the rows of a call, `q_len` tokens of each sequence from `first` on or none, to the outcome.
    fn keep(&mut self, out: &[T], lse: &[f32], first: usize, q_len: usize, tokens: &[Tokens]) {
        let (shape, past) = (self.request.qkv.shape, self.request.past());
        for (i, tokens) in tokens.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
            for h in 0..shape.q_heads {
                let from = (i * shape.q_heads + h) * q_len;
                let to = ((first + i) * shape.q_heads + h) * shape.q_len + tokens.start - past;
                self.outcome.lse[to..to + q_len].copy_from_slice(&lse[from..from + q_len]);
                let [from, to, len] = [from, to, q_len].map(|rows| rows * shape.head_dim);
                let kept = &mut self.outcome.out[to..to + len];
                kept.iter_mut().zip(&out[from..from + len]).for_each(|(kept, x)| *kept = x.to_f32());
            }
        }
    }

    fn name(&mut self, kernel: &str) {
        if !self.outcome.kernels.iter().any(|name| name == kernel) {
            self.outcome.kernels.push(kernel.to_owned());
        }
    }
}

/// The keys of each sequence in a step; none for one without a new token, so that nothing is done for it.
pub fn kv_lens(tokens: &[Tokens]) -> Vec<usize> {
    tokens.iter().map(|tokens| if tokens.is_empty() { 0 } else { tokens.end }).collect()
}
