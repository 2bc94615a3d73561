//! `--check`: the answer of the kernels against the f64 reference.

use super::grad::{Gradients, Upstream};
use super::input::{Planner, Request};
use crate::attention_call::Answer;
use crate::failure::Result;
use lacuna::reference::{Problem, TokenMask, compare_lse, widen};
use lacuna::{AttentionShape, BlockMask, ForwardOptions, Half, Mask};

/// What the check found.
pub struct Report {
    /// A line for each output.
    pub text: String,
    /// Whether all are right.
    pub passed: bool,
}

/// Compares out, LSE and gradients with the reference, and the blocks that a kernel drew with those that were asked
/// for.
pub fn check<T: Half + Into<f64>>(
    request: &Request<T>,
    options: &ForwardOptions<'_>,
    answer: &Answer,
    gradients: Option<(&Upstream<T>, &Gradients)>,
) -> Result<Report> {
    let (qkv, mask) = (&request.qkv, &options.mask);
    let shape = &qkv.shape;
    let (q, k, v) = (widen(&qkv.q), widen(&qkv.k), widen(&qkv.v));
    let problem = Problem { scale: options.scale.map(f64::from), ..Problem::new(*shape, &q, &k, &v) };
    let blocks = match &request.planner {
        Planner::Pattern(pattern) => pattern.blocks(),
        Planner::Gate(_) => Some(&answer.blocks),
    };
    let expected = match blocks {
        None => problem.expect(&TokenMask { shape, mask })?,
        Some(blocks) => problem.expect(&blocks.visibility(shape, mask))?,
    };
    let out = expected.out.compare(&answer.out)?;
    let lse = compare_lse(&answer.lse, &expected.lse)?;
    let mut text = format!("out: {out}\nlse: {lse}\n");
    let mut passed = out.passed() && lse.passed();
    if let Some((upstream, gradients)) = gradients {
        let (lines, right) = match blocks {
            None => upstream.check(gradients, &problem, &TokenMask { shape, mask })?,
            Some(blocks) => upstream.check(gradients, &problem, &blocks.visibility(shape, mask))?,
        };
        text += &lines;
        passed &= right;
    }
    match &request.planner {
        Planner::Pattern(pattern) => {
            if let Some(blocks) = pattern.blocks() {
                let asked = visible_only(blocks, shape, mask);
                let wrong = asked.iter().zip(&answer.blocks.data).filter(|(a, b)| a != b).count();
                text += &format!("block_mask: {wrong} of {} blocks differ\n", answer.blocks.data.len());
                passed &= wrong == 0;
            }
        }
        Planner::Gate(gate) => {
            let lists = gate.check(shape, &answer.blocks)?;
            text += &lists.text("block_mask");
            passed &= lists.passed();
        }
    }
    Ok(Report { text, passed })
}

/// 0 or 1 for each block: asked for, and with a pair that the token mask lets through.
fn visible_only(blocks: &BlockMask, shape: &AttentionShape, mask: &Mask) -> Vec<u8> {
    let mut visible = vec![0; blocks.q_blocks * blocks.kv_blocks];
    for r in 0..blocks.q_blocks {
        for t in blocks.queries(shape, r) {
            let keys = mask.visible(shape, t);
            if !keys.is_empty() {
                let columns = keys.start / blocks.block_k..=(keys.end - 1) / blocks.block_k;
                visible[r * blocks.kv_blocks..][columns].fill(1);
            }
        }
    }
    let asked = blocks.data.chunks(visible.len().max(1));
    asked.flat_map(|plane| plane.iter().zip(&visible).map(|(&asked, &seen)| u8::from(asked != 0) & seen)).collect()
}
