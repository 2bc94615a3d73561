//! The other commands, as a user runs them.
#![cfg(feature = "simt")]

mod support;

use support::Folder;

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
    assert!(run.stdout.contains("head_dim  64 bf16"), "{}", run.stdout);
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
