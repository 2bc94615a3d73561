//! The decode gate against its definition in f64, step by step while sequences grow.

use crate::harness::streams;
use crate::seer_case::{
    AVG, Decode, Tally, decode_selection, flags, frequencies, logit_error, pools, score_error, values, wide,
};
use lacuna::reference::gate::{self, Rotation};
use lacuna::reference::{Counted, Problem};
use lacuna::seer::{DecodeGate, DecodeSelectOptions, GateCache, Select, Span};
use lacuna::{AttentionShape, DType, ForwardOptions, Stream, Tensor, attention, bf16};

/// Sequences whose prompts and steps have different lengths.
struct Run {
    gate: Decode,
    prompts: Vec<usize>,
    /// New tokens of each sequence in each step.
    steps: Vec<Vec<usize>>,
    /// Queries of a call: the newest tokens.
    q_len: usize,
    max_len: usize,
}

/// A sequence's whole q and k, `[batch, heads, max_len, head_dim]`.
struct Tokens {
    q: Vec<bf16>,
    k: Vec<bf16>,
}

impl Run {
    /// `[batch, heads, len, head_dim]` whose row `t` of sequence `b` is token `from(b, t)`; NaN where there is none.
    fn gather(
        &self,
        all: &[bf16],
        heads: usize,
        len: usize,
        from: impl Fn(usize, usize) -> Option<usize>,
    ) -> Vec<bf16> {
        let (dim, batch) = (self.gate.head_dim, self.prompts.len());
        let mut out = Vec::new();
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            for t in 0..len {
                match from(b, t) {
                    Some(token) => out.extend_from_slice(&all[((b * heads + h) * self.max_len + token) * dim..][..dim]),
                    None => out.extend(vec![bf16::NAN; dim]),
                }
            }
        }
        out
    }

    #[expect(clippy::too_many_arguments, reason = "a step has that many parts")]
    fn append(
        &self,
        stream: &Stream,
        gate: &DecodeGate<bf16>,
        cache: &mut GateCache,
        tokens: &Tokens,
        starts: &[usize],
        lens: &[usize],
        decoding: bool,
    ) {
        let longest = lens.iter().copied().max().unwrap_or(0);
        let (heads, batch) = (self.gate.heads.1, self.prompts.len());
        let k = self.gather(&tokens.k, heads, longest, |b, t| (t < lens[b]).then_some(starts[b] + t));
        let k = Tensor::from_slice(stream, &k, [batch, heads, longest, self.gate.head_dim]).unwrap();
        let (starts, lens) = (vector(stream, starts), vector(stream, lens));
        let mut workspace = stream.alloc_bytes(cache.workspace_bytes(longest)).unwrap();
        let span = Span::Ragged { starts: &starts, lens: &lens };
        gate.append(stream, cache, k.view(), span, decoding, &mut workspace).unwrap();
    }

    /// Decodes and compares each step's logits and lists. Returns the largest error of a logit.
    fn check(&self, stream: &Stream, options: &[DecodeSelectOptions], tally: &mut Tally) -> f64 {
        let (q_heads, kv_heads) = self.gate.heads;
        let (batch, head_dim, block) = (self.prompts.len(), self.gate.head_dim, self.gate.block);
        let size = batch * self.max_len * head_dim;
        let tokens = Tokens {
            q: values(size * q_heads, 3.0, self.gate.seed + 1),
            k: values(size * kv_heads, 3.0, self.gate.seed + 2),
        };
        let weights = self.gate.weights();
        let gate = self.gate.gate(stream, &weights, self.max_len);
        let mut cache = gate.cache(stream, batch, self.max_len).unwrap();
        self.append(stream, &gate, &mut cache, &tokens, &vec![0; batch], &self.prompts, false);

        let [w_q, w_k] = weights.w.each_ref().map(|w| wide(w));
        let norms = weights.norms.each_ref().map(|norm| norm.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        let (k_pools, frequencies) = (pools(self.gate.k_pool), frequencies(self.gate.gate_dim));
        let mut lens = self.prompts.clone();
        let mut worst = 0.0f64;
        for step in &self.steps {
            self.append(stream, &gate, &mut cache, &tokens, &lens, step, true);
            lens.iter_mut().zip(step).for_each(|(len, new)| *len += new);
            // Room for more than the longest sequence, as a captured step has it.
            let kv_len = (lens.iter().max().unwrap() + 40).min(self.max_len).max(self.q_len);
            let (q_len, dtype) = (self.q_len, DType::BF16);
            let shape = AttentionShape { batch, q_heads, kv_heads, q_len, kv_len, head_dim, dtype };
            let q = self.gather(&tokens.q, q_heads, q_len, |b, t| (lens[b] + t).checked_sub(q_len));
            let k = self.gather(&tokens.k, kv_heads, kv_len, |b, t| (t < lens[b]).then_some(t));
            let (wide_q, wide_k) = (wide(&q), wide(&k));
            let reference = gate::DecodeGate {
                shape,
                lens: &lens,
                block,
                gate_dim: self.gate.gate_dim,
                q: &wide_q,
                k: &wide_k,
                k_pools: &k_pools,
                w_q: &w_q,
                w_k: &w_k,
                q_norm: self.gate.norm.then_some(&norms[0][..]),
                k_norm: self.gate.norm.then_some(&norms[1][..]),
                norm_eps: 1e-6,
                rotation: self.gate.rotate.then_some(Rotation { frequencies: &frequencies, factor: 1.0 }),
                compat: self.gate.compat.then_some(&self.prompts[..]),
            };
            let expected = reference.logits().unwrap();
            let q = Tensor::from_slice(stream, &q, [batch, q_heads, q_len, head_dim]).unwrap();
            let kv_lens = vector(stream, &lens);
            // Sequences of one length need no lengths on the device, and get the same.
            let on_device = (number_of(&lens) > 1 || lens[0] != kv_len).then_some(&kv_lens);
            let logits = gate.logits(stream, &shape, on_device, q.view(), &cache).unwrap();
            let error = logit_error(&logits.to_vec(stream).unwrap(), &expected, false);
            worst = worst.max(error);
            for options in options {
                let lists = reference.lists(&decode_selection(options, block)).unwrap();
                let mut plan = gate.empty_plan(stream, &shape, options, None).unwrap();
                let mut workspace = stream.alloc_bytes(gate.workspace_bytes(&shape)).unwrap();
                gate.select_into(stream, &shape, on_device, q.view(), &cache, options, &mut plan, &mut workspace)
                    .unwrap();
                assert_eq!(plan.overflow(stream).unwrap(), 0);
                let got = flags(stream, &plan, kv_len.div_ceil(block));
                let what = (&lens, options, &self.gate);
                tally.compare(&got, &lists, score_error(error, &expected), &what);
                for (row, list) in got.iter().enumerate() {
                    let len = lens[row / kv_heads];
                    assert!(len == 0 || list[(len - 1) / block], "{what:?}");
                    assert!(list.iter().skip(len.div_ceil(block)).all(|&on| !on), "{what:?}");
                }
            }
        }
        worst
    }
}

