//! Prefill and decode steps over a growing cache.

use super::cache::KvCache;
use super::marks::DecodeMask;
use super::planner::{StepPlanner, prefill_plan};
use super::request::{Request, Tokens};
use crate::config::DecodeKeys;
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
    pub mask: Option<DecodeMask>,
    /// Decode calls.
    pub steps: Vec<Step>,
    /// Names of the kernels, in the order of their first launch.
    pub kernels: Vec<String>,
    /// Work of the prefill calls, of planning the steps, and of the decode calls; counted by the SIMT host only.
    pub work: [Work; 3],
}

/// One decode call.
pub struct Step {
    /// The new tokens of each sequence.
    pub tokens: Vec<Tokens>,
    /// The tokens of its queries, which are as many or, where other sequences have more new ones, more.
    pub rows: Vec<Tokens>,
    /// Queries a sequence.
    pub q_len: usize,
}

/// Counted work.
#[derive(Default, Clone, Copy)]
pub struct Work {
    /// Multiply-adds of matrix instructions.
    pub mma_macs: u64,
    /// Bytes that asynchronous copies moved.
    pub copy_bytes: u64,
}

impl Work {
    /// Adds what a stream counted since this was asked last.
    fn add(&mut self, stream: &Stream) {
        if let Some(Counters { mma_macs, copy_bytes, .. }) = stream.counters() {
            self.mma_macs += mma_macs;
            self.copy_bytes += copy_bytes;
        }
        stream.reset_counters();
    }
}

/// Runs a request. `stream` is used by nobody else.
pub fn run<T: Half>(
    stream: &Stream,
    request: &Request<T>,
    keys: &DecodeKeys,
    options: &ForwardOptions<'_>,
) -> Result<Outcome> {
    let shape = request.qkv.shape;
    let mut run = Run {
        stream,
        request,
        options,
        cache: KvCache::new(stream, &shape, keys.page_size)?,
        outcome: Outcome {
            out: vec![0.0; request.qkv.q.len()],
            lse: vec![f32::NEG_INFINITY; shape.batch * shape.q_heads * shape.q_len],
            mask: None,
            steps: Vec::new(),
            kernels: Vec::new(),
            work: [Work::default(); 3],
        },
    };
    let prompts: Vec<Tokens> = request.prompts.iter().map(|&prompt| 0..prompt).collect();
    run.cache.append(stream, &request.qkv.k, &request.qkv.v, &prompts)?;
    stream.reset_counters();
    if prompts.windows(2).all(|pair| pair[0] == pair[1]) {
        run.prefill(0..shape.batch)?;
    } else {
        // A forward call has one length.
        (0..shape.batch).try_for_each(|b| run.prefill(b..b + 1))?;
    }
    run.decode(keys.tokens_per_step)?;
    Ok(run.outcome)
}

struct Run<'a, T: Half> {
    stream: &'a Stream,
    request: &'a Request<T>,
    options: &'a ForwardOptions<'a>,
    cache: KvCache<T>,
    outcome: Outcome,
}

