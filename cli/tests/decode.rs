//! `lacuna decode` by its file contract, against attention and gate written out in the tests.
#![cfg(feature = "simt")]

mod support;

use safetensors::Dtype;
use serde_json::json;
use support::gate::{Rule, norm, pool, project, rotate, round, softmax};
use support::{Folder, Outputs, TensorBytes, f32_tensor, numbers, qkv};

const BATCH: usize = 2;
const HEADS: (usize, usize) = (4, 2);
const DIM: usize = 64;

fn decode(folder: &Folder, method: &str, config: &serde_json::Value) -> Outputs {
    folder.write("config.json", config.to_string());
    let files = ["--input", "in.safetensors", "--output", "out.safetensors", "--config", "config.json"];
    let more = ["--device", "simt", "--check"];
    folder.lacuna(&[&["decode", "--method", method][..], &files, &more].concat()).succeeded();
    folder.outputs()
}

fn values(tensors: &[TensorBytes], name: &str) -> Vec<f64> {
    let (_, _, _, bytes) = tensors.iter().find(|tensor| tensor.0 == name).unwrap();
    bytes.as_chunks().0.iter().map(|&b| round(f32::from_le_bytes(b))).collect()
}

/// Compares with attention of every token over the keys for which `seen(b, h, token, key)`; tokens from the sequence's
/// length on are no tokens.
#[track_caller]
fn compare(outputs: &Outputs, tensors: &[TensorBytes], lens: [usize; BATCH], seen: &dyn Fn([usize; 4]) -> bool) {
    let (q, k, v) = (values(tensors, "q"), values(tensors, "k"), values(tensors, "v"));
    let len = q.len() / (BATCH * HEADS.0 * DIM);
    let kv_len = k.len() / (BATCH * HEADS.1 * DIM);
    let out = outputs.f32("out", &[BATCH, HEADS.0, len, DIM]);
    let lse = outputs.f32("lse", &[BATCH, HEADS.0, len]);
    let (mut error, mut size, mut pairs) = (0.0, 0.0, 0);
    for (b, h, t) in (0..BATCH).flat_map(|b| (0..HEADS.0).flat_map(move |h| (0..len).map(move |t| (b, h, t)))) {
        let row = (b * HEADS.0 + h) * len + t;
        let kv = (b * HEADS.1 + h * HEADS.1 / HEADS.0) * kv_len;
        let token = t + kv_len - len;
        let keys: Vec<usize> = (0..=token).filter(|&key| token < lens[b] && seen([b, h, token, key])).collect();
        pairs += keys.len() as u64;
        let query = &q[row * DIM..][..DIM];
        let logit = |&key: &usize| query.iter().zip(&k[(kv + key) * DIM..]).map(|(a, b)| a * b).sum::<f64>() / 8.0;
        let p = softmax(&keys.iter().map(logit).collect::<Vec<_>>());
        for d in 0..DIM {
            let expected: f64 = p.iter().zip(&keys).map(|(p, key)| p * v[(kv + key) * DIM + d]).sum();
            error += (f64::from(out[row * DIM + d]) - expected).powi(2);
            size += expected.powi(2);
        }
        if keys.is_empty() {
            assert_eq!(lse[row], f32::NEG_INFINITY);
            assert!(out[row * DIM..][..DIM].iter().all(|&x| x == 0.0));
        } else {
            let expected = keys.iter().map(|key| logit(key).exp()).sum::<f64>().ln();
            assert!((f64::from(lse[row]) - expected).abs() <= 1e-4 * expected.abs().max(1.0), "lse of row {row}");
        }
    }
    assert!(error.sqrt() <= 4e-3 * size.sqrt(), "out: {} of {}", error.sqrt(), size.sqrt());
    assert_eq!(outputs.count("visited_pairs"), pairs);
}

#[test]
fn dense_one_token_by_default() {
    let folder = Folder::new();
    let tensors = qkv(BATCH, HEADS, (100, 100), DIM);
    folder.write_tensors("in.safetensors", &tensors);
    let outputs = decode(&folder, "dense", &json!({}));
    compare(&outputs, &tensors, [100; 2], &|_| true);
    assert_eq!((outputs.names(), outputs.count("steps")), (vec!["lse", "out"], 1));
    assert_eq!(outputs.metadata["density"], "1");
}

