//! Gate kernels through the raw entries with sizes whose products leave 32 or 64 bits: refused, and nothing starts.

use crate::harness::simt;
use lacuna::Result;
use lacuna::attention::raw;

const MOST: i32 = (1 << 30) - 1;

/// Pointers that are never followed.
fn nowhere<T>() -> *mut T {
    std::ptr::NonNull::dangling().as_ptr()
}

fn says(result: Result<()>, text: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(text), "{error}, expected: {text}");
}

#[test]
fn pools() {
    let stream = simt(1);
    for (batch, heads, len, block) in [(MOST, 1, 64, 16), (1 << 20, 1 << 20, 16, 16), (MOST, MOST, MOST, 1)] {
        let span = raw::lacuna_gate_span { batch, len, block, ..Default::default() };
        let params = raw::lacuna_gate_pool_params {
            span,
            heads,
            dim: 8,
            dtype: 1,
            pools: 1,
            rows: i32::MAX,
            x: nowhere::<u8>().cast(),
            features: nowhere(),
            ..Default::default()
        };
        // SAFETY: refused before anything is read.
        says(unsafe { raw::gate_pool(&stream, &params) }, "grid");
    }
    assert_eq!(stream.counters().unwrap().launches, 0);
}

#[test]
fn projections() {
    let stream = simt(2);
    // Copied vectors are four a thread block: the grid of a product that stops counting must not fit any device either.
    for (batch, heads, rows, weight) in [
        (1 << 28, 1 << 10, 1 << 10, false),
        (MOST, MOST, i32::MAX, false),
        (1 << 28, 1 << 10, 1 << 10, true),
        (MOST, MOST, i32::MAX, true),
    ] {
        let span = raw::lacuna_gate_span { batch, len: MOST, block: 16, ..Default::default() };
        let params = raw::lacuna_gate_project_params {
            span,
            in_heads: heads,
            heads,
            rows,
            width: 8,
            gate_dim: 8,
            dtype: 1,
            out_rows: i32::MAX,
            features: nowhere(),
            weight: if weight { nowhere::<u8>().cast() } else { std::ptr::null() },
            out: nowhere(),
            ..Default::default()
        };
        // SAFETY: refused before anything is read.
        says(unsafe { raw::gate_project(&stream, &params) }, "grid");
    }
    assert_eq!(stream.counters().unwrap().launches, 0);
}

#[test]
fn selections() {
    let stream = simt(3);
    let good = raw::lacuna_gate_select_params {
        batch: 1,
        q_heads: 4,
        k_heads: 2,
        plan_heads: 4,
        gate_dim: 32,
        rows: 4,
        rows_per_list: 1,
        row_tokens: 16,
        block: 16,
        kv_len: 64,
        q_len: 64,
        causal: 1,
        rule: 1,
        count: 3,
        k_rows: i32::MAX,
        capacity: i32::MAX,
        q_gate: nowhere(),
        k_gate: nowhere(),
        row_offsets: nowhere(),
        indices: nowhere(),
        counts: nowhere(),
        selected: nowhere(),
        overflow: nowhere(),
        ..Default::default()
    };
    type Change = fn(&mut raw::lacuna_gate_select_params);
    let changes: [(Change, &str); 7] = [
        (|p| p.batch = i32::MAX, "batch must be in"),
        (|p| p.rows = i32::MAX, "rows must be in"),
        (|p| p.kv_len = i32::MAX, "kv_len must be in"),
        (|p| (p.batch, p.q_heads, p.k_heads, p.plan_heads) = (MOST, MOST, 1, MOST), "and 2^30 lists"),
        (|p| (p.batch, p.rows) = (MOST, MOST), "and 2^30 lists"),
        (|p| (p.q_heads, p.k_heads, p.plan_heads) = (1 << 29, 1, 1), "at most 2^24 members of a list"),
        (|p| p.kv_len = MOST, "at most 18928 KV blocks, got 67108864"),
    ];
    for (change, text) in changes {
        let mut bad = good;
        change(&mut bad);
        // SAFETY: refused before anything is read.
        says(unsafe { raw::gate_select(&stream, &bad) }, text);
    }
    assert_eq!(stream.counters().unwrap().launches, 0);
}
