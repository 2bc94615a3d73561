//! `attend --method seer` by its file contract, against the gate written out in the tests.
#![cfg(feature = "simt")]

mod support;

use serde_json::json;
use support::gate::{Rule, Sizes, pool, project, rotate, round, softmax};
use support::{Folder, Outputs, TensorBytes, f32_tensor, numbers, qkv};

/// A request.
struct Case {
    sizes: Sizes,
    q_pool: &'static [&'static str],
    k_pool: &'static [&'static str],
    /// Heads of w_k; 0: as q.
    k_weight_heads: usize,
    w_q: bool,
    /// `select` and what it means.
    select: serde_json::Value,
    rule: Rule,
    last_rows_dense: usize,
    force_diagonal: bool,
    sink_blocks: usize,
    causal: bool,
}

fn case(sizes: Sizes) -> Case {
    Case {
        sizes,
        q_pool: &["avg"],
        k_pool: &["max", "min", "avg"],
        k_weight_heads: 0,
        w_q: false,
        select: json!({"blocks": 2}),
        rule: Rule::Count(2),
        last_rows_dense: 2,
        force_diagonal: true,
        sink_blocks: 0,
        causal: true,
    }
}

fn sizes() -> Sizes {
    Sizes {
        batch: 1,
        q_heads: 4,
        kv_heads: 2,
        q_len: 300,
        kv_len: 300,
        dim: 64,
        gate_dim: 64,
        block: 32,
        theta: 10000.0,
    }
}

impl Case {
    fn k_heads(&self) -> usize {
        if self.k_weight_heads == 0 { self.sizes.q_heads } else { self.k_weight_heads }
    }

    fn tensors(&self) -> Vec<TensorBytes> {
        let s = &self.sizes;
        let mut tensors = qkv(s.batch, (s.q_heads, s.kv_heads), (s.q_len, s.kv_len), s.dim);
        let mut add = |name, dims: &[usize], scale: f32, seed| {
            let values: Vec<f32> = numbers(dims.iter().product(), seed).iter().map(|x| x * scale).collect();
            tensors.push(f32_tensor(name, dims, &values));
        };
        add("gate_q", &[s.batch, s.q_heads, s.q_len, s.dim], 2.0, 11);
        add("gate_k", &[s.batch, s.kv_heads, s.kv_len, s.dim], 2.0, 12);
        add("w_k", &[self.k_heads(), self.k_pool.len() * s.dim, s.gate_dim], 0.1, 13);
        if self.w_q {
            add("w_q", &[s.q_heads, self.q_pool.len() * s.dim, s.gate_dim], 0.2, 14);
        }
        tensors
    }

    fn config(&self) -> String {
        json!({
            "block_size": self.sizes.block, "q_pool": self.q_pool, "k_pool": self.k_pool, "select": self.select,
            "last_rows_dense": self.last_rows_dense, "force_diagonal": self.force_diagonal,
            "sink_blocks": self.sink_blocks, "rope_theta": self.sizes.theta, "causal": self.causal,
        })
        .to_string()
    }

    /// For each (sequence, head, row) the picked blocks, all of its columns, and the margin of the choice.
    fn expected(&self, tensors: &[TensorBytes]) -> Vec<(Vec<u8>, f64)> {
        let s = &self.sizes;
        let value = |name: &str| -> Vec<f64> {
            let (_, _, _, bytes) = tensors.iter().find(|tensor| tensor.0 == name).unwrap();
            bytes.as_chunks().0.iter().map(|&b| round(f32::from_le_bytes(b))).collect()
        };
        let (q, k, w_k) = (value("gate_q"), value("gate_k"), value("w_k"));
        let w_q = self.w_q.then(|| value("w_q"));
        let past = s.kv_len - s.q_len;
        let (first, blocks) = (past / s.block, s.kv_len.div_ceil(s.block));
        let mut rows = Vec::new();
        for (b, h) in (0..s.batch).flat_map(|b| (0..s.q_heads).map(move |h| (b, h))) {
            let kv = h * s.kv_heads / s.q_heads;
            let key = |t: usize| &k[((b * s.kv_heads + kv) * s.kv_len + t) * s.dim..][..s.dim];
            let query = |t: usize| &q[((b * s.q_heads + h) * s.q_len + t) * s.dim..][..s.dim];
            let k_head = h * self.k_heads() / s.q_heads;
            let size = self.k_pool.len() * s.dim * s.gate_dim;
            let k_gate: Vec<Vec<f64>> = (0..blocks)
                .map(|j| {
                    let tokens: Vec<&[f64]> = (j * s.block..((j + 1) * s.block).min(s.kv_len)).map(key).collect();
                    let projected = project(&pool(&tokens, self.k_pool), &w_k[k_head * size..][..size]);
                    rotate(&projected, j * s.block, s.theta)
                })
                .collect();
            for i in first..blocks {
                let tokens = (i * s.block).max(past)..((i + 1) * s.block).min(s.kv_len);
                let pooled = pool(&tokens.map(|t| query(t - past)).collect::<Vec<_>>(), self.q_pool);
                let projected = match &w_q {
                    None => pooled,
                    Some(w_q) => {
                        let size = self.q_pool.len() * s.dim * s.gate_dim;
                        project(&pooled, &w_q[h * size..][..size])
                    }
                };
                let q_gate = rotate(&projected, i * s.block, s.theta);
                let seen = if self.causal { i + 1 } else { blocks };
                let logit = |j: usize| {
                    let dot: f64 = q_gate.iter().zip(&k_gate[j]).map(|(a, b)| a * b).sum();
                    dot / (s.gate_dim as f64).sqrt()
                };
                let (picked, margin) = self.rule.pick(&softmax(&(0..seen).map(logit).collect::<Vec<_>>()));
                let kept = |j: usize| {
                    let forced = j < self.sink_blocks || (self.force_diagonal && j == i);
                    j < seen && (picked[j] || forced || i + self.last_rows_dense >= blocks)
                };
                rows.push(((0..blocks).map(|j| u8::from(kept(j))).collect(), margin));
            }
        }
        rows
    }