/// However the tokens come, each sees the same keys.
#[test]
fn steps_pages_and_prompts() {
    let folder = Folder::new();
    let tensors = qkv(BATCH, HEADS, (90, 90), DIM);
    folder.write_tensors("in.safetensors", &tensors);
    let cases = [(0, 16, 0), (89, 3, 0), (90, 1, 0), (70, 1, 16), (64, 5, 32), (75, 3, 0), (60, 16, 48), (80, 1, 4096)];
    for (prompt, tokens, page) in cases {
        let config = json!({"prompt": prompt, "tokens_per_step": tokens, "page_size": page});
        let outputs = decode(&folder, "dense", &config);
        compare(&outputs, &tensors, [90; 2], &|_| true);
        assert_eq!(outputs.count("steps"), (90 - prompt as u64).div_ceil(tokens));
        assert_eq!(outputs.metadata["kernels"].contains("decode"), prompt != 90);
        let config = json!({"prompt_length": prompt, "tokens_per_step": tokens});
        let contiguous = decode(&folder, "dense", &config);
        assert_eq!(
            (&contiguous.tensors["out"], &contiguous.tensors["lse"]),
            (&outputs.tensors["out"], &outputs.tensors["lse"])
        );
    }
}

/// A prompt of nothing, of all, and of all but one token, for the methods with blocks.
#[test]
fn first_and_last_prompts() {
    let folder = Folder::new();
    let mut tensors = gate_tensors(50, 32, false);
    let data = (0..BATCH * 4 * 4).map(|i| u8::from(i % 3 != 1)).collect();
    tensors.push(("block_mask", Dtype::U8, vec![BATCH, 1, 4, 4], data));
    folder.write_tensors("in.safetensors", &tensors);
    for (prompt, tokens) in [(0, 3), (0, 16), (49, 16), (50, 1)] {
        let with = |mut keys: serde_json::Value| {
            keys["prompt"] = prompt.into();
            keys["tokens_per_step"] = tokens.into();
            keys
        };
        let s2 = with(json!({"block_size": 16, "local_blocks": 1, "vertical_stride": 2, "variant": "phi3"}));
        let kept = |h: usize, i: usize, j: usize| i == j || (j + h + 1).is_multiple_of(2);
        compare(&decode(&folder, "s2", &s2), &tensors, [50; 2], &|[_, h, token, key]| kept(h, token / 16, key / 16));
        let outputs = decode(&folder, "blocks", &with(json!({"block_q": 16, "block_k": 16})));
        compare(&outputs, &tensors, [50; 2], &|[b, _, token, key]| (b * 16 + token / 16 * 4 + key / 16) % 3 != 1);
        let outputs = decode(&folder, "seer", &with(json!({"block_size": 16, "select": {"blocks": 1}})));
        let mask = outputs.bytes("block_mask", &[BATCH, HEADS.1, 50 - prompt, 4]).to_vec();
        let read =
            |b: usize, kv: usize, token: usize, j: usize| mask[((b * 2 + kv) * (50 - prompt) + token - prompt) * 4 + j];
        compare(&outputs, &tensors, [50; 2], &|[b, h, token, key]| {
            token < prompt || read(b, h / 2, token, key / 16) != 0
        });
    }
}

#[test]
fn keys_before_the_first_query() {
    let folder = Folder::new();
    let tensors = qkv(BATCH, HEADS, (20, 90), DIM);
    folder.write_tensors("in.safetensors", &tensors);
    compare(&decode(&folder, "dense", &json!({"prompt": 70})), &tensors, [90; 2], &|_| true);
    let s2 = json!({"block_size": 16, "local_blocks": 2, "vertical_stride": 3, "prompt": 77});
    let outputs = decode(&folder, "s2", &s2);
    let kept = |h: usize, i: usize, j: usize| i - j < 2 || (j + h / 2).is_multiple_of(3);
    compare(&outputs, &tensors, [90; 2], &|[_, h, token, key]| kept(h, token / 16, key / 16));
    outputs.bytes("block_mask", &[BATCH, 2, 2, 6]);
}

