//! S2-Attention: pieces of a pattern against the whole one, and the order of the work.

use crate::harness::{Case, Outcome, shape, streams};
use lacuna::s2::{HeadRange, Piece, PieceCall};
use lacuna::{
    AttentionShape, ForwardOptions, S2Columns, S2Config, S2Variant, Schedule, Stream, Tensor, attention, bf16,
};
use proptest::prelude::*;

/// q, k and v of a whole problem, as f32 partial results of its pieces are computed from them.
struct Whole {
    shape: AttentionShape,
    inputs: [Vec<bf16>; 3],
}

impl Whole {
    /// Rows `[first, first + len)` of heads `[head, head + heads)` of an input `[batch, all, rows, dim]`.
    fn part(&self, input: usize, heads: (usize, usize), rows: (usize, usize)) -> Vec<bf16> {
        let (all_heads, all_rows) = match input {
            0 => (self.shape.q_heads, self.shape.q_len),
            _ => (self.shape.kv_heads, self.shape.kv_len),
        };
        let dim = self.shape.head_dim;
        let mut part = Vec::new();
        for (b, h) in (0..self.shape.batch).flat_map(|b| (heads.0..heads.0 + heads.1).map(move |h| (b, h))) {
            let start = ((b * all_heads + h) * all_rows + rows.0) * dim;
            part.extend_from_slice(&self.inputs[input][start..start + rows.1 * dim]);
        }
        part
    }
}

/// out and lse of a call; k and v are cut to what it can see.
fn run(stream: &Stream, given: &AttentionShape, call: &PieceCall, inputs: [Vec<bf16>; 3]) -> (Vec<f32>, Vec<f32>) {
    let shape = &call.shape;
    let q = Tensor::from_slice(stream, &inputs[0], [shape.batch, shape.q_heads, shape.q_len, shape.head_dim]).unwrap();
    let kv_dims = [shape.batch, shape.kv_heads, given.kv_len, shape.head_dim];
    let [k, v] = [1, 2].map(|i| Tensor::from_slice(stream, &inputs[i], kv_dims).unwrap());
    let [k, v] = [&k, &v].map(|tensor| tensor.view().narrow(2, 0, shape.kv_len).unwrap());
    let mut out = Tensor::<bf16>::uninit(stream, q.dims()).unwrap();
    let mut lse = Tensor::<f32>::uninit(stream, [shape.batch, shape.q_heads, shape.q_len, 1]).unwrap();
    let options = ForwardOptions { mask: call.mask, ..ForwardOptions::default() };
    let schedule = Schedule::build(stream, shape, &options, &call.plan).unwrap();
    let mut workspace = stream.alloc_bytes(attention::workspace_bytes(shape, &options)).unwrap();
    let (written, rows) = (out.view_mut(), Some(lse.view_mut()));
    attention::forward(stream, shape, &options, &call.plan, &schedule, q.view(), k, v, written, rows, &mut workspace)
        .unwrap();
    (out.to_vec(stream).unwrap().into_iter().map(f32::from).collect(), lse.to_vec(stream).unwrap())
}