impl<T: Half> Run<'_, T> {
    /// Attention of the prompts of some sequences, all equally long, over the cache.
    fn prefill(&mut self, batch: Range<usize>) -> Result<()> {
        let Some(&prompt) = self.request.prompts.get(batch.start) else { return Ok(()) };
        let past = self.request.past();
        if prompt == past {
            return Ok(());
        }
        let whole = self.request.qkv.shape;
        let shape = AttentionShape { batch: batch.len(), q_len: prompt - past, kv_len: prompt, ..whole };
        let stream = self.stream;
        let tokens: Vec<Tokens> = batch.clone().map(|_| past..prompt).collect();
        let q = self.request.queries(&self.request.qkv.q, &tokens, batch.start, shape.q_len);
        let q = Tensor::from_slice(stream, &q, [shape.batch, shape.q_heads, shape.q_len, shape.head_dim])?;
        let mut out = Tensor::<T>::uninit(stream, q.dims())?;
        let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1])?;
        let plan = prefill_plan(stream, self.request, &shape, batch.start)?;
        let paged = self.cache.paged();
        let table = match paged {
            None => None,
            Some((table, size)) => {
                let rows = table.view().narrow(0, batch.start, batch.len())?;
                Some(PagedKv { block_table: rows.narrow(3, 0, prompt.div_ceil(size))?, page_size: size })
            }
        };
        let options = ForwardOptions { paged: table, ..*self.options };
        let [mut k, mut v] = self.cache.tensors().map(Tensor::view);
        if paged.is_none() {
            for x in [&mut k, &mut v] {
                *x = x.narrow(0, batch.start, batch.len())?.narrow(2, 0, prompt)?;
            }
        }
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
        self.outcome.work[0].add(stream);
        let name = attention::kernel(stream.device(), &shape, &options, &plan)?.name;
        if plan.has_lists() {
            self.name("mask_to_lists".to_owned());
            self.name("schedule_build".to_owned());
        }
        self.name(name);
        let (out, lse) = (out.to_vec(stream)?, lse.to_vec(stream)?);
        self.keep(&out, &lse, batch.start, shape.q_len, &tokens);
        Ok(())
    }

    /// Steps until every sequence has all its tokens.
    fn decode(&mut self, tokens_per_step: usize) -> Result<()> {
        let (stream, request) = (self.stream, self.request);
        let whole = request.qkv.shape;
        let mut planner = StepPlanner::new(stream, request)?;
        self.outcome.mask = planner.mask();
        let mut positions = request.prompts.clone();
        while positions.iter().zip(&request.lens).any(|(position, len)| position < len) {
            let next = |(b, &start): (usize, &usize)| start..planner.end_of_step(b, start, tokens_per_step);
            let tokens: Vec<Tokens> = positions.iter().enumerate().map(next).collect();
            let q_len = tokens.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
            // The keys of a sequence are counted on the device; the host knows only their maximum.
            let shape = AttentionShape { q_len, ..whole };
            self.cache.append(stream, &request.qkv.k, &request.qkv.v, &tokens)?;
            let lens: Vec<i32> = tokens.iter().map(|tokens| tokens.end as i32).collect();
            let kv_lens = Tensor::vector(stream, &lens)?;
            // Queries stand at the end of their sequence: one with fewer new tokens repeats some of its last.
            let rows: Vec<Tokens> = tokens.iter().map(|t| t.end.saturating_sub(q_len)..t.end).collect();
            let q = request.queries(&request.qkv.q, &rows, 0, q_len);
            let q = Tensor::from_slice(stream, &q, [shape.batch, shape.q_heads, q_len, shape.head_dim])?;
            stream.reset_counters();
            let plan = planner.plan(stream, &shape, &kv_lens, &tokens, &rows)?;
            self.outcome.work[1].add(stream);
            let paged = self.cache.paged();
            let table = paged.map(|(table, page_size)| PagedKv { block_table: table.view(), page_size });
            let options = ForwardOptions { paged: table, ..*self.options };
            let mut out = Tensor::<T>::uninit(stream, q.dims())?;
            let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, q_len, 1])?;
            let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&shape, plan))?;
            let [k, v] = self.cache.tensors();
            attention::decode(
                stream,
                &shape,
                &options,
                plan,
                Some(&kv_lens),
                q.view(),
                k.view(),
                v.view(),
                out.view_mut(),
                Some(lse.view_mut()),
                &mut workspace,
            )?;
            self.outcome.work[2].add(stream);
            let name = attention::decode_kernel(stream.device(), &shape, &options, plan)?.name;
            planner.kernels().iter().for_each(|name| self.name((*name).to_owned()));
            self.name(name);
            if let Some(mask) = &mut self.outcome.mask {
                planner.mark(stream, &tokens, mask)?;
            }
            let (out, lse) = (out.to_vec(stream)?, lse.to_vec(stream)?);
            self.keep(&out, &lse, 0, q_len, &tokens);
            positions = tokens.iter().map(|tokens| tokens.end).collect();
            self.outcome.steps.push(Step { tokens, rows, q_len });
        }
        Ok(())
    }

    /// Copies the rows of these tokens, the last of each sequence's `q_len` rows, to the outcome.
    fn keep(&mut self, out: &[T], lse: &[f32], first: usize, q_len: usize, tokens: &[Tokens]) {
        let (shape, past) = (self.request.qkv.shape, self.request.past());
        for (i, tokens) in tokens.iter().enumerate() {
            for (h, token) in (0..shape.q_heads).flat_map(|h| tokens.clone().map(move |token| (h, token))) {
                let from = (i * shape.q_heads + h) * q_len + q_len - (tokens.end - token);
                let to = ((first + i) * shape.q_heads + h) * shape.q_len + token - past;
                self.outcome.lse[to] = lse[from];
                let row = &out[from * shape.head_dim..][..shape.head_dim];
                let kept = &mut self.outcome.out[to * shape.head_dim..][..shape.head_dim];
                kept.iter_mut().zip(row).for_each(|(kept, x)| *kept = x.to_f32());
            }
        }
    }

    fn name(&mut self, kernel: String) {
        if !self.outcome.kernels.contains(&kernel) {
            self.outcome.kernels.push(kernel);
        }
    }
}
