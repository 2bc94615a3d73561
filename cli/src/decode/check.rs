//! `--check`: every row against the f64 reference.

use super::marks::Seen;
use super::request::{Planner, Request};
use super::run::Outcome;
use crate::failure::Result;
use lacuna::reference::{Problem, compare_lse, widen};
use lacuna::{ForwardOptions, Half};

/// What the check found.
pub struct Report {
    /// A line for each output.
    pub text: String,
    /// Whether all are right.
    pub passed: bool,
}

/// Compares out and LSE with the reference under the blocks that each token read.
pub fn check<T: Half + Into<f64>>(
    request: &Request<T>,
    options: &ForwardOptions<'_>,
    outcome: &Outcome,
) -> Result<Report> {
    let qkv = &request.qkv;
    let (q, k, v) = (widen(&qkv.q), widen(&qkv.k), widen(&qkv.v));
    let problem = Problem { scale: options.scale.map(f64::from), ..Problem::new(qkv.shape, &q, &k, &v) };
    let expected = problem.expect(&Seen::new(request, outcome.mask.as_ref()))?;
    let out = expected.out.compare(&outcome.out)?;
    let lse = compare_lse(&outcome.lse, &expected.lse)?;
    let mut report = Report { text: format!("out: {out}\nlse: {lse}\n"), passed: out.passed() && lse.passed() };
    if let (Planner::Seer(gate), Some(mask)) = (&request.planner, &outcome.mask) {
        let lists = gate.check(request, &outcome.steps, mask)?;
        report.text += &lists.text("decode_mask");
        report.passed &= lists.passed();
    }
    Ok(report)
}