#[test]
fn s2_and_blocks_give_what_attend_gives() {
    let folder = Folder::new();
    let mut tensors = qkv(BATCH, HEADS, (90, 90), DIM);
    let mark = |b: usize, p: usize, r: usize, j: usize| !(b + p + r + 2 * j).is_multiple_of(3);
    let rows = (0..BATCH).flat_map(|b| (0..2).flat_map(move |p| (0..3).map(move |r| (b, p, r))));
    let data = rows.flat_map(|(b, p, r)| (0..6).map(move |j| u8::from(mark(b, p, r, j)))).collect();
    tensors.push(("block_mask", Dtype::U8, vec![BATCH, 2, 3, 6], data));
    folder.write_tensors("in.safetensors", &tensors);
    let kept = |h: usize, i: usize, j: usize| i - j < 2 || (j + h / 2).is_multiple_of(3);
    for (tokens, page) in [(1, 0), (7, 16)] {
        let how = json!({"prompt": 37, "tokens_per_step": tokens, "page_size": page});
        let with = |mut keys: serde_json::Value| {
            keys.as_object_mut().unwrap().extend(how.as_object().unwrap().clone());
            keys
        };
        let s2 = json!({"block_size": 16, "local_blocks": 2, "vertical_stride": 3});
        let outputs = decode(&folder, "s2", &with(s2.clone()));
        compare(&outputs, &tensors, [90; 2], &|[_, h, token, key]| kept(h, token / 16, key / 16));
        let mask = outputs.bytes("block_mask", &[BATCH, 2, 6, 6]).to_vec();
        folder.attend("s2", &s2.to_string(), &[]).succeeded();
        assert_eq!(folder.outputs().bytes("block_mask", &[BATCH, 2, 6, 6]), mask);

        let outputs = decode(&folder, "blocks", &with(json!({"block_q": 32, "block_k": 16})));
        compare(&outputs, &tensors, [90; 2], &|[b, h, token, key]| mark(b, h / 2, token / 32, key / 16));
    }
}

/// A cache that keeps what can still be reached gives the bits of one that keeps everything, in less memory.
#[test]
fn s2_with_a_cache_that_evicts() {
    let folder = Folder::new();
    let mut tensors = qkv(BATCH, HEADS, (400, 400), DIM);
    folder.write_tensors("in.safetensors", &tensors);
    let same = |folder: &Folder, config: serde_json::Value| {
        let full = decode(folder, "s2", &config);
        let mut config = config;
        config["cache"] = "evict".into();
        let evicted = decode(folder, "s2", &config);
        assert_eq!(full.tensors, evicted.tensors);
        assert!(!full.metadata.contains_key("cache_bytes"));
        let bytes = (evicted.count("cache_bytes"), evicted.count("cache_full_bytes"));
        assert_eq!(bytes.1, (4 * BATCH * HEADS.1 * 400 * DIM) as u64);
        bytes.0
    };
    let config = |more: serde_json::Value| {
        let mut config = json!({"block_size": 16, "local_blocks": 3, "vertical_stride": 5, "head_sliding_step": 1});
        more.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        config
    };
    // A KV head has 4 pages of its window and at most 5 columns outside of it, of 25 blocks.
    let bytes = same(&folder, config(json!({"prompt": 130})));
    assert!(bytes < (4 * BATCH * HEADS.1 * 400 * DIM) as u64 / 2, "{bytes}");
    same(&folder, config(json!({"prompt": 0, "tokens_per_step": 16, "page_size": 16})));
    same(&folder, config(json!({"prompt": 250, "tokens_per_step": 3, "variant": "phi3", "sink_blocks": 1})));
    same(&folder, config(json!({"prompt": 300, "num_dense_kv_heads": 1, "homogeneous": false})));
    with_lens(&mut tensors, [400, 37]);
    folder.write_tensors("in.safetensors", &tensors);
    same(&folder, config(json!({"prompt": 30, "tokens_per_step": 5})));
}

fn with_lens(tensors: &mut Vec<TensorBytes>, lens: [i64; BATCH]) {
    let bytes = lens.iter().flat_map(|len| len.to_le_bytes()).collect();
    tensors.push(("kv_lens", Dtype::I64, vec![BATCH], bytes));
}