fn vector(stream: &Stream, values: &[usize]) -> Tensor<i32> {
    Tensor::vector(stream, &values.iter().map(|&x| x as i32).collect::<Vec<_>>()).unwrap()
}

/// How many different lengths there are.
fn number_of(lens: &[usize]) -> usize {
    let mut lens = lens.to_vec();
    lens.sort_unstable();
    lens.dedup();
    lens.len()
}

fn options() -> Vec<DecodeSelectOptions> {
    let rules =
        [Select::TokenBudget(64), Select::Threshold(0.05), Select::TopP(0.7), Select::Blocks(1), Select::Blocks(4)];
    let mut all = rules.map(DecodeSelectOptions::new).to_vec();
    all.push(DecodeSelectOptions { sink_blocks: 2, ..DecodeSelectOptions::new(Select::Blocks(2)) });
    all
}

fn check(runs: &[Run], what: &str) {
    let (mut tally, mut worst) = (Tally::default(), 0.0f64);
    for (index, run) in runs.iter().enumerate() {
        for stream in streams(index as u64) {
            worst = worst.max(run.check(&stream, &options(), &mut tally));
        }
    }
    println!("{what}: largest error of a logit: {worst:.1e}");
    tally.finish(what);
}

#[test]
fn one_token_at_a_time() {
    let growing = |prompts: &[usize], steps: usize| (prompts.to_vec(), vec![vec![1; prompts.len()]; steps]);
    // Past the ends of blocks, in a batch of three lengths.
    let (prompts, steps) = growing(&[125, 3, 60], 6);
    let gate = Decode::new((4, 2), 64, 16, 32);
    let ragged = Run { gate, prompts, steps, q_len: 1, max_len: 256 };
    // From nothing on.
    let (prompts, steps) = growing(&[0, 40], 18);
    let gate = Decode { norm: false, k_pool: AVG, seed: 5, ..Decode::new((3, 1), 32, 16, 64) };
    let first = Run { gate, prompts, steps, q_len: 1, max_len: 64 };
    let (prompts, steps) = growing(&[381], 4);
    let gate = Decode { rotate: false, seed: 6, ..Decode::new((2, 2), 128, 128, 128) };
    let wide = Run { gate, prompts, steps, q_len: 1, max_len: 512 };
    check(&[ragged, first, wide], "one token at a time");
}

