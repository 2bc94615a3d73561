//! `lacuna attend --grad` by its file contract, against gradients written out in the test.
#![cfg(feature = "simt")]

mod support;

use half::bf16;
use safetensors::Dtype;
use support::{Folder, TensorBytes, f32_tensor, numbers, qkv};

const HEADS: (usize, usize) = (4, 2);
const LENS: (usize, usize) = (70, 100);
const DIM: usize = 32;

fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(bf16::from_f32(x).to_f32())).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// dq, dk, dv of causal attention over the keys that `keep(h, t, key)` leaves, one sequence.
fn gradients(inputs: [&[f64]; 4], dlse: &[f64], keep: impl Fn(usize, usize, usize) -> bool) -> [Vec<f64>; 3] {
    gradients_over(inputs, dlse, |t| 0..t + 1 + LENS.1 - LENS.0, keep)
}

fn gradients_over(
    [q, k, v, dout]: [&[f64]; 4],
    dlse: &[f64],
    range: impl Fn(usize) -> std::ops::Range<usize>,
    keep: impl Fn(usize, usize, usize) -> bool,
) -> [Vec<f64>; 3] {
    let scale = 1.0 / (DIM as f64).sqrt();
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for (h, t) in (0..HEADS.0).flat_map(|h| (0..LENS.0).map(move |t| (h, t))) {
        let row = (h * LENS.0 + t) * DIM;
        let (query, up) = (&q[row..][..DIM], &dout[row..][..DIM]);
        let key = |j: usize| ((h * HEADS.1 / HEADS.0) * LENS.1 + j) * DIM;
        let seen: Vec<usize> = range(t).filter(|&j| keep(h, t, j)).collect();
        let weights: Vec<f64> = seen.iter().map(|&j| (scale * dot(query, &k[key(j)..][..DIM])).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let dp: Vec<f64> = seen.iter().map(|&j| dot(up, &v[key(j)..][..DIM])).collect();
        let delta = dp.iter().zip(&weights).map(|(dp, w)| dp * w / sum).sum::<f64>() - dlse[h * LENS.0 + t];
        for ((&j, weight), dp) in seen.iter().zip(&weights).zip(&dp) {
            let p = weight / sum;
            let ds = scale * p * (dp - delta);
            for d in 0..DIM {
                dq[row + d] += ds * k[key(j) + d];
                dk[key(j) + d] += ds * query[d];
                dv[key(j) + d] += p * up[d];
            }
        }
    }
    [dq, dk, dv]
}

/// Compares what `attend` wrote.
#[track_caller]
fn compare(folder: &Folder, expected: &[Vec<f64>; 3]) {
    let got = folder.outputs();
    for (name, expected, rows) in [
        ("dq", &expected[0], [HEADS.0, LENS.0]),
        ("dk", &expected[1], [HEADS.1, LENS.1]),
        ("dv", &expected[2], [HEADS.1, LENS.1]),
    ] {
        let got = got.f32(name, &[1, rows[0], rows[1], DIM]);
        let error: f64 = got.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        let size: f64 = expected.iter().map(|x| x * x).sum();
        assert!(error.sqrt() <= 8e-3 * size.sqrt(), "{name}: {} of {}", error.sqrt(), size.sqrt());
    }
}

/// Tensors of the file, q, k, v and dout as the kernels take them, dlse.
fn inputs() -> (Vec<TensorBytes>, [Vec<f64>; 4], Vec<f64>) {
    let mut tensors = qkv(1, HEADS, LENS, DIM);
    let (rows, keys) = (HEADS.0 * LENS.0, HEADS.1 * LENS.1);
    // As `qkv` draws them.
    let [q, k, v] = [numbers(rows * DIM, 1), numbers(keys * DIM, 2), numbers(keys * DIM, 3)];
    let (dout, dlse) = (numbers(rows * DIM, 14), numbers(rows, 15));
    tensors.push(f32_tensor("dout", &[1, HEADS.0, LENS.0, DIM], &dout));
    tensors.push(f32_tensor("dlse", &[1, HEADS.0, LENS.0], &dlse));
    let dlse = dlse.iter().map(|&x| f64::from(x)).collect();
    (tensors, [&q, &k, &v, &dout].map(|values| rounded(values)), dlse)
}

#[test]
fn dense_with_and_without_dlse() {
    let folder = Folder::new();
    let (tensors, [q, k, v, dout], dlse) = inputs();
    folder.write_tensors("in.safetensors", &tensors);
    let run = folder.attend("dense", "{}", &["--grad", "--check"]).succeeded();
    assert!(["dq: ", "dk: ", "dv: "].iter().all(|name| run.stdout.contains(name)), "{}", run.stdout);
    compare(&folder, &gradients([&q, &k, &v, &dout], &dlse, |_, _, _| true));
    let outputs = folder.outputs();
    assert_eq!(outputs.names(), ["dk", "dq", "dv", "lse", "out"]);
    assert_eq!(outputs.metadata["backward_kernels"], "sm80_backward_query_d32_bf16,sm80_backward_key_d32_bf16");
    assert!(outputs.count("backward_mma_macs") > outputs.count("mma_macs"));
    folder.write_tensors("in.safetensors", &tensors[..4]);
    folder.attend("dense", "{}", &["--grad"]).succeeded();
    compare(&folder, &gradients([&q, &k, &v, &dout], &vec![0.0; dlse.len()], |_, _, _| true));
}

#[test]
fn blocks_and_s2() {
    let folder = Folder::new();
    let (mut tensors, [q, k, v, dout], dlse) = inputs();
    // Blocks of 32 queries of the call and 16 keys, for each query head.
    let (rows, columns) = (LENS.0.div_ceil(32), LENS.1.div_ceil(16));
    let mask: Vec<u8> = (0..HEADS.0 * rows * columns).map(|at| u8::from(at * 7 % 5 < 3)).collect();
    tensors.push(("block_mask", Dtype::U8, vec![1, HEADS.0, rows, columns], mask.clone()));
    folder.write_tensors("in.safetensors", &tensors);
    folder.attend("blocks", r#"{"block_q": 32, "block_k": 16}"#, &["--grad", "--check"]).succeeded();
    let keep = |h: usize, t: usize, j: usize| mask[(h * rows + t / 32) * columns + j / 16] != 0;
    compare(&folder, &gradients([&q, &k, &v, &dout], &dlse, keep));

    let config = r#"{"block_size": 16, "local_blocks": 2, "vertical_stride": 3, "head_sliding_step": 1}"#;
    folder.attend("s2", config, &["--grad", "--check"]).succeeded();
    let keep = |h: usize, t: usize, j: usize| {
        let (row, column) = ((t + LENS.1 - LENS.0) / 16, j / 16);
        row - column < 2 || (column + h * HEADS.1 / HEADS.0).is_multiple_of(3)
    };
    compare(&folder, &gradients([&q, &k, &v, &dout], &dlse, keep));
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = Folder::new();
    let (tensors, ..) = inputs();
    let refused = |tensors: &[TensorBytes], method: &str, words: &str| {
        folder.write_tensors("in.safetensors", tensors);
        folder.attend(method, "{}", &["--grad"]).failed(2, words);
        assert!(!folder.path("out.safetensors").exists());
    };
    refused(&tensors[..3], "dense", "tensor `dout` is missing");
    let with = |name: &'static str, dims: &[usize]| {
        let mut tensors: Vec<TensorBytes> = tensors.iter().filter(|tensor| tensor.0 != name).cloned().collect();
        tensors.push(f32_tensor(name, dims, &numbers(dims.iter().product(), 1)));
        tensors
    };
    refused(&with("dout", &[1, 4, 70, 16]), "s2", "tensor `dout` must have the shape of `q`");
    refused(&with("dlse", &[1, 4, 71]), "dense", "tensor `dlse` must be [1, 4, 70], got [1, 4, 71]");
}

/// Hashed calls against the f64 reference, and those that are exact against what stands here.
#[test]
fn hyper() {
    let folder = Folder::new();
    let (q_len, dim) = (LENS.1, DIM);
    let mut tensors = qkv(1, HEADS, (q_len, q_len), dim);
    tensors.push(f32_tensor("dout", &[1, HEADS.0, q_len, dim], &numbers(HEADS.0 * q_len * dim, 14)));
    tensors.push(f32_tensor("dlse", &[1, HEADS.0, q_len], &numbers(HEADS.0 * q_len, 15)));
    folder.write_tensors("in.safetensors", &tensors);
    let mut gradients = Vec::new();
    for causal in [true, false] {
        let config = format!(r#"{{"causal": {causal}, "min_seq_len": 20, "block_size": 16, "sample_size": 16}}"#);
        let run = folder.attend("hyper", &config, &["--grad", "--check"]).succeeded();
        assert!(["dq: ", "dk: ", "dv: "].iter().all(|name| run.stdout.contains(name)), "{}", run.stdout);
        let outputs = folder.outputs();
        let kernels = "sm80_gather_backward_query_d32_bf16,sm80_gather_backward_blocks_d32_bf16";
        assert_eq!(outputs.metadata["backward_kernels"], kernels);
        assert!(outputs.count("backward_mma_macs") > 2 * outputs.count("mma_macs"));
        gradients.push(outputs.f32("dk", &[1, HEADS.1, q_len, dim]));
    }
    assert_ne!(gradients[0], gradients[1]);

    let (tensors, [q, k, v, dout], dlse) = inputs();
    folder.write_tensors("in.safetensors", &tensors);
    let run = folder.attend("hyper", r#"{"causal": false, "min_seq_len": 1, "block_size": 100}"#, &["--grad"]);
    run.succeeded();
    let all = gradients_of_all([&q, &k, &v, &dout], &dlse);
    compare(&folder, &all);
}

/// As `gradients`, every query seeing every key.
fn gradients_of_all(inputs: [&[f64]; 4], dlse: &[f64]) -> [Vec<f64>; 3] {
    gradients_over(inputs, dlse, |_| 0..LENS.1, |_, _, _| true)
}