/// Sequences of different lengths; what lies behind them in the file is nobody's business.
#[test]
fn ragged_batches() {
    let folder = Folder::new();
    let mut tensors = qkv(BATCH, HEADS, (80, 80), DIM);
    let poison = tensors[1].3.len() - 30 * DIM * 4;
    tensors[1].3[poison..].fill(0xff);
    with_lens(&mut tensors, [80, 41]);
    folder.write_tensors("in.safetensors", &tensors);
    let mut clean = tensors.clone();
    clean[1].3[poison..].fill(0);
    for (prompt, tokens, page) in [(json!(null), 1, 0), (json!(50), 3, 16), (json!(30), 4, 0)] {
        let config = json!({"prompt": prompt, "tokens_per_step": tokens, "page_size": page});
        compare(&decode(&folder, "dense", &config), &clean, [80, 41], &|_| true);
    }
    let s2 = json!({"block_size": 16, "local_blocks": 1, "vertical_stride": 2, "prompt": 30});
    let kept = |h: usize, i: usize, j: usize| i == j || (j + h / 2).is_multiple_of(2);
    let outputs = decode(&folder, "s2", &s2);
    compare(&outputs, &clean, [80, 41], &|[_, h, token, key]| kept(h, token / 16, key / 16));
    let mask = outputs.bytes("block_mask", &[BATCH, HEADS.1, 5, 5]);
    for (b, p, i, j) in (0..100).map(|at| (at / 50, at / 25 % 2, at / 5 % 5, at % 5)) {
        let seen = j <= i && i * 16 < [80, 41][b] && kept(2 * p, i, j);
        assert_eq!(mask[((b * 2 + p) * 5 + i) * 5 + j], u8::from(seen), "sequence {b}, head {p}, block {i}, {j}");
    }
    with_lens(&mut tensors, [0, 3]);
    tensors.remove(3);
    folder.write_tensors("in.safetensors", &tensors);
    compare(&decode(&folder, "dense", &json!({})), &clean, [0, 3], &|_| true);
}

/// The gate of SeerAttention-R.
struct Gate<'a> {
    tensors: &'a [TensorBytes],
    len: usize,
    block: usize,
    gate_dim: usize,
    normed: bool,
    rule: Rule,
}

impl Gate<'_> {
    /// The blocks that a token reads, and the margin of the choice.
    fn blocks(&self, b: usize, kv: usize, token: usize) -> (Vec<bool>, f64) {
        let get = |name| values(self.tensors, name);
        let (q, k, w_q, w_k) = (get("gate_q"), get("gate_k"), get("w_q"), get("w_k"));
        let group = HEADS.0 / HEADS.1;
        let weight = |w: &[f64], inputs: usize| w[kv * inputs * self.gate_dim..][..inputs * self.gate_dim].to_vec();
        // Norm weights are not rounded to the compute type.
        let normed = |x: Vec<f64>, name: &str| {
            let (_, _, _, bytes) = self.tensors.iter().find(|tensor| tensor.0 == name)?;
            let w: Vec<f64> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect();
            Some(norm(&x, &w, 1e-6))
        };
        let finish = |x: Vec<f64>, name, position| {
            let x = if self.normed { normed(x, name).unwrap() } else { x };
            rotate(&x, position, 10000.0)
        };
        let joined: Vec<f64> = (0..group)
            .flat_map(|g| q[((b * HEADS.0 + kv * group + g) * self.len + token) * DIM..][..DIM].to_vec())
            .collect();
        let q_gate = finish(project(&joined, &weight(&w_q, group * DIM)), "q_norm", token);
        let complete = token / self.block;
        let logit = |j: usize| {
            let key = |t: usize| &k[((b * HEADS.1 + kv) * self.len + t) * DIM..][..DIM];
            let rows: Vec<&[f64]> = (j * self.block..(j + 1) * self.block).map(key).collect();
            let pooled = pool(&rows, &["max", "min", "avg"]);
            let k_gate = finish(project(&pooled, &weight(&w_k, 3 * DIM)), "k_norm", j * self.block);
            q_gate.iter().zip(&k_gate).map(|(a, b)| a * b).sum::<f64>() / (self.gate_dim as f64).sqrt()
        };
        let (mut picked, margin) = self.rule.pick(&softmax(&(0..complete).map(logit).collect::<Vec<_>>()));
        picked.push(true);
        (picked, margin)
    }
}