#[test]
fn several_tokens_at_a_time() {
    // Lists of queries that stand in two blocks; sequences that pause; shorter than the queries of a call.
    let gate = Decode { seed: 7, ..Decode::new((4, 2), 32, 16, 32) };
    let steps = vec![vec![3, 4, 1], vec![4, 0, 4], vec![2, 4, 4]];
    let four = Run { gate, prompts: vec![61, 1, 30], steps, q_len: 4, max_len: 200 };
    let gate = Decode { norm: false, seed: 8, ..Decode::new((2, 1), 64, 32, 64) };
    let sixteen =
        Run { gate, prompts: vec![200, 180], steps: vec![vec![16, 16], vec![9, 16]], q_len: 16, max_len: 300 };
    check(&[four, sixteen], "several tokens at a time");
}

/// The published code: blocks that complete while decoding are rotated at their last token, open ones score 0.
#[test]
fn compat() {
    let gate = Decode { compat: true, seed: 9, ..Decode::new((4, 2), 64, 16, 64) };
    let steps = vec![vec![1, 1]; 40];
    let run = Run { gate, prompts: vec![100, 17], steps, q_len: 1, max_len: 256 };
    check(&[run], "compat");
}

/// The two positions that a block may be rotated at are told apart: this is what `compat` is about.
#[test]
fn compat_rotates_at_the_last_token() {
    for stream in streams(4) {
        let tokens: Vec<bf16> = values(2 * 40 * 32, 3.0, 1);
        let vectors = |compat: bool, decoding: bool| {
            let decode = Decode { compat, ..Decode::new((2, 2), 32, 16, 32) };
            let gate = decode.gate(&stream, &decode.weights(), 64);
            let mut cache = gate.cache(&stream, 1, 64).unwrap();
            let k = Tensor::from_slice(&stream, &tokens, [1, 2, 40, 32]).unwrap();
            let mut workspace = stream.alloc_bytes(cache.workspace_bytes(40)).unwrap();
            for (first, len, decoding) in [(0, 20, false), (20, 20, decoding)] {
                let part = k.view().narrow(2, first, len).unwrap();
                gate.append(&stream, &mut cache, part, Span::From(first), decoding, &mut workspace).unwrap();
            }
            cache.vectors().to_vec(&stream).unwrap()
        };
        let plain = vectors(false, false);
        assert_eq!(vectors(false, true), plain);
        assert_eq!(vectors(true, false), plain);
        let last = vectors(true, true);
        // Heads of 4 blocks of 32: block 0 came with the prompt, block 1 completed later, and both have one length.
        let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>();
        for head in 0..2 {
            let block = |vectors: &[f32], j: usize| vectors[(head * 4 + j) * 32..][..32].to_vec();
            assert_eq!(block(&last, 0), block(&plain, 0));
            let (last, plain) = (block(&last, 1), block(&plain, 1));
            assert_ne!(last, plain);
            assert!((length(&last) / length(&plain) - 1.0).abs() < 1e-5);
        }
    }
}

