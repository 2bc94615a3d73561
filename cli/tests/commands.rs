//! The other commands, as a user runs them.
#![cfg(feature = "simt")]

mod support;

use support::{Folder, f32_tensor, noted_bytes};

#[test]
fn info_says_what_was_built() {
    let text = Folder::new().lacuna(&["info"]).succeeded().stdout;
    assert!(text.contains("simt yes") && text.contains("forward_d64_bf16") && text.contains("auto"), "{text}");
}

#[test]
fn show_draws_a_plan() {
    let folder = Folder::new();
    folder.write("s2.json", r#"{"local_blocks": 1, "vertical_stride": 3, "homogeneous": true, "sink_blocks": 0}"#);
    let args = ["show", "--method", "s2", "--config", "s2.json", "--q-len", "256", "--svg", "plan.svg"];
    let text = folder.lacuna(&args).succeeded().stdout;
    // Blocks 0 and 3 are columns.
    assert!(text.starts_with("plan head 0\n  █▄\n  █ ▀▄\n"), "{text}");
    assert!(text.contains("4 query, 4 KV, 1 plan"), "{text}");
    let svg = std::fs::read_to_string(folder.path("plan.svg")).unwrap();
    assert!(svg.starts_with("<svg xmlns") && svg.contains("M0 0h1v1h-1z"), "{svg}");
}

#[test]
fn check_passes_on_the_simt_host() {
    let folder = Folder::new();
    let run = folder.lacuna(&["check", "--device", "simt", "--json", "check.json"]).succeeded();
    for row in ["head_dim  64 bf16 portable", "head_dim 256  f16 decode"] {
        assert!(run.stdout.contains(row), "{}", run.stdout);
    }
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path("check.json")).unwrap()).unwrap();
    assert_eq!(json["failures"], serde_json::json!([]));
    assert!(json["ran"].as_u64().unwrap() >= 100);
}

/// A small window; the stated bits per byte belong to windows that take longer, see `make demo`.
#[test]
fn demo_writes_table_json_and_report() {
    let folder = Folder::new();
    let run = folder.lacuna(&["demo", "--device", "simt", "--window", "256", "--json", "demo.json"]).succeeded();
    assert!(run.stdout.contains("bits/byte") && run.stdout.contains("lacuna-report.html"), "{}", run.stdout);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path("demo.json")).unwrap()).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert!(rows.len() >= 8);
    assert_eq!(rows[0]["density"], 1.0);
    for row in rows {
        assert!(row["error"].as_f64().unwrap() <= row["error_bound"].as_f64().unwrap(), "{row}");
    }
    let report = std::fs::read_to_string(folder.path("lacuna-report.html")).unwrap();
    assert!(report.contains("<svg") && report.ends_with("</html>"));
    for outside in ["http://", "https://", "src=", "@import"] {
        // The name of the SVG format is the one address in the file.
        let inside = report.replace("http://www.w3.org/2000/svg", "");
        assert!(!inside.contains(outside), "{outside}");
    }
}

/// The model itself, and lacuna's attention in it: one window of 2048 bytes, stated as 1.2675 bits per byte.
#[test]
fn demo_checks_the_stated_bits_per_byte() {
    let folder = Folder::new();
    let run = folder.lacuna(&["demo", "--device", "simt", "--only", "dense"]).succeeded();
    assert!(run.stdout.contains("the model's definition states 1.2675"), "{}", run.stdout);
}