fn gate_tensors(len: usize, gate_dim: usize, normed: bool) -> Vec<TensorBytes> {
    let mut tensors = qkv(BATCH, HEADS, (len, len), DIM);
    let mut add = |name, dims: &[usize], scale: f32, seed| {
        let values: Vec<f32> = numbers(dims.iter().product(), seed).iter().map(|x| x * scale).collect();
        tensors.push(f32_tensor(name, dims, &values));
    };
    add("gate_q", &[BATCH, HEADS.0, len, DIM], 1.0, 21);
    add("gate_k", &[BATCH, HEADS.1, len, DIM], 1.0, 22);
    add("w_q", &[HEADS.1, HEADS.0 / HEADS.1, DIM, gate_dim], 0.1, 23);
    add("w_k", &[HEADS.1, 3 * DIM, gate_dim], 0.1, 24);
    if normed {
        add("q_norm", &[gate_dim], 1.0, 25);
        add("k_norm", &[gate_dim], 1.0, 26);
    }
    tensors
}

#[test]
fn seer_gate_of_the_paper() {
    let (len, prompt) = (210, 150);
    for (gate_dim, normed, select, rule) in [
        (32, false, json!({"blocks": 3}), Rule::Count(3)),
        (128, true, json!({"token_budget": 70}), Rule::Count(4)),
        (32, true, json!({"threshold": 0.1}), Rule::Threshold(0.1)),
        (64, false, json!({"top_p": 0.6}), Rule::TopP(0.6)),
    ] {
        let folder = Folder::new();
        let mut tensors = gate_tensors(len, gate_dim, normed);
        folder.write_tensors("in.safetensors", &tensors);
        let outputs = decode(&folder, "seer", &json!({"block_size": 16, "select": select, "prompt": prompt}));
        let gate = Gate { tensors: &tensors, len, block: 16, gate_dim, normed, rule };
        let blocks = len.div_ceil(16);
        let mask = outputs.bytes("block_mask", &[BATCH, HEADS.1, len - prompt, blocks]).to_vec();
        let row = |b: usize, kv: usize, token: usize| {
            &mask[((b * 2 + kv) * (len - prompt) + token - prompt) * blocks..][..blocks]
        };
        let mut tied = 0;
        for (b, kv, token) in (0..4).flat_map(|i| (prompt..len).map(move |token| (i / 2, i % 2, token))) {
            let (picked, margin) = gate.blocks(b, kv, token);
            let expected: Vec<u8> = (0..blocks).map(|j| u8::from(picked.get(j) == Some(&true))).collect();
            if margin < 1e-4 {
                tied += 1;
            } else {
                assert_eq!(row(b, kv, token), expected, "sequence {b}, head {kv}, token {token}, {select}");
            }
        }
        assert!(tied < 12, "{tied} rows are all but tied");
        compare(&outputs, &tensors, [len; 2], &|[b, h, token, key]| {
            token < prompt || row(b, h / 2, token)[key / 16] != 0
        });
        assert!(outputs.metadata["kernels"].contains("gate_select"), "{}", outputs.metadata["kernels"]);

        // The same weight with its groups joined, in pages: the same bytes.
        let w_q = tensors.iter_mut().find(|tensor| tensor.0 == "w_q").unwrap();
        w_q.2 = vec![HEADS.1, HEADS.0 / HEADS.1 * DIM, gate_dim];
        folder.write_tensors("in.safetensors", &tensors);
        let config = json!({"block_size": 16, "select": select, "prompt": prompt, "page_size": 32});
        let paged = decode(&folder, "seer", &config);
        assert_eq!(paged.bytes("block_mask", &[BATCH, HEADS.1, len - prompt, blocks]), mask);
    }
}

/// What a sequence gives does not depend on the other one.
#[test]
fn seer_ragged() {
    let folder = Folder::new();
    let mut tensors = gate_tensors(150, 32, true);
    with_lens(&mut tensors, [150, 77]);
    folder.write_tensors("in.safetensors", &tensors);
    let config = json!({"block_size": 16, "select": {"blocks": 2}, "prompt": 60});
    let outputs = decode(&folder, "seer", &config);
    let gate = Gate { tensors: &tensors, len: 150, block: 16, gate_dim: 32, normed: true, rule: Rule::Count(2) };
    let mask = outputs.bytes("block_mask", &[BATCH, HEADS.1, 90, 10]).to_vec();
    let row = |b: usize, kv: usize, token: usize| &mask[((b * 2 + kv) * 90 + token - 60) * 10..][..10];
    for (b, len) in [(0, 150), (1, 77)] {
        for (kv, token) in (0..2).flat_map(|kv| (60..150).map(move |token| (kv, token))) {
            let (picked, margin) = gate.blocks(b, kv, token);
            let expected: Vec<u8> = (0..10).map(|j| u8::from(token < len && picked.get(j) == Some(&true))).collect();
            assert!(margin < 1e-4 || row(b, kv, token) == expected, "sequence {b}, head {kv}, token {token}");
        }
    }
    compare(&outputs, &tensors, [150, 77], &|[b, h, token, key]| token < 60 || row(b, h / 2, token)[key / 16] != 0);
}

