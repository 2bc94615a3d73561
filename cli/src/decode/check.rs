//! `--check`: every row against the f64 reference.

use super::marks::Seen;
use super::request::{Planner, Request};
use super::run::Outcome;
use crate::attend::Report;
use crate::failure::Result;
use lacuna::reference::{Problem, compare_lse, widen};
use lacuna::{ForwardOptions, Half};

/// Compares out and LSE with the reference over the blocks that each token read, and the blocks that a gate picked with
/// those of the f64 gate.
pub fn check<T: Half + Into<f64>>(
    request: &Request<T>,
    options: &ForwardOptions<'_>,
    outcome: &Outcome,
) -> Result<Report> {
    let qkv = &request.qkv;
    let (q, k, v) = (widen(&qkv.q), widen(&qkv.k), widen(&qkv.v));
    let problem = Problem { scale: options.scale.map(f64::from), ..Problem::new(qkv.shape, &q, &k, &v) };
    let expected = problem.expect(&Seen::new(request, outcome.picked.as_ref()))?;
    let out = expected.out.compare(&outcome.out)?;
    let lse = compare_lse(&outcome.lse, &expected.lse)?;
    let mut report = Report { text: format!("out: {out}\nlse: {lse}\n"), passed: out.passed() && lse.passed() };
    if let (Planner::Gate(gate), Some(picked)) = (&request.planner, &outcome.picked) {
        let lists = gate.check(request, &outcome.steps, picked)?;
        report.text += &lists.text("block_mask");
        report.passed &= lists.passed();
    }
    Ok(report)
}