/// A tiny window: every row is there, at the densities that the rule gives, and the answers follow from the rows.
#[test]
fn quality_compares_the_gate() {
    let folder = Folder::new();
    let args = ["quality", "--device", "simt", "--window", "640", "--windows", "2", "--json", "q.json"];
    let run = folder.lacuna(&[&args[..], &["--plot", "q.svg", "--report", "q.html"]].concat()).succeeded();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path("q.json")).unwrap()).unwrap();
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1 + 4 * 8);
    let bits = |family: &str, threshold: bool, asked: f64| {
        let fits = |row: &&serde_json::Value| {
            row["family"] == family && row["threshold"] == threshold && row["asked"] == asked
        };
        let row = rows.iter().find(fits).unwrap();
        let windows: Vec<f64> = row["windows"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(windows.len(), 2);
        let mean = row["bits_per_byte"].as_f64().unwrap();
        assert!((windows.iter().sum::<f64>() / 2.0 - mean).abs() < 1e-12);
        (mean, row["density"].as_f64().unwrap())
    };
    // With 10 blocks one more or less is 2 % of the pairs.
    let numbers = ["window", "pooled", "oracle", "random"].map(|family| bits(family, false, 0.5).1);
    assert!(numbers.iter().all(|number| (0.5..0.52).contains(number) && number == &numbers[0]), "{numbers:?}");
    for family in ["seer", "pooled", "oracle"] {
        // The inputs of a layer are not those of dense attention.
        assert!((0.45..0.52).contains(&bits(family, true, 0.5).1), "{family}");
        let densities = [0.5, 0.3, 0.2].map(|asked| bits(family, true, asked).1);
        assert!(densities.is_sorted_by(|a, b| a > b), "{family}: {densities:?}");
    }
    let thresholds = json["thresholds"].as_array().unwrap();
    assert_eq!(thresholds.len(), 4);
    for which in ["gate", "pooled", "oracle"] {
        let values: Vec<f64> = thresholds.iter().map(|at| at[which].as_f64().unwrap()).collect();
        assert!(values.is_sorted() && values[0] > 0.0 && values[3] < 1.0, "{which}: {values:?}");
    }
    let verdicts = json["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), 5);
    let at_20 = verdicts.iter().find(|verdict| verdict["density"] == 0.2).unwrap();
    let untrained = [("pooled", true), ("pooled", false), ("window", false)];
    let untrained = untrained.map(|(family, threshold)| bits(family, threshold, 0.2).0);
    let better = untrained.iter().all(|&untrained| bits("seer", true, 0.2).0 < untrained);
    assert_eq!(at_20["passed"], better);
    assert!(run.stdout.contains(if better { "yes 20 %" } else { "no  20 %" }), "{}", run.stdout);
    assert!(std::fs::read_to_string(folder.path("q.svg")).unwrap().starts_with("<svg"));
    assert!(std::fs::read_to_string(folder.path("q.html")).unwrap().ends_with("</html>"));
}

#[test]
fn gate_files_are_checked() {
    let folder = Folder::new();
    let gates = |dims: &[usize]| f32_tensor("layers.0.w_k", dims, &vec![0.0; dims.iter().product()]);
    let refused = |words: &str| {
        let args = ["quality", "--window", "64", "--windows", "1", "--gates", "g.safetensors"];
        folder.lacuna(&args).failed(2, words);
    };
    refused("g.safetensors: No such file");
    folder.write("g.safetensors", "gates");
    refused("not a complete safetensors file");
    folder.write_tensors("g.safetensors", &[f32_tensor("w", &[1], &[0.0])]);
    refused("tensor `layers.0.w_k` is missing");
    folder.write_tensors("g.safetensors", &[gates(&[3, 192, 64])]);
    refused("tensor `layers.0.w_k` must be [heads, 192, gate dim]");
    folder.write_tensors("g.safetensors", &[gates(&[4, 192, 32])]);
    refused("the gate dim of the queries must be 32");
    folder.write_tensors("g.safetensors", &[gates(&[4, 192, 64])]);
    refused("tensor `layers.1.w_k` is missing");
    let layers = ["layers.0.w_k", "layers.1.w_k", "layers.2.w_k", "layers.3.w_k"];
    let layers = layers.map(|name| f32_tensor(name, &[4, 192, 64], &vec![0.0; 4 * 192 * 64]));
    for bad in ["", "0.1", "0.1:x", "0.1:nan", "2:0.1", "0.1:0.5,0.2:-1"] {
        folder.write("g.safetensors", noted_bytes(&layers, &[("thresholds", bad)]));
        refused("thresholds must be pairs density:threshold in 0..=1");
    }
}

#[test]
fn pictures_that_cannot_be_drawn_are_refused() {
    let folder = Folder::new();
    for size in ["0", "3000000", "1000000000", "18446744073709551615"] {
        for method in ["dense", "s2"] {
            folder.lacuna(&["show", "--method", method, "--q-len", size]).failed(2, "");
        }
    }
    folder.lacuna(&["show", "--method", "s2", "--svg", "nowhere/x.svg"]).failed(2, "can't be written");
    folder.lacuna(&["check", "--json", "nowhere/x.json"]).failed(2, "can't be written");
    assert!(folder.names().is_empty());
}
