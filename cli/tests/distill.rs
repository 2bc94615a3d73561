//! `lacuna distill`, as a user runs it.
#![cfg(feature = "simt")]

mod support;

use safetensors::{Dtype, SafeTensors};
use support::{Folder, TensorBytes};

/// Text with something to attend to.
fn text(folder: &Folder) {
    let lines: Vec<String> = (0..500).map(|i| format!("def f{}(x): return x + {}\n", i % 7, i % 11)).collect();
    folder.write("text.txt", lines.concat());
}

fn distill(folder: &Folder, output: &str, more: &[&str]) -> support::Run {
    let common = ["distill", "--text", "text.txt", "--window", "200", "--windows", "3", "--block-size", "32"];
    let training = ["--steps", "6", "--batch", "2", "--warm-up", "2", "--device", "simt", "--output", output];
    folder.lacuna(&[&common[..], &training, more].concat())
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

/// The sum of a column of the table over layers.
fn column(text: &str, column: usize) -> f64 {
    let rows = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    rows.map(|row| row.split_whitespace().nth(column).unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn training_helps_and_writes_what_attention_reads() {
    let folder = Folder::new();
    text(&folder);
    let data = ["--text", "text.txt", "--window", "200", "--windows", "3", "--block-size", "32"];
    let training = ["--steps", "60", "--batch", "3", "--device", "simt", "--output", "gates.safetensors"];
    let run = folder.lacuna(&[&["distill"], &data[..], &training].concat()).succeeded();
    let (first, last) = (column(&run.stdout, 1), column(&run.stdout, 2));
    assert!(last < 0.9 * first && last > 0.0, "{}", run.stdout);
    assert_eq!(folder.names(), ["gates.safetensors", "text.txt"], "the checkpoint is gone");
    let file = bytes(&folder, "gates.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.names().len(), 4);
    for layer in 0..4 {
        let w_k = tensors.tensor(&format!("layers.{layer}.w_k")).unwrap();
        assert_eq!((w_k.dtype(), w_k.shape()), (Dtype::BF16, &[4, 192, 64][..]));
    }
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    let metadata = header.metadata().clone().unwrap();
    for (key, value) in [
        ("kind", "prefill"),
        ("block_size", "32"),
        ("q_pool", "avg"),
        ("k_pool", "max,min,avg"),
        ("rope_theta", "500000"),
        ("text", "text.txt"),
    ] {
        assert_eq!(metadata[key], value, "{key}");
    }
    let recipe: serde_json::Value = serde_json::from_str(&metadata["recipe"]).unwrap();
    assert_eq!((&recipe["steps"], &recipe["distance"]), (&60.into(), &0.0.into()));
    let pairs = metadata["thresholds"].split(',').map(|pair| pair.split_once(':').unwrap());
    let pairs: Vec<(f64, f64)> = pairs.map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
    assert_eq!(pairs.iter().map(|pair| pair.0).collect::<Vec<_>>(), [0.5, 0.3, 0.2, 0.1]);
    assert!(pairs.is_sorted_by(|a, b| a.1 < b.1) && pairs[0].1 > 0.0, "{pairs:?}");
    // The kernels attend the density that the threshold was made for, on what it was made for.
    let demo =
        ["demo", "--text", "text.txt", "--window", "200", "--windows", "3", "--only", "seer", "--device", "simt"];
    folder.lacuna(&[&demo[..], &["--gates", "gates.safetensors", "--json", "demo.json"]].concat()).succeeded();
    let json: serde_json::Value = serde_json::from_slice(&bytes(&folder, "demo.json")).unwrap();
    let half = &json["rows"][1];
    assert!(half["threshold"] == true && (half["density"].as_f64().unwrap() - 0.5).abs() < 0.1, "{half}");
}

#[test]
fn decode_gates_pick_blocks_for_each_token() {
    let folder = Folder::new();
    text(&folder);
    distill(&folder, "gates.safetensors", &["--kind", "decode", "--norm", "--rows", "40"]).succeeded();
    let args = ["quality", "--kind", "decode", "--text", "text.txt", "--window", "300", "--windows", "2"];
    let more = ["--device", "simt", "--gates", "gates.safetensors", "--json", "q.json"];
    let run = folder.lacuna(&[&args[..], &more].concat()).succeeded();
    assert!(run.stdout.contains("oracle: the true map"), "{}", run.stdout);
    let json: serde_json::Value = serde_json::from_slice(&bytes(&folder, "q.json")).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1 + 4 * 4);
    let of = |picker: &str, budget: usize| {
        let row = rows.iter().find(|row| row["picker"] == picker && row["budget"] == budget).unwrap();
        (row["density"].as_f64().unwrap(), row["bits_per_byte"].as_f64().unwrap())
    };
    let dense = rows[0]["bits_per_byte"].as_f64().unwrap();
    for picker in ["gate", "pooled", "window", "oracle"] {
        // 300 tokens have 10 blocks of 32: 32 of them fit 1024 tokens, 4 fit 128.
        assert_eq!(of(picker, 1024), (1.0, dense), "{picker}");
        let kept: usize = (0..300).map(|t: usize| (t / 32).min(4) * 32 + t % 32 + 1).sum();
        assert!((of(picker, 128).0 - kept as f64 / (300.0 * 301.0 / 2.0)).abs() < 1e-9, "{picker}");
        assert!(of(picker, 128).1 != dense, "{picker}");
    }
    let refused = |args: &[&str], words: &str| folder.lacuna(args).failed(2, words);
    refused(&["quality", "--gates", "gates.safetensors"], "gates for decoding");
    refused(&["quality", "--kind", "decode", "--plot", "x.svg"], "--plot and --report are for prefill gates");
    distill(&folder, "prefill.safetensors", &[]).succeeded();
    refused(&["quality", "--kind", "decode", "--gates", "prefill.safetensors"], "gates for prefill");
}

#[test]
fn a_resumed_run_gives_the_same_bytes() {
    let folder = Folder::new();
    text(&folder);
    for more in [
        &[
            "--project-q",
            "--k-pool",
            "avg,max",
            "--init",
            "random",
            "--drop-current",
            "--power",
            "0.5",
            "--distance",
            "0.5",
        ][..],
        &["--kind", "decode", "--norm"],
    ] {
        distill(&folder, "whole.safetensors", more).succeeded();
        for until in ["2", "5"] {
            let part = [more, &["--until", until]].concat();
            let resume: &[&str] = if until == "2" { &[] } else { &["--resume"] };
            distill(&folder, "parts.safetensors", &[&part[..], resume].concat()).succeeded();
            assert!(!folder.path("parts.safetensors").exists());
        }
        distill(&folder, "parts.safetensors", &[more, &["--resume"]].concat()).succeeded();
        assert!(bytes(&folder, "whole.safetensors") == bytes(&folder, "parts.safetensors"), "{more:?}");
        distill(&folder, "parts.safetensors", &[more, &["--seed", "1"]].concat()).succeeded();
        assert!(bytes(&folder, "whole.safetensors") != bytes(&folder, "parts.safetensors"), "{more:?}");
        std::fs::remove_file(folder.path("parts.safetensors")).unwrap();
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = Folder::new();
    text(&folder);
    distill(&folder, "gates.safetensors", &["--resume"]).failed(2, "gates.safetensors.checkpoint");
    distill(&folder, "gates.safetensors", &["--until", "2"]).succeeded();
    distill(&folder, "gates.safetensors", &["--resume", "--lr", "0.5"]).failed(2, "lr 0.5 against 0.004");
    folder.write("text.txt", "x = 1\n".repeat(200));
    distill(&folder, "gates.safetensors", &["--resume"]).failed(2, "data");
    folder.write("gates.safetensors.checkpoint", b"\x02\0\0\0\0\0\0\0{}");
    distill(&folder, "gates.safetensors", &["--resume"]).failed(2, "not a checkpoint");
}

/// Values between -1 and 1 as f32.
fn floats(dims: &[usize], seed: u32) -> (Dtype, Vec<usize>, Vec<u8>) {
    let mut state = seed;
    let value = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let bytes = (0..dims.iter().product::<usize>()).map(value).flat_map(f32::to_le_bytes).collect();
    (Dtype::F32, dims.to_vec(), bytes)
}

fn captured(names: [&'static str; 4]) -> Vec<TensorBytes> {
    let dims = [[2, 4, 150, 32], [2, 2, 150, 32], [2, 4, 150, 32], [2, 2, 150, 32]];
    let tensor = |(i, name): (usize, &'static str)| {
        let (dtype, dims, bytes) = floats(&dims[i], i as u32);
        (name, dtype, dims, bytes)
    };
    names.into_iter().enumerate().map(tensor).collect()
}

#[test]
fn captured_tensors_with_and_without_layers() {
    let folder = Folder::new();
    let options = ["--output", "gates.safetensors", "--steps", "4", "--batch", "2", "--device", "simt"];
    let distill =
        |more: &[&str]| folder.lacuna(&[&["distill", "--input", "in.safetensors"], &options[..], more].concat());
    folder.write_tensors("in.safetensors", &captured(["gate_q", "gate_k", "q", "k"]));
    distill(&["--per-kv-head"]).succeeded();
    let file = bytes(&folder, "gates.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.names(), ["layers.0.w_k"]);
    assert_eq!(tensors.tensor("layers.0.w_k").unwrap().shape(), [2, 96, 32]);
    let mut layers = captured(["layers.0.gate_q", "layers.0.gate_k", "layers.0.q", "layers.0.k"]);
    layers.extend(captured(["layers.1.gate_q", "layers.1.gate_k", "layers.1.q", "layers.1.k"]));
    folder.write_tensors("in.safetensors", &layers);
    distill(&["--kind", "decode", "--gate-dim", "48", "--init", "random", "--rows", "40"]).succeeded();
    let file = bytes(&folder, "gates.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("layers.1.w_q").unwrap().shape(), [2, 64, 48]);
    assert_eq!(tensors.tensor("layers.1.w_k").unwrap().shape(), [2, 96, 48]);

    layers.truncate(7);
    folder.write_tensors("in.safetensors", &layers);
    distill(&[]).failed(2, "layers.1.k");
}

#[test]
fn bad_requests_are_one_line() {
    let folder = Folder::new();
    text(&folder);
    let bad = |more: &[&str], words: &str| {
        let common = ["distill", "--text", "text.txt", "--output", "out.safetensors"];
        folder.lacuna(&[&common[..], more].concat()).failed(2, words)
    };
    bad(&["--block-size", "48"], "--block-size");
    bad(&["--gate-dim", "63"], "--gate-dim");
    bad(&["--gate-dim", "128"], "--project-q");
    bad(&["--q-pool", "avg,max"], "--gate-dim must be 128");
    bad(&["--k-pool", "max"], "--init mean");
    bad(&["--k-pool", "median"], "median");
    bad(&["--norm"], "--norm");
    bad(&["--kind", "decode", "--drop-current"], "--drop-current");
    bad(&["--kind", "decode", "--project-q"], "--project-q");
    bad(&["--kind", "decode", "--rows", "0"], "--rows");
    bad(&["--steps", "0"], "--steps");
    bad(&["--batch", "0"], "--batch");
    bad(&["--lr", "nan"], "--lr");
    bad(&["--skip", "1"], "--skip");
    bad(&["--power", "0"], "--power");
    bad(&["--distance", "nan"], "--distance");
    bad(&["--rope-theta", "0.5"], "--rope-theta");
    bad(&["--window", "64", "--windows", "1000"], "--windows must be in 1..=");
    bad(&["--window", "5000"], "--window");
    bad(&["--window", "0"], "--window");
    bad(&["--save-every", "0"], "--save-every");
    bad(&["--until", "0"], "--until");
    bad(&["--input", "text.txt"], "--input");
    bad(&["--model", "nowhere"], "nowhere");
    folder.lacuna(&["distill", "--output", "out.safetensors"]).failed(2, "--text");
    folder.lacuna(&["distill", "--text", "no.txt", "--output", "out.safetensors"]).failed(2, "no.txt");
    folder.lacuna(&["distill", "--text", "text.txt", "--output", "text.txt"]).failed(2, "also an input");
    folder.write("in.safetensors", "nothing");
    folder.lacuna(&["distill", "--input", "in.safetensors", "--output", "out.safetensors"]).failed(2, "safetensors");
    let mut tensors = captured(["gate_q", "gate_k", "q", "k"]);
    tensors[0].2[1] = 5;
    tensors[0].3.truncate(2 * 5 * 150 * 32 * 4);
    tensors[0].3.resize(2 * 5 * 150 * 32 * 4, 0);
    folder.write_tensors("in.safetensors", &tensors);
    folder.lacuna(&["distill", "--input", "in.safetensors", "--output", "out.safetensors"]).failed(2, "gate_q");
    assert_eq!(folder.names(), ["in.safetensors", "text.txt"]);
}
