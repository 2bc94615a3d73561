//! `lacuna attend --method hyper` by its file contract, against the estimator written out in the test.
#![cfg(feature = "simt")]

mod support;

use half::bf16;
use safetensors::Dtype;
use support::{Folder, TensorBytes, f32_tensor, numbers, qkv};

fn i64_tensor(name: &'static str, dims: &[usize], values: &[i64]) -> TensorBytes {
    (name, Dtype::I64, dims.to_vec(), values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn f32_values(tensor: &TensorBytes) -> Vec<f32> {
    tensor.3.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// q, k and v in bf16, projections as they are.
fn inputs(tensors: &[TensorBytes]) -> [Vec<f64>; 3] {
    [0, 1, 2].map(|i| f32_values(&tensors[i]).iter().map(|&x| bf16::from_f32(x).to_f64()).collect())
}

/// The rows of one head, sorted by bucket. Gray: place of the code in a list that is built by reflection.
fn sorted(rows: &[f64], dim: usize, projections: &[f64], count: usize, gray: bool) -> Vec<usize> {
    let len = rows.len() / dim;
    let mean: Vec<f64> = (0..dim).map(|d| rows.iter().skip(d).step_by(dim).sum::<f64>() / len as f64).collect();
    let mut sequence = vec![0usize];
    for bit in 0..count {
        let mirrored: Vec<usize> = sequence.iter().rev().map(|code| code + (1 << bit)).collect();
        sequence.extend(mirrored);
    }
    let bucket = |row: usize| {
        let product = |j: usize| (0..dim).map(|d| (rows[row * dim + d] - mean[d]) * projections[d * count + j]).sum();
        let code = (0..count)
            .filter(|&j| {
                let x: f64 = product(j);
                x > 0.0
            })
            .map(|j| 1usize << j)
            .sum::<usize>();
        if gray { sequence.iter().position(|&c| c == code).unwrap() } else { sequence[code] }
    };
    let buckets: Vec<usize> = (0..len).map(bucket).collect();
    let mut order: Vec<usize> = (0..len).collect();
    order.sort_by_key(|&row| buckets[row]);
    order
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: (usize, usize),
    lens: (usize, usize),
    dim: usize,
    block: usize,
    samples: usize,
    projections: usize,
    gray: bool,
}

/// out, LSE and pairs of a call that is not causal.
fn estimate(sizes: Sizes, [q, k, v]: &[Vec<f64>; 3], p: &[f64], samples: &[i64]) -> (Vec<f64>, Vec<f64>, u64) {
    let Sizes { batch, heads, lens, dim, block, .. } = sizes;
    let (mut out, mut lse, mut pairs) = (vec![0.0; q.len()], vec![0.0; q.len() / dim], 0);
    let blocks = lens.1.div_ceil(block);
    let rows_of_block = lens.0.div_ceil(blocks);
    for (b, h) in (0..batch).flat_map(|b| (0..heads.0).map(move |h| (b, h))) {
        let (q_head, k_head) = (b * heads.0 + h, b * heads.1 + h * heads.1 / heads.0);
        let queries = &q[q_head * lens.0 * dim..][..lens.0 * dim];
        let keys = &k[k_head * lens.1 * dim..][..lens.1 * dim];
        let q_order = sorted(queries, dim, p, sizes.projections, sizes.gray);
        let k_order = sorted(keys, dim, p, sizes.projections, sizes.gray);
        for (i, &t) in q_order.iter().enumerate() {
            let own = i / rows_of_block;
            let mut seen: Vec<(usize, f64)> = (0..lens.1).filter(|j| j / block == own).map(|j| (j, 1.0)).collect();
            let others = samples[k_head * sizes.samples..][..sizes.samples].iter().map(|&s| s as usize);
            seen.extend(others.filter(|s| s / block != own).map(|s| (s, lens.1 as f64 / sizes.samples as f64)));
            pairs += seen.len() as u64;
            let dot = |key: usize| (0..dim).map(|d| queries[t * dim + d] * keys[key * dim + d]).sum::<f64>();
            let scale = 1.0 / (dim as f64).sqrt();
            let terms: Vec<(usize, f64)> =
                seen.iter().map(|&(j, weight)| (k_order[j], weight * (scale * dot(k_order[j])).exp())).collect();
            let sum: f64 = terms.iter().map(|(_, e)| e).sum();
            lse[q_head * lens.0 + t] = sum.ln();
            for (key, e) in terms {
                for d in 0..dim {
                    out[(q_head * lens.0 + t) * dim + d] += e / sum * v[(k_head * lens.1 + key) * dim + d];
                }
            }
        }
    }
    (out, lse, pairs)
}

#[test]
fn given_projections_and_samples() {
    for gray in [true, false] {
        let sizes =
            Sizes { batch: 2, heads: (4, 2), lens: (90, 130), dim: 32, block: 32, samples: 20, projections: 5, gray };
        let folder = Folder::new();
        let mut tensors = qkv(sizes.batch, sizes.heads, sizes.lens, sizes.dim);
        let p = numbers(32 * 5, 9);
        let samples: Vec<i64> = numbers(2 * 2 * 20, 11).iter().map(|x| ((x + 2.0) * 32.0) as i64).collect();
        tensors.push(f32_tensor("projections", &[32, 5], &p));
        tensors.push(i64_tensor("samples", &[2, 2, 20], &samples));
        folder.write_tensors("in.safetensors", &tensors);
        let order = if gray { "gray" } else { "compat" };
        let config = format!(
            r#"{{"causal": false, "num_projections": 5, "block_size": 32, "sample_size": 20, "min_seq_len": 16,
                 "bucket_order": "{order}"}}"#
        );
        let run = folder.attend("hyper", &config, &["--check"]).succeeded();
        assert!(run.stdout.contains("buckets: 0 of"), "{}", run.stdout);
        let p: Vec<f64> = p.iter().map(|&x| f64::from(x)).collect();
        let (out, lse, pairs) = estimate(sizes, &inputs(&tensors), &p, &samples);
        let outputs = folder.outputs();
        let got = outputs.f32("out", &[2, 4, 90, 32]);
        let error: f64 = got.iter().zip(&out).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        let size: f64 = out.iter().map(|x| x * x).sum();
        assert!(error.sqrt() <= 4e-3 * size.sqrt(), "{} of {}", error.sqrt(), size.sqrt());
        for (a, b) in outputs.f32("lse", &[2, 4, 90]).iter().zip(&lse) {
            assert!((f64::from(*a) - b).abs() <= 1e-4 * b.abs().max(1.0), "{a} against {b}");
        }
        assert_eq!(outputs.count("visited_pairs"), pairs);
        assert_eq!(outputs.names(), ["lse", "out"]);
        assert_eq!(outputs.metadata["kernels"], "hyper_plan,sm80_gather_d32_bf16");
        // Without the keys the tensors say how many there are.
        let bits = std::fs::read(folder.path("out.safetensors")).unwrap();
        let config = format!(
            r#"{{"causal": false, "block_size": 32, "min_seq_len": 16, "bucket_order": "{order}", "seed": 5}}"#
        );
        folder.attend("hyper", &config, &[]).succeeded();
        assert_eq!(std::fs::read(folder.path("out.safetensors")).unwrap(), bits);
    }
}

#[test]
fn causal_and_drawn_from_the_seed() {
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &qkv(1, (4, 2), (201, 201), 64));
    let run = |seed: u64| {
        let config =
            format!(r#"{{"block_size": 16, "sample_size": 24, "min_seq_len": 32, "seed": {seed}, "dtype": "f16"}}"#);
        let run = folder.attend("hyper", &config, &["--check"]).succeeded();
        assert!(run.stdout.contains("buckets: 0 of"), "{}", run.stdout);
        std::fs::read(folder.path("out.safetensors")).unwrap()
    };
    let first = run(0);
    assert_eq!(run(0), first);
    assert_ne!(run(1), first);
    let outputs = folder.outputs();
    assert_eq!(outputs.metadata["kernels"], "hyper_plan,sm80_gather_d64_f16,sm80_gather_leaf_d64_f16");
    // 201 tokens become halves of 101 and 100, and leaves of 51 and 50.
    let triangle = |n: u64| n * (n + 1) / 2;
    let leaves = triangle(51) + 3 * triangle(50);
    let levels = outputs.count("visited_pairs") / 4 - leaves;
    assert!(levels > (100 + 50 + 50) * 5 && levels < (100 + 50 + 50) * 40, "{levels}");
}

/// `--check` draws the samples on the host.
#[test]
fn samplings() {
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &qkv(1, (4, 2), (170, 170), 64));
    let run = |sampling: &str, samples: usize, causal: bool| {
        let config = format!(
            r#"{{"causal": {causal}, "block_size": 16, "sample_size": {samples}, "min_seq_len": 16, {sampling}
                 "seed": 3}}"#
        );
        folder.attend("hyper", &config, &["--check"]).succeeded();
        folder.outputs()
    };
    for causal in [true, false] {
        let outputs = ["uniform", "distinct", "stratified", "values"]
            .map(|sampling| run(&format!(r#""sampling": "{sampling}","#), 24, causal).tensors["out"].clone());
        assert_eq!(run("", 24, causal).tensors["out"], outputs[0]);
        for (i, out) in outputs.iter().enumerate() {
            assert!(outputs[..i].iter().all(|other| other != out), "{i}");
        }
    }
    // The newest keys of a causal call, attended exactly.
    let local = |window: usize| run(&format!(r#""local_window": {window},"#), 24, true).tensors["out"].clone();
    assert!(local(0) != local(5) && local(5) != local(7));
    for causal in [true, false] {
        let [aligned, default] =
            [r#""align_windows": true,"#, ""].map(|keys| run(keys, 24, causal).tensors["out"].clone());
        assert_ne!(aligned, default);
    }
    for causal in [true, false] {
        let outputs =
            [1, 2, 3].map(|rounds| run(&format!(r#""rounds": {rounds},"#), 24, causal).tensors["out"].clone());
        assert!(outputs[0] != outputs[1] && outputs[1] != outputs[2]);
    }
    // Sinks for every key: nothing is left to draw.
    let sinks = |sinks: usize| run(&format!(r#""sinks": {sinks},"#), 24, false).f32("lse", &[1, 4, 170]);
    let all_sinks = sinks(170);
    let few_sinks = sinks(3);
    // Every key once, with the weight 1.
    folder.attend("dense", r#"{"causal": false}"#, &[]).succeeded();
    let exact = folder.outputs().f32("lse", &[1, 4, 170]);
    let is_exact = |lse: &[f32]| lse.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(is_exact(&all_sinks) && !is_exact(&few_sinks));
    for sampling in ["distinct", "stratified"] {
        let lse = run(&format!(r#""sampling": "{sampling}","#), 170, false).f32("lse", &[1, 4, 170]);
        assert!(is_exact(&lse), "{sampling}");
    }
}

#[test]
fn short_calls_are_exact() {
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &qkv(1, (2, 1), (100, 130), 64));
    for causal in [true, false] {
        let config = format!(r#"{{"causal": {causal}}}"#);
        folder.attend("dense", &config, &[]).succeeded();
        let dense = folder.outputs();
        folder.attend("hyper", &config, &["--check"]).succeeded();
        let hyper = folder.outputs();
        assert_eq!(hyper.tensors["out"], dense.tensors["out"]);
        assert_eq!(hyper.tensors["lse"], dense.tensors["lse"]);
        for key in ["visited_pairs", "density", "mma_macs"] {
            assert_eq!(hyper.metadata[key], dense.metadata[key], "{key}");
        }
    }
}

#[test]
fn empty_calls() {
    let folder = Folder::new();
    for (batch, lens) in [(0, (5, 5)), (0, (5000, 5000)), (1, (0, 7)), (2, (5000, 0))] {
        folder.write_tensors("in.safetensors", &qkv(batch, (2, 1), lens, 64));
        folder.attend("hyper", r#"{"causal": false}"#, &["--check"]).succeeded();
        let outputs = folder.outputs();
        assert!(outputs.f32("out", &[batch, 2, lens.0, 64]).iter().all(|&x| x == 0.0));
        assert_eq!(outputs.count("visited_pairs"), 0);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = Folder::new();
    let with = |tensor: TensorBytes| {
        let mut tensors = qkv(1, (2, 1), (64, 64), 32);
        tensors.push(tensor);
        folder.write_tensors("in.safetensors", &tensors);
    };
    let refused = |config: &str, words: &str| folder.attend("hyper", config, &[]).failed(2, words);
    let open = r#"{"causal": false}"#;
    with(i64_tensor("samples", &[1, 1, 2], &[3, 64]));
    refused(open, "tensor `samples` must hold places in 0..64, got 64");
    refused("{}", "tensor `samples` must hold places in 0..64, got 64");
    with(i64_tensor("samples", &[1, 1, 2], &[3, -1]));
    refused(open, "got -1");
    with(i64_tensor("samples", &[1, 1, 2], &[3, 4]));
    refused("{}", "tensor `samples` fits no causal call");
    refused(r#"{"causal": false, "sinks": 4}"#, "tensor `samples` is given, so `sinks` must be absent or 0, got 4");
    refused(r#"{"causal": false, "local_window": 4}"#, "HyperAttention with a local_window of 4 that is not causal");
    let both = r#"{"causal": false, "sampling": "distinct"}"#;
    refused(both, "tensor `samples` is given, so `sampling` must be absent or \"uniform\", got \"distinct\"");
    refused(r#"{"causal": false, "sample_size": 3}"#, "tensor `samples` has 2, but sample_size is 3");
    with(i64_tensor("samples", &[1, 2, 2], &[3, 4, 5, 6]));
    refused(open, "tensor `samples` must be [1, 1, samples], got [1, 2, 2]");
    with(f32_tensor("samples", &[1, 1, 2], &[3.0, 4.0]));
    refused(open, "tensor `samples` must be I64");
    with(f32_tensor("projections", &[16, 2], &[0.0; 32]));
    refused(open, "tensor `projections` must be [32, 1..=16], got [16, 2]");
    with(f32_tensor("projections", &[32, 2], &[0.0; 64]));
    refused(r#"{"num_projections": 3}"#, "tensor `projections` has 2, but num_projections is 3");
    with(i64_tensor("projections", &[32, 1], &[0; 32]));
    refused(open, "tensor `projections` must be F16, BF16 or F32");
    folder.write_tensors("in.safetensors", &qkv(1, (2, 1), (60, 64), 32));
    refused(r#"{"min_seq_len": 16}"#, "causal HyperAttention of 60 queries over 64 keys");
}