/// One sequence of a batch.
fn alone(tensors: &[TensorBytes], b: usize) -> Vec<TensorBytes> {
    let weights = ["w_q", "w_k", "q_norm", "k_norm"];
    let part = |(name, dtype, dims, bytes): &TensorBytes| {
        if weights.contains(name) {
            return (*name, *dtype, dims.clone(), bytes.clone());
        }
        let len = bytes.len() / dims[0];
        (*name, *dtype, [&[1], &dims[1..]].concat(), bytes[b * len..(b + 1) * len].to_vec())
    };
    tensors.iter().map(part).collect()
}

/// With several tokens a step too, where their last steps have other numbers of tokens.
#[test]
fn a_sequence_gives_the_bits_that_it_gives_alone() {
    let folder = Folder::new();
    let mut tensors = gate_tensors(110, 32, true);
    with_lens(&mut tensors, [110, 93]);
    for (method, keys) in [
        ("dense", json!({})),
        ("s2", json!({"block_size": 16, "local_blocks": 1, "vertical_stride": 3})),
        ("seer", json!({"block_size": 16, "select": {"threshold": 0.15}})),
        ("seer", json!({"block_size": 16, "select": {"blocks": 2}, "compat": true, "page_size": 16})),
    ] {
        let mut config = keys.clone();
        (config["prompt"], config["tokens_per_step"]) = (70.into(), 16.into());
        folder.write_tensors("in.safetensors", &tensors);
        let both = decode(&folder, method, &config);
        for b in 0..BATCH {
            folder.write_tensors("in.safetensors", &alone(&tensors, b));
            let one = decode(&folder, method, &config);
            for name in ["out", "lse"] {
                let len = both.tensors[name].2.len() / BATCH;
                assert!(
                    one.tensors[name].2 == both.tensors[name].2[b * len..][..len],
                    "{name}, sequence {b}, {method} {keys}"
                );
            }
            if method == "seer" {
                // Alone the shorter one has fewer rows.
                let decoded = [40, 23][b];
                let alone = one.bytes("block_mask", &[1, HEADS.1, decoded, 7]).chunks(decoded * 7);
                for (kv, rows) in alone.enumerate() {
                    let mask = both.bytes("block_mask", &[BATCH, HEADS.1, 40, 7]);
                    assert_eq!(rows, &mask[(b * 2 + kv) * 280..][..decoded * 7], "sequence {b}, {keys}");
                }
            }
        }
    }
}

/// The steps read the blocks that are picked, and the gate reads each key once.
#[test]
fn work_is_that_of_the_picked_blocks() {
    let folder = Folder::new();
    let tensors = gate_tensors(1024, 64, false);
    folder.write_tensors("in.safetensors", &tensors);
    let decoded = |method: &str, config: serde_json::Value| decode(&folder, method, &config);
    // 64 keys a block, whole blocks: every step reads 4 of 16 blocks (the 3 best and its own) or all.
    let keys = |select: serde_json::Value| json!({"select": select, "prompt": 1023});
    let sparse = decoded("seer", keys(json!({"token_budget": 192})));
    let all = decoded("seer", keys(json!({"blocks": 100})));
    let dense = decoded("dense", json!({"prompt": 1023}));
    assert_eq!(4 * sparse.count("decode_mma_macs"), all.count("decode_mma_macs"));
    assert_eq!(all.count("decode_mma_macs"), dense.count("decode_mma_macs"));
    let prefill = |outputs: &Outputs| outputs.count("mma_macs") - outputs.count("decode_mma_macs");
    assert!(prefill(&sparse) == prefill(&dense) && prefill(&dense) > 0);
    // q of a step, and k of all tokens, two bytes an element.
    let elements = (HEADS.0 + HEADS.1 * 1024) * BATCH * DIM;
    assert!(sparse.count("gate_copy_bytes") >= 2 * elements as u64, "{}", sparse.metadata["gate_copy_bytes"]);
    assert_eq!(sparse.count("gate_copy_bytes"), all.count("gate_copy_bytes"));
    assert!(!dense.metadata.contains_key("gate_launches"));
}

