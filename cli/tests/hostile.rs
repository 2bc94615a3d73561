//! Bad requests: exit code 2, one line that says what is wrong, nothing written.
#![cfg(feature = "simt")]

mod support;

use safetensors::Dtype;
use support::{Folder, TensorBytes, f32_tensor, qkv, safetensors_bytes};

const GOOD: fn() -> Vec<TensorBytes> = || qkv(2, (4, 2), (64, 96), 64);

/// A folder with a good input, its files before and after a bad request compared.
#[track_caller]
fn refused(folder: &Folder, method: &str, config: &str, more: &[&str], words: &str) {
    folder.write("config.json", config);
    let before = folder.names();
    folder.attend(method, config, more).failed(2, words);
    assert_eq!(folder.names(), before, "{words}");
}

#[test]
fn configs() {
    let folder = Folder::new();
    let mut tensors = GOOD();
    tensors.push(("block_mask", Dtype::U8, vec![1, 1, 1, 2], vec![1, 1]));
    folder.write_tensors("in.safetensors", &tensors);
    for (method, config, words) in [
        ("dense", r#"{"block_size": 64}"#, "unknown field `block_size`"),
        ("dense", r#"{"causal": "yes"}"#, "causal: invalid type: string"),
        ("dense", r#"{"causal": null}"#, "causal"),
        ("dense", r#"{"scale": "big"}"#, "scale: invalid type"),
        ("dense", r#"{"scale": 1e39}"#, "scale must be a finite"),
        ("dense", r#"{"scale": 1e999}"#, "scale"),
        ("dense", r#"{"scale": NaN}"#, "scale"),
        ("dense", r#"{"dtype": "f32"}"#, "dtype"),
        ("dense", r#"{"dtype": 16}"#, "dtype"),
        ("dense", r#"{"causal": true, "causal": true}"#, "duplicate field `causal`"),
        ("dense", r#"{"causal": true"#, "EOF"),
        ("dense", r#"{} {}"#, "trailing characters"),
        ("dense", "[]", "expected an object"),
        ("dense", "", "expected an object"),
        ("dense", "\u{0}", "expected an object"),
        ("blocks", r#"{"block_q": 48}"#, "block_q must be one of [16, 32, 64, 128], got 48"),
        ("blocks", r#"{"block_k": 0}"#, "block_k must be one of"),
        ("blocks", r#"{"block_k": 64.0}"#, "block_k: invalid type: floating point"),
        ("blocks", r#"{"block_q": 32}"#, "block_mask"),
        ("s2", r#"{"block_size": 256}"#, "block_size must be one of"),
        ("s2", r#"{"local_blocks": -1}"#, "local_blocks: invalid value: integer `-1`"),
        ("s2", r#"{"vertical_stride": 0}"#, "vertical_stride must be at least 1"),
        ("s2", r#"{"num_dense_kv_heads": 3}"#, "num_dense_kv_heads must be at most kv_heads (2), got 3"),
        ("s2", r#"{"variant": "Phi3"}"#, "variant"),
        ("s2", r#"{"homogeneous": 1}"#, "homogeneous"),
        ("s2", r#"{"head_sliding_step": 1.5}"#, "head_sliding_step"),
        ("s2", r#"{"sink_blocks": 1e30}"#, "sink_blocks"),
        ("s2", r#"{"local_right": 2}"#, "local_right"),
        ("s2", r#"{"columns": "far"}"#, "columns"),
        ("s2", r#"{"block_q": 64}"#, "unknown field `block_q`"),
        ("hyper", r#"{"num_projections": 17}"#, "num_projections must be in 1..=16, got 17"),
        ("hyper", r#"{"block_size": 0}"#, "block_size must be at least 1, got 0"),
        ("hyper", r#"{"sample_size": 4294967296}"#, "sample_size must be in 0..=1073741824"),
        ("hyper", r#"{"bucket_order": "inverse"}"#, "bucket_order"),
        ("hyper", r#"{"lsh_num_projs": 7}"#, "unknown field `lsh_num_projs`"),
    ] {
        refused(&folder, method, config, &[], words);
    }
    refused(&folder, "dense", "{}", &["--grad"], "tensor `dout` is missing");
    refused(&folder, "dense", "{}", &["--device", "gpu"], "device must be auto, simt or cuda:N");
    refused(&folder, "dense", "{}", &["--device", "cuda:-1"], "device must be");
}

#[test]
fn tensors() {
    let heads = |q: usize, k: usize, v: usize| {
        let mut tensors = qkv(1, (q, k), (8, 8), 64);
        tensors[2] = f32_tensor("v", &[1, v, 8, 64], &vec![0.0; v * 8 * 64]);
        tensors
    };
    let with = |index: usize, tensor: TensorBytes| {
        let mut tensors = GOOD();
        tensors[index] = tensor;
        tensors
    };
    let zeros = |name, dims: &[usize]| f32_tensor(name, dims, &vec![0.0; dims.iter().product()]);
    let typed = |name, dtype, size: usize| (name, dtype, vec![2, 2, 96, 64], vec![0; 2 * 2 * 96 * 64 * size]);
    let cases: Vec<(&str, Vec<TensorBytes>)> = vec![
        ("tensor `q` is missing; the file holds nothing", vec![]),
        ("tensor `q` is missing; the file holds k, v", GOOD().split_off(1)),
        ("tensor `k` is missing", with(1, zeros("key", &[1]))),
        ("tensor `v` is missing", with(2, zeros("V", &[1]))),
        ("tensor `q` must have 4 dimensions, got [8, 64]", with(0, zeros("q", &[8, 64]))),
        ("tensor `k` must have 4 dimensions", with(1, zeros("k", &[1, 2, 2, 96, 64]))),
        ("tensor `q` must have 4 dimensions, got []", with(0, zeros("q", &[]))),
        ("tensor `k` must be F16, BF16 or F32, got F64", with(1, typed("k", Dtype::F64, 8))),
        ("tensor `v` must be F16, BF16 or F32, got U8", with(2, typed("v", Dtype::U8, 1))),
        ("tensor `k` must be F16, BF16 or F32, got I32", with(1, typed("k", Dtype::I32, 4))),
        ("tensor `v` must have the shape of `k`", with(2, zeros("v", &[2, 2, 95, 64]))),
        ("tensor `v` must have the shape of `k`", heads(4, 2, 4)),
        ("tensor `k` must be [2, kv heads, keys, 32]", with(0, zeros("q", &[2, 4, 64, 32]))),
        ("to fit q [3, 4, 64, 64]", with(0, zeros("q", &[3, 4, 64, 64]))),
        ("the heads of q must be a multiple of those of k, got 4 and 3", heads(4, 3, 3)),
        ("got 0 and 2", with(0, zeros("q", &[2, 0, 64, 64]))),
        ("got 2 and 0", heads(2, 0, 0)),
        ("got 2 and 4", heads(2, 4, 4)),
        ("q_len must be at most kv_len (96) when causal", with(0, zeros("q", &[2, 4, 97, 64]))),
        ("head_dim", qkv(1, (1, 1), (4, 4), 0)),
        ("head_dim", qkv(1, (1, 1), (4, 4), 48)),
        ("head_dim", qkv(1, (1, 1), (4, 4), 1)),
        ("head_dim", qkv(1, (1, 1), (4, 4), 512)),
    ];
    for (words, tensors) in &cases {
        let folder = Folder::new();
        folder.write_tensors("in.safetensors", tensors);
        refused(&folder, "dense", "{}", &[], words);
    }
}

#[test]
fn block_masks() {
    // Two query blocks, two key blocks, two KV heads, four query heads, two sequences.
    let mask = |dims: &[usize]| ("block_mask", Dtype::U8, dims.to_vec(), vec![1; dims.iter().product()]);
    let cases = [
        ("tensor `block_mask` is missing", ("mask", Dtype::U8, vec![1], vec![1])),
        ("tensor `block_mask` must have 4 dimensions", mask(&[1, 2])),
        ("got [3, 1, 1, 2]", mask(&[3, 1, 1, 2])),
        ("must be [1 or 2, 1 or 2 or 4, 1, 2]", mask(&[1, 3, 1, 2])),
        ("got [1, 1, 2, 2]", mask(&[1, 1, 2, 2])),
        ("got [1, 1, 1, 1]", mask(&[1, 1, 1, 1])),
        ("got [1, 1, 0, 2]", mask(&[1, 1, 0, 2])),
        ("must be U8", ("block_mask", Dtype::I64, vec![1, 1, 1, 2], vec![0; 16])),
        ("must be U8", ("block_mask", Dtype::BOOL, vec![1, 1, 1, 2], vec![0; 2])),
    ];
    for (words, tensor) in cases {
        let folder = Folder::new();
        let mut tensors = GOOD();
        tensors.push(tensor);
        folder.write_tensors("in.safetensors", &tensors);
        refused(&folder, "blocks", "{}", &[], words);
    }
}

#[test]
fn broken_files() {
    let good = safetensors_bytes(&GOOD());
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(good[8..8 + header].to_vec()).unwrap();
    let with_header =
        |text: String| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &good[8 + header..]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("seven bytes", good[..7].to_vec()),
        ("no data", good[..8 + header].to_vec()),
        ("last byte missing", good[..good.len() - 1].to_vec()),
        ("a byte too many", [&good[..], &[0]].concat()),
        ("endless header", [&u64::MAX.to_le_bytes()[..], &good[8..]].concat()),
        ("text", b"q = [1, 2, 3]".repeat(20)),
        ("huge shape", with_header(text.replace("[2,4,64,64]", "[18446744073709551615,4,64,64]"))),
        ("shape without data", with_header(text.replace("[2,4,64,64]", "[2,4,64,6400]"))),
        ("negative size", with_header(text.replace("[2,4,64,64]", "[2,4,64,-64]"))),
        ("unknown type", with_header(text.replace("\"F32\"", "\"F128\""))),
        ("header of nothing", with_header("null".to_owned())),
    ];
    for (name, bytes) in cases {
        let folder = Folder::new();
        folder.write("in.safetensors", bytes);
        eprintln!("{name}");
        refused(&folder, "dense", "{}", &[], "not a complete safetensors file");
    }
}

#[test]
fn paths() {
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &GOOD());
    folder.write("config.json", "{}");
    std::fs::create_dir(folder.path("folder")).unwrap();
    let attend = |input: &str, output: &str, config: &str| {
        let args = ["attend", "--method", "dense", "--input", input, "--output", output, "--config", config];
        folder.lacuna(&args)
    };
    let before = folder.names();
    attend("none.safetensors", "out.safetensors", "config.json").failed(2, "none.safetensors");
    attend("folder", "out.safetensors", "config.json").failed(2, "folder");
    attend("in.safetensors", "out.safetensors", "none.json").failed(2, "none.json");
    attend("in.safetensors", "out.safetensors", "folder").failed(2, "config");
    attend("in.safetensors", "in.safetensors", "config.json").failed(2, "is also an input");
    attend("in.safetensors", "./folder/../in.safetensors", "config.json").failed(2, "is also an input");
    attend("in.safetensors", "config.json", "config.json").failed(2, "is also an input");
    attend("in.safetensors", "folder", "config.json").failed(2, "not a regular file");
    attend("in.safetensors", "nowhere/out.safetensors", "config.json").failed(2, "does not exist");
    attend("in.safetensors", "", "config.json").failed(2, "");
    assert_eq!(folder.names(), before);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("in.safetensors", folder.path("link")).unwrap();
        attend("in.safetensors", "link", "config.json").failed(2, "is also an input");
        attend("in.safetensors", "/dev/null", "config.json").failed(2, "not a regular file");
        // Endless, or silent for ever.
        attend("/dev/zero", "out.safetensors", "config.json").failed(2, "not a regular file");
        assert!(std::process::Command::new("mkfifo").arg(folder.path("pipe")).status().unwrap().success());
        attend("pipe", "out.safetensors", "config.json").failed(2, "not a regular file");
        attend("in.safetensors", "out.safetensors", "pipe").failed(2, "not a regular file");
    }
}

#[test]
fn names_from_files_are_shown_harmlessly_and_not_all() {
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &[f32_tensor("a\nb\u{1b}[31m", &[1, 1, 1, 32], &[0.0; 32])]);
    refused(&folder, "dense", "{}", &[], "`q` is missing; the file holds a b\\u{1b}[31m");
    let names: Vec<&'static str> = (0..100).map(|i| &*format!("t{i:03}").leak()).collect();
    let tensors: Vec<_> = names.iter().map(|name| f32_tensor(name, &[1, 1, 1, 32], &[0.0; 32])).collect();
    folder.write_tensors("in.safetensors", &tensors);
    refused(&folder, "dense", "{}", &[], "t006, t007 and 92 more");
}

#[test]
fn command_lines() {
    let folder = Folder::new();
    for (args, words) in [
        (&["attend"][..], "--method <METHOD> --input"),
        (&["attend", "--method", "full", "--input", "a", "--output", "b"], "possible values: dense, blocks, s2"),
        (&["attend", "--method", "dense", "--input", "a", "--output", "b", "--fast"], "--fast"),
        (&["attend", "--method", "dense", "--method", "s2", "--input", "a", "--output", "b"], "--method"),
        (&["attention"], "attention"),
        (&[], "a command is missing"),
        (&["demo", "--gates", "g"], "g: No such file"),
        (&["quality", "--window", "5000"], "--window must be in"),
        (&["quality", "--windows", "0"], "--windows must be in"),
        (&["quality", "--plot", "nowhere/p.svg"], "can't be written"),
        (&["quality", "--device", "tpu", "--window", "64"], "device must be"),
        (&["show", "--method", "seer"], "config: select must have exactly one"),
        (&["demo", "--window", "1"], "--window must be in 2..=4096"),
        (&["demo", "--window", "5000"], "--window must be in"),
        (&["demo", "--windows", "0"], "--windows must be in"),
        (&["demo", "--windows", "99999"], "--windows must be in 1..=68"),
        (&["demo", "--text", "none.txt"], "none.txt"),
        (&["demo", "--model", "nowhere"], "config.json"),
        (&["demo", "--report", "nowhere/r.html"], "can't be written"),
        (&["demo", "--device", "tpu"], "device must be"),
        (&["show", "--method", "blocks"], "needs --input"),
        (&["show", "--method", "s2", "--heads", "3", "--kv-heads", "2"], "multiple"),
        (&["show", "--method", "s2", "--q-len", "10", "--kv-len", "5"], "q_len"),
        (&["check", "--device", "cuda:x"], "device must be"),
    ] {
        folder.lacuna(args).failed(2, words);
    }
    assert!(folder.names().is_empty());
}

/// A device that is not there is no bad request.
#[test]
fn missing_device() {
    let folder = Folder::new();
    folder.write_tensors("in.safetensors", &GOOD());
    folder.attend("dense", "{}", &["--device", "cuda:99"]).failed(1, "cuda:99 is not available");
    assert!(!folder.path("out.safetensors").exists());
}
