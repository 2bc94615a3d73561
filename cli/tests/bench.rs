//! `lacuna bench`, as a user runs it.
#![cfg(feature = "simt")]

mod support;

use serde_json::Value;
use support::Folder;

fn rows(folder: &Folder, args: &[&str]) -> Vec<Value> {
    let fixed = ["bench", "--device", "simt", "--time", "1", "--json", "bench.json", "--html", "bench.html"];
    let run = folder.lacuna(&[&fixed[..], args].concat()).succeeded();
    let json: Value = serde_json::from_slice(&std::fs::read(folder.path("bench.json")).unwrap()).unwrap();
    // What was not measured is said wherever a reader may look.
    let page = std::fs::read_to_string(folder.path("bench.html")).unwrap();
    for text in [&run.stdout, &page, json["note"].as_str().unwrap()] {
        assert!(text.contains("No GPU was measured"), "{text}");
    }
    assert_eq!((json["device"].as_str(), json["simt"].as_bool()), (Some("simt"), Some(true)));
    json["rows"].as_array().unwrap().clone()
}

fn number(row: &Value, path: &str) -> f64 {
    row.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {row}"))
}

#[test]
fn every_method_and_pass_is_measured() {
    let folder = Folder::new();
    let rows = rows(&folder, &["--head-dim", "32", "--len", "256,320"]);
    let found: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["pass"].as_str().unwrap(), row["method"].as_str().unwrap())).collect();
    let mut expected = Vec::new();
    for (pass, methods) in [
        ("forward", &["dense", "s2", "blocks", "seer", "hyper"][..]),
        ("backward", &["dense", "s2", "blocks", "seer", "hyper"]),
        ("decode", &["dense", "s2", "blocks", "seer"]),
    ] {
        for _ in 0..2 {
            expected.extend(methods.iter().map(|&method| (pass, method)));
        }
    }
    assert_eq!(found, expected);
    for row in &rows {
        let method = row["method"].as_str().unwrap();
        let (least, median) = (number(row, "/attention_seconds/least"), number(row, "/attention_seconds/median"));
        assert!(0.0 < least && least <= median && median <= number(row, "/attention_seconds/most"), "{row}");
        assert!(number(row, "/attention_seconds/samples") >= 3.0);
        // What depends on data is planned in each step.
        assert_eq!(row["planning_seconds"].is_null(), matches!(method, "dense" | "s2"), "{row}");
        let density = number(row, "/density");
        assert!(density > 0.0 && density <= 1.0 && (method != "dense" || density == 1.0), "{row}");
        let planning = row.pointer("/planning_seconds/median").and_then(Value::as_f64).unwrap_or(0.0);
        if method == "dense" {
            assert!(row["speedup"].is_null(), "{row}");
        } else {
            let same = |dense: &&Value| ["pass", "len"].iter().all(|key| dense[key] == row[key]);
            let dense = rows.iter().find(|row| row["method"] == "dense" && same(row)).unwrap();
            let speedup = number(dense, "/attention_seconds/median") / (median + planning);
            assert!((number(row, "/speedup") / speedup - 1.0).abs() < 1e-9, "{row}");
        }
        let operations = if row["pass"] == "backward" { 10.0 } else { 4.0 };
        let len = number(row, "/len");
        let pairs = if row["pass"] == "decode" { 2.0 * len } else { len * (len + 1.0) };
        let tflops = operations * pairs * density * 32.0 / median * 1e-12;
        assert!((number(row, "/useful_tflops") / tflops - 1.0).abs() < 1e-9, "{row}");
        let kernels = row["kernels"].as_array().unwrap();
        assert_eq!(kernels.len(), if row["pass"] == "backward" { 2 } else { 1 });
        assert!(kernels.iter().all(|name| name.as_str().unwrap().contains("_d32_")), "{row}");
    }
    let page = std::fs::read_to_string(folder.path("bench.html")).unwrap();
    // The logo, a plot a pass, and that of density; everything is inside.
    assert_eq!(page.matches("<svg").count(), 1 + 3 + 1);
    assert!(page.ends_with("</html>") && !page.contains("#010101"));
    for outside in ["http://", "https://", "src=", "@import"] {
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
    }
}

#[test]
fn the_grid_is_what_was_asked_for() {
    let folder = Folder::new();
    let args = ["--method", "blocks", "--pass", "forward", "--density", "0.9,0.1", "--len", "512", "--head-dim", "64"];
    let rows = rows(&folder, &[&args[..], &["--heads", "4", "--kv-heads", "1", "--batch", "2"]].concat());
    assert_eq!(rows.len(), 2);
    for (row, asked) in rows.iter().zip([0.9, 0.1]) {
        assert_eq!((number(row, "/asked"), number(row, "/q_heads"), number(row, "/batch")), (asked, 4.0, 2.0));
        // There is no dense row to compare with.
        assert!(row["speedup"].is_null());
    }
    assert!(number(&rows[1], "/density") < number(&rows[0], "/density"));
}

#[test]
fn bad_requests_are_refused_before_any_work() {
    let folder = Folder::new();
    for (args, message) in [
        (&["--density", "0"][..], "--density must be above 0 and at most 1, got 0"),
        (&["--density", "NaN"], "got NaN"),
        (&["--len", "0"], "--batch and --len must be at least 1"),
        (&["--method", "hyper", "--pass", "decode"], "hyper has no decode"),
        (&["--heads", "3", "--kv-heads", "2"], "q_heads"),
        (&["--method", "sparse"], "sparse"),
        (&["--html", "missing/page.html"], "missing/page.html can't be written"),
        (&["--device", "tpu"], "auto, simt or cuda:N"),
    ] {
        let run = folder.lacuna(&[&["bench"][..], args].concat());
        assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(message) && run.stderr.lines().count() == 1, "{args:?}: {}", run.stderr);
    }
}