/// Several tokens a step share one list; each still sees nothing of the future.
#[test]
fn seer_several_tokens_a_step() {
    let folder = Folder::new();
    let tensors = gate_tensors(120, 32, false);
    folder.write_tensors("in.safetensors", &tensors);
    let config = json!({"block_size": 16, "select": {"blocks": 2}, "prompt": 90, "tokens_per_step": 7});
    let outputs = decode(&folder, "seer", &config);
    let mask = outputs.bytes("block_mask", &[BATCH, HEADS.1, 30, 8]).to_vec();
    let row = |b: usize, kv: usize, token: usize| &mask[((b * 2 + kv) * 30 + token - 90) * 8..][..8];
    compare(&outputs, &tensors, [120; 2], &|[b, h, token, key]| token < 90 || row(b, h / 2, token)[key / 16] != 0);
    for token in 90..120 {
        assert_eq!(row(0, 0, token)[token / 16], 1);
        assert!(row(0, 0, token)[token / 16 + 1..].iter().all(|&mark| mark == 0));
    }
}

#[test]
fn bad_requests() {
    let folder = Folder::new();
    let good = gate_tensors(100, 32, true);
    folder.write_tensors("in.safetensors", &good);
    let refused = |method: &str, config: &str, words: &str| {
        folder.write("config.json", config);
        let files = ["--input", "in.safetensors", "--output", "out.safetensors", "--config", "config.json"];
        folder.lacuna(&[&["decode", "--method", method][..], &files].concat()).failed(2, words);
        assert!(!folder.path("out.safetensors").exists());
    };
    refused("dense", r#"{"prompt": 101}"#, "prompt must be in 0..=100 for 100 queries and 100 keys, got 101");
    refused("dense", r#"{"cache": "evict"}"#, "cache \"evict\" is for method s2");
    refused("s2", r#"{"cache": "evict", "page_size": 16}"#, "page_size must be 0 or the block_size, 64");
    refused("dense", r#"{"page_size": 8}"#, "page_size must be 0");
    refused("dense", r#"{"tokens_per_step": 17}"#, "tokens_per_step must be in 1..=16");
    refused("dense", r#"{"causal": false}"#, "causal must be true");
    refused("hyper", "{}", "method hyper is for whole prompts");
    refused("blocks", "{}", "tensor `block_mask` is missing");
    refused("seer", r#"{"share_heads": true}"#, "unknown field `share_heads`");
    refused("seer", r#"{"select": {"density": 0.5}}"#, "density is not a rule here");
    refused("seer", r#"{"select": {"token_budget": 64, "blocks": 1}}"#, "select must have exactly one");
    refused("seer", r#"{"k_pool": ["max"]}"#, "tensor `w_k` must be [2, 64, gate dim]");
    let with = |tensor: TensorBytes| {
        let mut tensors: Vec<TensorBytes> = good.iter().filter(|other| other.0 != tensor.0).cloned().collect();
        tensors.push(tensor);
        folder.write_tensors("in.safetensors", &tensors);
    };
    with(f32_tensor("w_q", &[2, 64, 32], &[0.0; 4096]));
    refused("seer", "{}", "tensor `w_q` must be [2, 128, 32]");
    with(f32_tensor("w_q", &[2, 1, 128, 32], &[0.0; 8192]));
    refused("seer", "{}", "tensor `w_q` must be [2, 2, 64, 32]");
    with(f32_tensor("q_norm", &[64], &[0.0; 64]));
    refused("seer", "{}", "tensor `q_norm` must be [32]");
    for (lens, words) in [([101, 5], "must be in 0..=100, got 101"), ([5, -1], "must be in 0..=100, got -1")] {
        with(("kv_lens", Dtype::I64, vec![2], lens.iter().flat_map(|len: &i64| len.to_le_bytes()).collect()));
        refused("dense", "{}", words);
    }
    with(("kv_lens", Dtype::I32, vec![1], vec![0; 4]));
    refused("dense", "{}", "tensor `kv_lens` must be [2] (sequences), got [1]");
    with(("kv_lens", Dtype::U8, vec![2], vec![0; 2]));
    refused("dense", "{}", "tensor `kv_lens` must be I32 or I64");
}
