//! `lacuna attend` by its file contract, against attention written out in the test.
#![cfg(feature = "simt")]

mod support;

use half::{bf16, f16};
use safetensors::Dtype;
use support::{Folder, TensorBytes, f32_tensor, numbers, qkv};

/// Sizes and pattern of a naive attention; `keep(b, h, query position, key)` is asked before the causal mask.
struct Naive<'a> {
    batch: usize,
    heads: (usize, usize),
    lens: (usize, usize),
    dim: usize,
    causal: bool,
    scale: f64,
    keep: &'a dyn Fn(usize, usize, usize, usize) -> bool,
}

impl Naive<'_> {
    /// out, lse and visited pairs from values as they are in the compute type.
    fn run(&self, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>, u64) {
        let Self { batch, heads, lens, dim, .. } = *self;
        let (mut out, mut lse, mut pairs) = (Vec::new(), Vec::new(), 0);
        for (b, h) in (0..batch).flat_map(|b| (0..heads.0).map(move |h| (b, h))) {
            let kv = (b * heads.1 + h * heads.1 / heads.0) * lens.1 * dim;
            for t in 0..lens.0 {
                let position = (t + lens.1).wrapping_sub(lens.0);
                let query = &q[((b * heads.0 + h) * lens.0 + t) * dim..][..dim];
                let visible: Vec<usize> = (0..lens.1)
                    .filter(|&j| (!self.causal || j <= position) && (self.keep)(b, h, position, j))
                    .collect();
                pairs += visible.len() as u64;
                let logit =
                    |&j: &usize| self.scale * query.iter().zip(&k[kv + j * dim..]).map(|(a, b)| a * b).sum::<f64>();
                let logits: Vec<f64> = visible.iter().map(logit).collect();
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
                lse.push(if visible.is_empty() { f64::NEG_INFINITY } else { max + sum.ln() });
                let mut row = vec![0.0; dim];
                for (logit, j) in logits.iter().zip(&visible) {
                    let p = (logit - max).exp() / sum;
                    row.iter_mut().zip(&v[kv + j * dim..]).for_each(|(o, v)| *o += p * v);
                }
                out.extend(row);
            }
        }
        (out, lse, pairs)
    }

    /// Runs the tensors of `in.safetensors` as the contract says and compares with what `attend` wrote.
    #[track_caller]
    fn compare(&self, folder: &Folder, tensors: &[TensorBytes], round: fn(f32) -> f64) {
        let values = |i: usize| -> Vec<f64> {
            let (_, dtype, _, bytes) = &tensors[i];
            match dtype {
                Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| round(f32::from_le_bytes(b))).collect(),
                Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| round(f16::from_le_bytes(b).to_f32())).collect(),
                _ => bytes.as_chunks().0.iter().map(|&b| round(bf16::from_le_bytes(b).to_f32())).collect(),
            }
        };
        let (out, lse, pairs) = self.run(&values(0), &values(1), &values(2));
        let got = folder.outputs();
        let got_out = got.f32("out", &[self.batch, self.heads.0, self.lens.0, self.dim]);
        let got_lse = got.f32("lse", &[self.batch, self.heads.0, self.lens.0]);
        let norm = |x: f64| x * x;
        let error: f64 = got_out.iter().zip(&out).map(|(a, b)| norm(f64::from(*a) - b)).sum();
        let size: f64 = out.iter().map(|&x| norm(x)).sum();
        assert!(error.sqrt() <= 4e-3 * size.sqrt(), "out: {} of {}", error.sqrt(), size.sqrt());
        for (i, (a, b)) in got_lse.iter().zip(&lse).enumerate() {
            let same = f64::from(*a) == *b || (f64::from(*a) - b).abs() <= 1e-4 * b.abs().max(1.0);
            assert!(same, "lse {i}: {a} against {b}");
        }
        assert!(got_out.iter().all(|&x| f64::from(x) == round(x)), "out holds values of the compute type");
        assert_eq!(got.count("visited_pairs"), pairs);
    }
}

fn to_bf16(x: f32) -> f64 {
    bf16::from_f32(x).into()
}

fn to_f16(x: f32) -> f64 {
    f16::from_f32(x).into()
}

#[test]
fn dense_with_defaults() {
    let folder = Folder::new();
    let tensors = qkv(2, (4, 2), (70, 100), 64);
    folder.write_tensors("in.safetensors", &tensors);
    folder
        .lacuna(&["attend", "--method", "dense", "--input", "in.safetensors", "--output", "out.safetensors"])
        .succeeded();
    let naive = Naive {
        batch: 2,
        heads: (4, 2),
        lens: (70, 100),
        dim: 64,
        causal: true,
        scale: 0.125,
        keep: &|_, _, _, _| true,
    };
    naive.compare(&folder, &tensors, to_bf16);
    let outputs = folder.outputs();
    assert_eq!(outputs.names(), ["lse", "out"]);
    assert_eq!(outputs.metadata["dtype"], "bf16");
    assert_eq!(folder.names(), ["in.safetensors", "out.safetensors"]);
}