    /// Runs the request and compares the mask; rows that are all but tied are left out, which are few.
    #[track_caller]
    fn run(&self) -> Outputs {
        let folder = Folder::new();
        let tensors = self.tensors();
        folder.write_tensors("in.safetensors", &tensors);
        let run = folder.attend("seer", &self.config(), &["--check"]).succeeded();
        assert!(run.stdout.contains("block_mask: as in f64"), "{}", run.stdout);
        let expected = self.expected(&tensors);
        let (s, outputs) = (&self.sizes, folder.outputs());
        let rows = expected.len() / (s.batch * s.q_heads);
        let blocks = s.kv_len.div_ceil(s.block);
        let got = outputs.bytes("block_mask", &[s.batch, s.q_heads, rows, blocks]);
        let mut tied = 0;
        for (r, ((mask, margin), got)) in expected.iter().zip(got.chunks_exact(blocks)).enumerate() {
            if *margin < 1e-4 {
                tied += 1;
            } else {
                assert_eq!(mask, got, "row {r}, margin {margin}");
            }
        }
        assert!(20 * tied <= expected.len(), "{tied} rows of {} are all but tied", expected.len());
        outputs
    }
}

#[test]
fn published_gate() {
    let outputs = case(sizes()).run();
    assert_eq!(outputs.names(), ["block_mask", "lse", "out"]);
    for kernel in ["gate_pool", "gate_project", "gate_select", "schedule_build"] {
        assert!(outputs.metadata["kernels"].contains(kernel), "{}", outputs.metadata["kernels"]);
    }
    // Two products of 64 wide slots over the blocks that the mask names, for all rows of their tiles.
    let blocks: u64 = outputs.bytes("block_mask", &[1, 4, 10, 10]).iter().map(|&mark| u64::from(mark)).sum();
    assert!(outputs.count("mma_macs") <= blocks * 2 * 32 * 32 * 64, "{}", outputs.count("mma_macs"));
    assert!(outputs.count("gate_launches") > 0);
}

#[test]
fn rules() {
    for (select, rule) in [
        (json!({"threshold": 0.12}), Rule::Threshold(0.12)),
        (json!({"blocks": 3}), Rule::Count(3)),
        (json!({"blocks": 100}), Rule::Count(100)),
        (json!({"top_p": 0.7}), Rule::TopP(0.7)),
        // ⌊(1 − √0.5) · 10⌋ = 2, and never less than one.
        (json!({"density": 0.5}), Rule::Count(2)),
        (json!({"density": 0.001}), Rule::Count(1)),
    ] {
        Case { select, rule, last_rows_dense: 0, ..case(sizes()) }.run();
    }
}

#[test]
fn pools_and_weights() {
    Case { q_pool: &["min", "max"], w_q: true, k_pool: &["avg"], ..case(Sizes { gate_dim: 32, ..sizes() }) }.run();
    Case { k_weight_heads: 2, w_q: true, ..case(Sizes { gate_dim: 128, ..sizes() }) }.run();
    let one_head = Sizes { kv_heads: 1, q_heads: 2, ..sizes() };
    Case { q_pool: &["max"], k_pool: &["min"], ..case(one_head) }.run();
}

#[test]
fn forced_blocks_and_shapes() {
    Case { force_diagonal: false, sink_blocks: 1, last_rows_dense: 0, ..case(sizes()) }.run();
    // Queries that start inside a block, a batch, a ragged tail.
    let chunk = Sizes { batch: 2, q_len: 70, kv_len: 213, block: 16, ..sizes() };
    Case { last_rows_dense: 1, select: json!({"blocks": 4}), rule: Rule::Count(4), ..case(chunk) }.run();
    Case { causal: false, last_rows_dense: 0, ..case(sizes()) }.run();
    // Shorter than a block, and one token.
    case(Sizes { q_len: 5, kv_len: 5, block: 128, ..sizes() }).run();
    case(Sizes { q_len: 1, kv_len: 1, ..sizes() }).run();
}