fn configs() -> impl Strategy<Value = S2Config> {
    (
        (0usize..3, 0usize..4, prop::option::of(1usize..4), 1usize..6, 0usize..3),
        (prop::option::of(-4i64..5), -5i64..6, 0usize..3, 0usize..3),
        (any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |((size, left, right, stride, columns), (step, offset, dense, sinks), (homogeneous, phi3, causal))| {
                S2Config {
                    block_size: [16, 32, 64][size],
                    local_blocks: left,
                    local_right: right.filter(|_| !causal),
                    vertical_stride: stride,
                    columns: [None, Some(S2Columns::Absolute), Some(S2Columns::Relative)][columns],
                    head_sliding_step: step,
                    head_sliding_offset: offset,
                    num_dense_kv_heads: dense,
                    homogeneous,
                    sink_blocks: sinks,
                    variant: if phi3 { S2Variant::Phi3 } else { S2Variant::Dkernel },
                    causal,
                }
            },
        )
}

/// Cuts `0..len` at the given fractions, on multiples of `step`.
fn cuts(len: usize, step: usize, at: &[f32]) -> Vec<(usize, usize)> {
    let mut edges: Vec<usize> = at.iter().map(|x| (x * len as f32) as usize / step * step).collect();
    edges.extend([0, len]);
    edges.sort_unstable();
    edges.dedup();
    edges.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Queries are cut anywhere, keys between blocks, heads between groups; pieces over all keys give the rows of the
    /// whole pattern, and merged by the LSE they are its attention.
    #[test]
    fn pieces_are_parts_of_the_whole(
        config in configs(), heads in (1usize..4, 1usize..3), lens in (1usize..200, 0usize..150), fewer_keys: bool,
        at in ([0.0f32..1.0, 0.0f32..1.0], [0.0f32..1.0, 0.0f32..1.0]), split_heads: bool, seed: u64,
    ) {
        let (mut q_len, mut kv_len) = (lens.0, lens.0 + lens.1);
        if fewer_keys && !config.causal {
            std::mem::swap(&mut q_len, &mut kv_len);
        }
        let config = S2Config { num_dense_kv_heads: config.num_dense_kv_heads.min(heads.0), ..config };
        let shape = shape(1, (heads.0 * heads.1, heads.0), (q_len, kv_len), 64);
        let case = Case { seed, ..Case::new(shape, config.mask()) };
        let whole = Whole { shape, inputs: case.inputs::<bf16>() };
        let blocks = config.block_mask(&shape).unwrap();
        let q_position = kv_len as i64 - q_len as i64;
        let query_parts = cuts(q_len, 1, &at.0);
        let key_parts = cuts(kv_len, config.block_size, &at.1);
        let head_parts: Vec<(usize, usize)> =
            if split_heads { (0..heads.0).map(|h| (h, 1)).collect() } else { vec![(0, heads.0)] };
        let rows_of = |h: usize, t: usize| h * q_len + t;
        for stream in streams(seed) {
            let rows = shape.q_heads * q_len;
            // Partial results, [parts of the keys, heads, queries].
            let mut outs = vec![0.0f32; key_parts.len() * rows * 64];
            let mut lses = vec![f32::NEG_INFINITY; key_parts.len() * rows];
            let places = query_parts.iter().flat_map(|q| head_parts.iter().map(move |h| (*q, *h)));
            for ((q, h), (n, k)) in places.flat_map(|p| key_parts.iter().enumerate().map(move |k| (p, k))) {
                let part = AttentionShape { q_heads: h.1 * heads.1, kv_heads: h.1, q_len: q.1, kv_len: k.1, ..shape };
                let position = q_position + q.0 as i64;
                let Ok(q_start) = usize::try_from(position) else {
                    // Only whole queries may stand before the first key.
                    continue;
                };
                let range = HeadRange { first: h.0 * heads.1, of: shape.q_heads };
                let piece = Piece { q_start: Some(q_start), kv_start: k.0, heads: split_heads.then_some(range) };
                let call = config.piece(&part, &piece).unwrap();
                // The blocks of the piece are those of the whole pattern, as its own kernels see them.
                let mask = call.plan.block_mask(&stream, &call.shape, &call.mask).unwrap();
                prop_assert_eq!(&mask, &call.block_mask().unwrap());
                for (p, r, j) in (0..mask.heads).flat_map(|p| {
                    let (rows, columns) = (mask.q_blocks, mask.kv_blocks);
                    (0..rows).flat_map(move |r| (0..columns).map(move |j| (p, r, j)))
                }) {
                    let column = k.0 / config.block_size + j;
                    let row = mask.first_row + r as i64 + (k.0 / config.block_size) as i64 - blocks.first_row;
                    let head = if blocks.heads == 1 { 0 } else { p + h.0 * blocks.heads / heads.0 };
                    let expected = blocks.get(0, head, row as usize, column);
                    if mask.get(0, p, r, j) != 0 {
                        prop_assert_eq!(expected, 1, "head {}, block ({}, {})", p, r, j);
                    } else if expected != 0 {
                        // A query block that the cut goes through sees what its own queries see.
                        let visible = mask.queries(&call.shape, r).any(|t| {
                            let last = position + t as i64;
                            !config.causal || ((k.0 + j * config.block_size) as i64) <= last
                        });
                        prop_assert!(!visible, "head {}, block ({}, {}) is missing", p, r, j);
                    }
                }
                let inputs = [
                    whole.part(0, (h.0 * heads.1, part.q_heads), q),
                    whole.part(1, h, *k),
                    whole.part(2, h, *k),
                ];
                let (out, lse) = run(&stream, &part, &call, inputs);
                for (head, t) in (0..part.q_heads).flat_map(|head| (0..q.1).map(move |t| (head, t))) {
                    let from = head * q.1 + t;
                    let to = n * rows + rows_of(h.0 * heads.1 + head, q.0 + t);
                    lses[to] = lse[from];
                    outs[to * 64..(to + 1) * 64].copy_from_slice(&out[from * 64..(from + 1) * 64]);
                }
            }
            if q_position < 0 {
                continue;
            }
            let dims = |last| [key_parts.len(), shape.q_heads, q_len, last];
            let partial_out = Tensor::from_slice(&stream, &outs, dims(64)).unwrap();
            let partial_lse = Tensor::from_slice(&stream, &lses, dims(1)).unwrap();
            let mut out = Tensor::<bf16>::uninit(&stream, [1, shape.q_heads, q_len, 64]).unwrap();
            let mut lse = Tensor::<f32>::uninit(&stream, [1, shape.q_heads, q_len, 1]).unwrap();
            let (splits, rows) = (key_parts.len(), Some(lse.view_mut()));
            attention::merge(&stream, splits, partial_out.view(), partial_lse.view(), out.view_mut(), rows).unwrap();
            let merged = Outcome {
                out: out.to_vec(&stream).unwrap().into_iter().map(f32::from).collect(),
                lse: lse.to_vec(&stream).unwrap(),
            };
            let visible = blocks.visibility(&shape, &case.mask);
            case.compare_merged::<bf16>(&merged, &visible, &key_parts).map_err(TestCaseError::fail)?;
        }
    }
}

#[test]
fn pieces_that_do_not_fit_are_refused() {
    let config = S2Config::default();
    let shape = shape(1, (4, 2), (64, 128), 64);
    let refused = |piece: Piece| config.piece(&shape, &piece).map(|_| ()).unwrap_err().to_string();
    let heads = |first, of| Piece { heads: Some(HeadRange { first, of }), ..Piece::default() };
    assert!(
        refused(Piece { kv_start: 63, ..Piece::default() }).contains("kv_start must be a multiple of block_size (64)")
    );
    assert!(refused(Piece { q_start: Some(1 << 31), ..Piece::default() }).contains("q_start must be at most 2^30"));
    assert!(refused(heads(1, 8)).contains("first head must be a multiple of the group (2)"));
    assert!(refused(heads(6, 8)).contains("first head"));
    assert!(refused(heads(0, 3)).contains("heads of the model"));
    assert!(config.piece(&shape, &heads(4, 8)).is_ok());
    // All keys lie behind the last query: nothing is left to see.
    let call = config.piece(&shape, &Piece { q_start: Some(0), kv_start: 64, heads: None }).unwrap();
    assert_eq!(call.shape.kv_len, 0);
}

/// The density that the pattern promises: a row of n blocks keeps its window and every stride-th block before it.
#[test]
fn density_follows_from_window_and_stride() {
    let (local, stride, blocks) = (4usize, 8usize, 64usize);
    let config = S2Config { block_size: 16, local_blocks: local, vertical_stride: stride, ..S2Config::default() };
    let shape = shape(1, (8, 8), (16 * blocks, 16 * blocks), 64);
    let mask = config.block_mask(&shape).unwrap();
    // Summed over 8 heads, whose columns have each phase once.
    let row = |i: usize| (8 * (i + 1).min(local) + (i + 1).saturating_sub(local)) as u64;
    assert_eq!(mask.blocks(), (0..blocks).map(row).sum::<u64>());
    for i in 0..blocks {
        let kept: u64 =
            (0..8).flat_map(|h| (0..blocks).map(move |j| (h, j))).map(|(h, j)| u64::from(mask.get(0, h, i, j))).sum();
        assert_eq!(kept, row(i), "row {i}");
    }
}