#[test]
fn types_scale_and_full_mask() {
    let folder = Folder::new();
    let mut tensors = qkv(1, (3, 1), (33, 20), 128);
    // f16 and bf16 on file, rounded to f16.
    for (i, dtype) in [(0, Dtype::F16), (1, Dtype::BF16)] {
        let (_, kind, dims, bytes) = &mut tensors[i];
        let values = numbers(dims.iter().product(), 9 + i as u64);
        *kind = dtype;
        *bytes = match dtype {
            Dtype::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        };
    }
    folder.write_tensors("in.safetensors", &tensors);
    folder.attend("dense", r#"{"causal": false, "scale": 0.25, "dtype": "f16"}"#, &["--check"]).succeeded();
    let naive = Naive {
        batch: 1,
        heads: (3, 1),
        lens: (33, 20),
        dim: 128,
        causal: false,
        scale: 0.25,
        keep: &|_, _, _, _| true,
    };
    naive.compare(&folder, &tensors, to_f16);
}

#[test]
fn blocks_with_empty_rows() {
    let folder = Folder::new();
    let (batch, heads, lens, dim) = (2, (4, 2), (50usize, 90usize), 64);
    let mut tensors = qkv(batch, heads, lens, dim);
    let (rows, columns) = (lens.0.div_ceil(16), lens.1.div_ceil(32));
    // Row 1 of every head is empty; any non-zero byte marks a block.
    let mark = |b: usize, p: usize, r: usize, j: usize| {
        if r != 1 && (b + 2 * p + 3 * r + j).is_multiple_of(3) { 7 } else { 0 }
    };
    let all = (0..batch).flat_map(|b| (0..2).map(move |p| (b, p)));
    let data = all
        .flat_map(|(b, p)| (0..rows).flat_map(move |r| (0..columns).map(move |j| mark(b, p, r, j))))
        .collect::<Vec<u8>>();
    tensors.push(("block_mask", Dtype::U8, vec![batch, 2, rows, columns], data.clone()));
    folder.write_tensors("in.safetensors", &tensors);
    let run = folder.attend("blocks", r#"{"block_q": 16, "block_k": 32}"#, &["--check"]).succeeded();
    assert!(run.stdout.contains("block_mask: 0 of"), "{}", run.stdout);
    let past = lens.1 - lens.0;
    let keep = |b: usize, h: usize, position: usize, j: usize| mark(b, h / 2, (position - past) / 16, j / 32) != 0;
    Naive { batch, heads, lens, dim, causal: true, scale: 0.125, keep: &keep }.compare(&folder, &tensors, to_bf16);
    let outputs = folder.outputs();
    assert!(outputs.metadata["kernels"].contains("mask_to_lists"));
    // Causal calls return blocks with a visible pair, as 0 or 1.
    let returned = outputs.bytes("block_mask", &[batch, 2, rows, columns]);
    for (i, (&got, &given)) in returned.iter().zip(&data).enumerate() {
        let (r, j) = (i / columns % rows, i % columns);
        let visible = j * 32 < past + (16 * (r + 1)).min(lens.0);
        assert_eq!(got, u8::from(given != 0 && visible), "row {r}, column {j}");
    }
}

#[test]
fn shared_block_masks_are_returned_for_each_sequence() {
    let folder = Folder::new();
    let mut tensors = qkv(3, (4, 2), (64, 64), 64);
    tensors.push(("block_mask", Dtype::U8, vec![1, 1, 1, 1], vec![1]));
    folder.write_tensors("in.safetensors", &tensors);
    folder.attend("blocks", "{}", &[]).succeeded();
    assert_eq!(folder.outputs().bytes("block_mask", &[3, 1, 1, 1]), [1, 1, 1]);
}

/// The published formula: `step` from the query heads, the last KV heads dense, absolute positions.
#[test]
fn s2_mask_and_output() {
    let folder = Folder::new();
    // 40 queries at positions 85 .. 124: absolute blocks 2 (partly), 3.
    let (batch, heads, lens, dim) = (1, (4, 2), (90, 205), 64);
    let tensors = qkv(batch, heads, lens, dim);
    folder.write_tensors("in.safetensors", &tensors);
    let config = r#"{"block_size": 16, "local_blocks": 2, "vertical_stride": 8, "head_sliding_offset": 1, "num_dense_kv_heads": 1}"#;
    folder.attend("s2", config, &["--check"]).succeeded();
    let keep_block =
        |p: usize, i: usize, j: usize| j <= i && (p == 1 || i - j < 2 || (j + p * 2 + 1).is_multiple_of(8));
    let keep = |_: usize, h: usize, position: usize, j: usize| keep_block(h / 2, position / 16, j / 16);
    Naive { batch, heads, lens, dim, causal: true, scale: 0.125, keep: &keep }.compare(&folder, &tensors, to_bf16);
    let (first, last) = ((lens.1 - lens.0) / 16, (lens.1 - 1) / 16);
    let expected: Vec<u8> = (0..2)
        .flat_map(|p| (first..=last).flat_map(move |i| (0..=last).map(move |j| u8::from(keep_block(p, i, j)))))
        .collect();
    assert_eq!(folder.outputs().bytes("block_mask", &[1, 2, last - first + 1, last + 1]), expected);
}

/// Without causality the window has two sides; columns count from the first key, or from the window of each query.
#[test]
fn s2_that_is_not_causal() {
    let folder = Folder::new();
    let (batch, heads, lens, dim) = (1, (4, 2), (200, 200), 64);
    let tensors = qkv(batch, heads, lens, dim);
    folder.write_tensors("in.safetensors", &tensors);
    let check = |config: &str, keep_block: &dyn Fn(usize, usize, usize) -> bool| {
        folder.attend("s2", config, &["--check"]).succeeded();
        let keep = |_: usize, h: usize, position: usize, j: usize| keep_block(h / 2, position / 16, j / 16);
        Naive { batch, heads, lens, dim, causal: false, scale: 0.125, keep: &keep }.compare(&folder, &tensors, to_bf16);
    };
    let window = |i: usize, j: usize, left: usize, right: usize| if j <= i { i - j < left } else { j - i < right };
    let common = r#""causal": false, "block_size": 16, "vertical_stride": 4, "head_sliding_step": 1"#;
    check(&format!(r#"{{{common}, "local_blocks": 2, "local_right": 3, "columns": "absolute"}}"#), &|p, i, j| {
        window(i, j, 2, 3) || (j + p).is_multiple_of(4)
    });
    check(&format!(r#"{{{common}, "local_blocks": 2}}"#), &|_, i, j| {
        let distance = if j <= i { (i - j + 1).saturating_sub(2) } else { (j - i + 1).saturating_sub(2) };
        window(i, j, 2, 2) || distance.is_multiple_of(4)
    });
}

#[test]
fn work_follows_the_plan() {
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &qkv(1, (2, 1), (1024, 1024), 64));
    folder.attend("dense", "{}", &[]).succeeded();
    let dense = folder.outputs();
    // Two products over the blocks of the lower triangle, diagonal blocks whole.
    let blocks = 2 * 16 * 17 / 2;
    assert_eq!(dense.count("mma_macs"), blocks * 2 * 64 * 64 * 64);
    assert_eq!(dense.count("visited_pairs"), 2 * 1024 * 1025 / 2);
    assert!(dense.count("copy_bytes") > 0);
    folder.attend("s2", r#"{"local_blocks": 2, "vertical_stride": 1000, "head_sliding_offset": 1}"#, &[]).succeeded();
    let s2 = folder.outputs();
    assert_eq!(s2.count("mma_macs"), 2 * (2 * 16 - 1) * 2 * 64 * 64 * 64);
    assert_eq!(s2.metadata["device"], "simt");
    assert!(s2.metadata["kernels"].contains("forward_d64_bf16"), "{}", s2.metadata["kernels"]);
}

#[test]
fn the_same_request_gives_the_same_bytes() {
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &qkv(1, (2, 1), (130, 130), 64));
    let run = || {
        folder.attend("s2", r#"{"local_blocks": 1}"#, &[]).succeeded();
        std::fs::read(folder.path("out.safetensors")).unwrap()
    };
    assert_eq!(run(), run());
}

#[test]
fn empty_dims_give_empty_or_zero_outputs() {
    let folder = Folder::new();
    for (batch, lens) in [(0, (5, 5)), (1, (0, 0)), (2, (0, 7)), (1, (3, 0))] {
        folder.write_tensors("in.safetensors", &qkv(batch, (2, 1), lens, 64));
        folder.attend("dense", r#"{"causal": false}"#, &["--check"]).succeeded();
        let outputs = folder.outputs();
        assert!(outputs.f32("out", &[batch, 2, lens.0, 64]).iter().all(|&x| x == 0.0));
        assert!(outputs.f32("lse", &[batch, 2, lens.0]).iter().all(|&x| x == f32::NEG_INFINITY));
        assert_eq!(outputs.count("visited_pairs"), 0);
        if lens.1 >= lens.0 {
            folder.attend("s2", "{}", &["--check"]).succeeded();
        }
    }
}

#[test]
fn large_values_stay_finite() {
    let folder = Folder::new();
    let dims = [1, 1, 64, 64];
    let big: Vec<f32> = numbers(64 * 64, 5).iter().map(|x| x * 8.0).collect();
    let tensors = [f32_tensor("q", &dims, &big), f32_tensor("k", &dims, &big), f32_tensor("v", &dims, &big)];
    folder.write_tensors("in.safetensors", &tensors);
    folder.attend("dense", r#"{"dtype": "f16"}"#, &["--check"]).succeeded();
    assert!(folder.outputs().f32("out", &dims).iter().all(|x| x.is_finite()));
}