/// The published rule can leave a row without a block; here it gets zeros, not NaN.
#[test]
fn rows_without_blocks() {
    let case = Case {
        select: json!({"threshold": 1.0}),
        rule: Rule::Threshold(1.0),
        force_diagonal: false,
        last_rows_dense: 0,
        ..case(sizes())
    };
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &case.tensors());
    folder.attend("seer", &case.config(), &["--check"]).succeeded();
    let outputs = folder.outputs();
    assert_eq!(outputs.count("visited_pairs"), 0);
    assert!(outputs.f32("out", &[1, 4, 300, 64]).iter().all(|&x| x == 0.0));
    assert!(outputs.f32("lse", &[1, 4, 300]).iter().all(|&x| x == f32::NEG_INFINITY));
}

#[test]
fn shared_heads_have_one_selection() {
    let case = case(sizes());
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &case.tensors());
    let mut config: serde_json::Value = serde_json::from_str(&case.config()).unwrap();
    config["share_heads"] = json!(true);
    folder.attend("seer", &config.to_string(), &["--check"]).succeeded();
    folder.outputs().bytes("block_mask", &[1, 2, 10, 10]);
}

#[test]
fn bad_requests() {
    let folder = Folder::new();
    let good = case(sizes()).tensors();
    folder.write_tensors("in.safetensors", &good);
    let select = r#""select": {"blocks": 1}"#;
    for (config, words) in [
        ("{}", "select must have exactly one of the keys threshold, density, blocks, top_p"),
        (r#"{"select": {}}"#, "select must have exactly one"),
        (r#"{"select": {"blocks": 1, "top_p": 0.5}}"#, "select must have exactly one"),
        (r#"{"select": {"token_budget": 64}}"#, "token_budget is not a rule here"),
        (r#"{"select": {"best": 1}}"#, "unknown field `best`"),
        (r#"{"select": {"blocks": 0}}"#, "blocks must be at least 1, got 0"),
        (r#"{"select": {"blocks": -1}}"#, "select.blocks"),
        (r#"{"select": {"density": 1.5}}"#, "density must be above 0 and at most 1, got 1.5"),
        (r#"{"select": {"threshold": -0.1}}"#, "threshold must be in 0..=1"),
        (r#"{"select": 3}"#, "select"),
        (
            &format!(r#"{{{select}, "q_pool": []}}"#),
            "q_pool must name at least one of max, min, avg, each once, got none",
        ),
        (&format!(r#"{{{select}, "k_pool": ["max", "avg", "max"]}}"#), "each once, got max, avg, max"),
        (&format!(r#"{{{select}, "k_pool": ["avg", "avg"]}}"#), "k_pool must name"),
        (&format!(r#"{{{select}, "k_pool": ["sum"]}}"#), "k_pool"),
        (&format!(r#"{{{select}, "k_pool": ["max"]}}"#), "`w_k` must be [4 or 2, 64, gate dim]"),
        (&format!(r#"{{{select}, "q_pool": ["max", "avg"]}}"#), "without the tensor `w_q`, q_pool must have one entry"),
        (&format!(r#"{{{select}, "rope_theta": 0}}"#), "rope_theta must be positive"),
        (&format!(r#"{{{select}, "block_size": 48}}"#), "block_size must be one of"),
        (&format!(r#"{{{select}, "last_rows_dense": -1}}"#), "last_rows_dense"),
        (&format!(r#"{{{select}, "hidden_size": 128}}"#), "unknown field `hidden_size`"),
    ] {
        folder.attend("seer", config, &[]).failed(2, words);
    }
    let config = format!("{{{select}}}");
    let refused = |name: &'static str, dims: &[usize], words: &str| {
        let mut tensors: Vec<TensorBytes> = good.iter().filter(|tensor| tensor.0 != name).cloned().collect();
        if !dims.is_empty() {
            tensors.push(f32_tensor(name, dims, &vec![0.0; dims.iter().product()]));
        }
        folder.write_tensors("in.safetensors", &tensors);
        folder.attend("seer", &config, &[]).failed(2, words);
    };
    refused("gate_q", &[], "tensor `gate_q` is missing");
    refused("gate_q", &[1, 4, 299, 64], "tensor `gate_q` must be [1, 4, 300, 64] (as `q`), got [1, 4, 299, 64]");
    refused("gate_k", &[1, 4, 300, 64], "tensor `gate_k` must be [1, 2, 300, 64]");
    refused("w_k", &[], "tensor `w_k` is missing");
    refused("w_k", &[4, 192], "tensor `w_k` must have 3 dimensions");
    refused("w_k", &[3, 192, 64], "must be [4 or 2, 192, gate dim]");
    refused("w_k", &[4, 192, 63], "must be even and in 2..=256");
    refused("w_k", &[4, 192, 0], "must be even and in 2..=256");
    refused("w_q", &[2, 64, 64], "tensor `w_q` must be [4, 64, 64]");
    assert!(!folder.path("out.safetensors").exists());
}
