//! `lacuna train`, as a user runs it.
#![cfg(feature = "simt")]

mod support;

use safetensors::SafeTensors;
use support::Folder;

/// Text with something to learn.
fn text(folder: &Folder) {
    let lines: Vec<String> = (0..200).map(|i| format!("def f{}(x): return x + {}\n", i % 7, i % 11)).collect();
    folder.write("text.txt", lines.concat());
    folder.write("s2.json", r#"{"block_size": 16, "local_blocks": 1, "vertical_stride": 3}"#);
}

fn train(folder: &Folder, more: &[&str]) -> support::Run {
    let sizes = ["--window", "96", "--batch", "2", "--valid-windows", "1", "--warm-up", "2"];
    folder.lacuna(&[&["train", "--text", "text.txt", "--config", "s2.json"], &sizes[..], more].concat())
}

#[test]
fn both_attentions_learn_from_scratch() {
    let folder = Folder::new();
    text(&folder);
    let more = ["--scratch", "--steps", "12", "--valid-every", "6", "--lr", "1e-2", "--min-lr", "5e-3"];
    let files = ["--json", "curves.json", "--plot", "curves.svg", "--output", "model.safetensors"];
    let run = train(&folder, &[&more[..], &files].concat()).succeeded();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path("curves.json")).unwrap()).unwrap();
    let density = json["density"].as_f64().unwrap();
    assert!(density > 0.2 && density < 0.8, "{density}");
    for curve in json["curves"].as_array().unwrap() {
        let points = curve["points"].as_array().unwrap();
        let steps: Vec<_> = points.iter().map(|point| point["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [0, 6, 12]);
        assert!(points[0]["train"].is_null());
        let valid = points[0]["valid"].as_f64().unwrap();
        assert!(valid > 7.5 && valid < 8.5, "random weights know nothing of bytes: {}", run.stdout);
        let train = [1, 2].map(|i| points[i]["train"].as_f64().unwrap());
        assert!(train[1] < 0.8 * train[0] && train[1] < 4.5, "{}", run.stdout);
    }
    assert_ne!(json["curves"][0]["points"][2]["valid"], json["curves"][1]["points"][2]["valid"]);
    assert!(std::fs::read_to_string(folder.path("curves.svg")).unwrap().contains("S2-Attention, validation text"));
    let file = std::fs::read(folder.path("model.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&file).unwrap().names().len(), 4 * 9 + 3);
}

/// The weights that were trained are a model; training goes on from them where it stopped.
#[test]
fn the_output_is_a_model() {
    let folder = Folder::new();
    text(&folder);
    let run =
        train(&folder, &["--no-dense", "--steps", "3", "--lr", "3e-4", "--output", "model.safetensors"]).succeeded();
    let last = |text: &str, row: &str| -> f64 {
        let row = text.lines().find(|line| line.split_whitespace().next() == Some(row)).unwrap().to_owned();
        row.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let end = last(&run.stdout, "3");
    std::fs::create_dir(folder.path("model")).unwrap();
    std::fs::rename(folder.path("model.safetensors"), folder.path("model/model.safetensors")).unwrap();
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/reference-model");
    for name in ["config.json", "valid.txt"] {
        std::fs::copy(data.join(name), folder.path("model").join(name)).unwrap();
    }
    let run = train(&folder, &["--no-dense", "--steps", "1", "--model", "model"]).succeeded();
    // The file holds bf16.
    assert!((last(&run.stdout, "0") - end).abs() < 2e-2, "{} {end}", run.stdout);
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let folder = Folder::new();
    text(&folder);
    for name in ["a", "b"] {
        train(&folder, &["--no-dense", "--steps", "2", "--output", name]).succeeded();
    }
    assert!(std::fs::read(folder.path("a")).unwrap() == std::fs::read(folder.path("b")).unwrap());
}

#[test]
fn bad_requests_name_what_is_wrong() {
    let folder = Folder::new();
    text(&folder);
    folder.write("short.txt", "abc");
    folder.write("bad.json", r#"{"block_size": 17}"#);
    folder.write("full.json", r#"{"causal": false}"#);
    for (more, says) in [
        (&["--steps", "0"][..], "--steps must be in 1..=2^30, got 0"),
        (&["--batch", "0"], "--batch"),
        (&["--lr", "nan"], "--lr must be at least 0 and finite"),
        (&["--dense-layers", "5"], "--dense-layers must be at most 4"),
        (&["--window", "5000"], "--window must be in 1..=4096"),
        (&["--valid-windows", "0"], "--valid-windows must be in 1..="),
        (&["--text", "short.txt"], "3 bytes are too few for a window of 96"),
        (&["--text", "missing.txt"], "missing.txt"),
        (&["--config", "bad.json"], "block_size must be"),
        (&["--config", "full.json"], "causal"),
        (&["--output", "text.txt"], "text.txt"),
        (&["--json", "no/where.json"], "no/where.json can't be written"),
    ] {
        let sizes = ["train", "--text", "text.txt", "--window", "96", "--valid-windows", "1", "--steps", "1"];
        // Later options win.
        let mut all: Vec<&str> = Vec::new();
        for pair in sizes[1..].chunks(2).filter(|pair| pair[0] != more[0]) {
            all.extend(pair);
        }
        let run = folder.lacuna(&[&["train"], &all[..], more].concat());
        run.failed(2, says);
    }
}