/// A step from end to end: the cache grows, the gate picks, attention visits what was picked.
#[test]
fn attention_over_the_plan_of_a_step() {
    let (q_len, max_len, dim, block, lens) = (2, 200, 64, 16, [200usize, 97, 33]);
    for stream in streams(5) {
        let decode = Decode { seed: 11, ..Decode::new((4, 2), dim, block, 32) };
        let gate = decode.gate(&stream, &decode.weights(), max_len);
        let mut cache = gate.cache(&stream, 3, max_len).unwrap();
        let shape = AttentionShape {
            batch: 3,
            q_heads: 4,
            kv_heads: 2,
            q_len,
            kv_len: max_len,
            head_dim: dim,
            dtype: DType::BF16,
        };
        let (q_dims, kv_dims) = ([3, 4, q_len, dim], [3, 2, max_len, dim]);
        let tensor = |dims: [usize; 4], seed| {
            let values: Vec<bf16> = values(dims.iter().product(), 3.0, seed);
            (Tensor::from_slice(&stream, &values, dims).unwrap(), values)
        };
        let ((q, q_host), (k, k_host), (v, v_host)) = (tensor(q_dims, 1), tensor(kv_dims, 2), tensor(kv_dims, 3));
        let kv_lens = vector(&stream, &lens);
        let mut workspace = stream.alloc_bytes(cache.workspace_bytes(max_len)).unwrap();
        let starts = vector(&stream, &[0; 3]);
        let span = Span::Ragged { starts: &starts, lens: &kv_lens };
        gate.append(&stream, &mut cache, k.view(), span, false, &mut workspace).unwrap();
        let options = DecodeSelectOptions::new(Select::TokenBudget(48));
        let mut plan = gate.empty_plan(&stream, &shape, &options, None).unwrap();
        let mut workspace = stream.alloc_bytes(gate.workspace_bytes(&shape)).unwrap();
        let lens_on_device = Some(&kv_lens);
        gate.select_into(&stream, &shape, lens_on_device, q.view(), &cache, &options, &mut plan, &mut workspace)
            .unwrap();
        let picked = flags(&stream, &plan, max_len.div_ceil(block));

        let attention = ForwardOptions::causal();
        let mut out = Tensor::<bf16>::uninit(&stream, q_dims).unwrap();
        let mut workspace = stream.alloc_bytes(attention::decode_workspace_bytes(&shape, &plan)).unwrap();
        let (views, written) = ([q.view(), k.view(), v.view()], out.view_mut());
        let [q, k, v] = views;
        attention::decode(&stream, &shape, &attention, &plan, lens_on_device, q, k, v, written, None, &mut workspace)
            .unwrap();
        let out: Vec<f32> = out.to_vec(&stream).unwrap().iter().map(|x| x.to_f32()).collect();
        for (b, &len) in lens.iter().enumerate() {
            let keys = |values: &[bf16]| -> Vec<f64> {
                let head = |h: usize| &values[(b * 2 + h) * max_len * dim..][..len * dim];
                (0..2).flat_map(|h| wide(head(h))).collect()
            };
            let rows = 4 * q_len * dim;
            let (q, k, v) = (wide(&q_host[b * rows..][..rows]), keys(&k_host), keys(&v_host));
            let own = AttentionShape { batch: 1, kv_len: len, ..shape };
            let problem = Problem::new(own, &q, &k, &v);
            let sees = |_: usize, h: usize, t: usize, key: usize| {
                let inside = key <= len - q_len + t && picked[b * 2 + h / 2][key / block];
                f64::from(u8::from(inside))
            };
            let expected = problem.expect(&Counted { kv_len: len, count: sees }).unwrap();
            let compared = expected.out.compare(&out[b * rows..][..rows]).unwrap();
            assert!(compared.passed(), "sequence {b}: {compared}");
            // 3 blocks, and that of the queries.
            assert!(picked[b * 2..][..2].iter().all(|list| list.iter().filter(|&&on| on).count() <= 5));
        }
    }
}
