//! Decode attention on logits of any size: warps that share rows see different maxima, and their sums must meet in one
//! unit.

use crate::decode::run;
use crate::harness::{Case, Outcome, shape, streams};
use lacuna::reference::TokenMask;
use lacuna::{AttentionShape, BlockPlan, Mask, bf16};

/// Inputs whose logits are `large + small[key]`, exactly, in the f32 of a dot product, and some that are far below.
/// `step` is that of `small`; the scale is 1/8.
fn inputs(shape: &AttentionShape, large: f32, step: f32) -> [Vec<bf16>; 3] {
    let [_, _, v] = Case::new(*shape, Mask::CAUSAL).inputs::<bf16>();
    let dim = shape.head_dim;
    let mut q = vec![bf16::ZERO; shape.batch * shape.q_heads * shape.q_len * dim];
    for row in q.chunks_mut(dim) {
        // Both halves of the large part are powers of two of moderate size, as is the scale.
        (row[0], row[1]) = (bf16::from_f32(large.abs().sqrt()), bf16::from_f32(8.0));
    }
    let mut k = vec![bf16::ZERO; v.len()];
    for (key, row) in k.chunks_mut(dim).enumerate() {
        let sign = if key % 37 == 5 { -large.signum() } else { large.signum() };
        row[0] = bf16::from_f32(8.0 * sign * large.abs().sqrt());
        // A warp takes every fourth (or second) slot of 16 keys: the warps' maxima are different, and close.
        row[1] = bf16::from_f32(step * (key / 16 % 4 + usize::from(key % 5 != 0)) as f32);
    }
    [q, k, v]
}

#[test]
fn large_logits() {
    // 4^n, and steps that the sum holds exactly in 24 bits (none from 4^15 on). Splits meet by their LSE, whose f32 is
    // too coarse for larger logits: there, one split takes all keys.
    for (large, step) in [
        (4f32.powi(7), 0.25),
        (4f32.powi(8), 0.25),
        (4f32.powi(10), 0.5),
        (4f32.powi(11), 0.5),
        (4f32.powi(12), 2.0),
        (4f32.powi(15), 0.0),
        (4f32.powi(40), 0.0),
        (4f32.powi(49), 0.0),
    ] {
        for (heads, q_len, kv_len) in
            [((4, 2), 3, 130), ((2, 2), 16, 250), ((8, 1), 5, 233), ((2, 2), 2, 700), ((16, 1), 4, 200)]
        {
            if kv_len > 256 && large > 4f32.powi(7) {
                continue;
            }
            for sign in [1.0, -1.0] {
                let shape = shape(1, heads, (q_len, kv_len), 64);
                let inputs = inputs(&shape, sign * large, step);
                let case = Case::new(shape, Mask::CAUSAL);
                for stream in streams(q_len as u64) {
                    let views = [0, 1, 2].map(|at: usize| inputs[at].as_slice());
                    let (out, lse) = run(&stream, &shape, &BlockPlan::dense(), None, views);
                    let out = out.into_iter().map(bf16::to_f32).collect();
                    let visible = TokenMask { shape: &shape, mask: &Mask::CAUSAL };
                    let compared = case.compare_inputs(&inputs, &Outcome { out, lse }, &visible);
                    compared.unwrap_or_else(|text| panic!("logits around {}: {text}", sign * large));
                }
            }
        }
    }
}
