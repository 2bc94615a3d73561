//! `lacuna quality`: does learning pay? A trained gate against what needs no training, at the same densities.

mod calibrate;
mod decode;
mod plot;
mod summary;
mod verdict;

use crate::demo::results::Results;
use crate::demo::settings::{self, Thresholds};
use crate::demo::{Options, Reading, Task, check_errors, measure};
use crate::distill::Kind;
use crate::failure::{Failure, Result};
use crate::gates::Gates;
use crate::{files, report, terminal};
use lacuna::Device;
use std::path::PathBuf;
use verdict::Verdict;

/// Compare a trained gate with mean-pooled scores, a local window, the oracle and random blocks on a text.
///
/// Blocks are picked in two ways, each at densities of 50, 30, 20 and 10 %. By one threshold for all layers and heads:
/// a gate keeps blocks with more than that share of its softmax, and so do mean-pooled scores and the true map of
/// blocks, each with the threshold that gives it the density on this text with dense attention; what the model predicts
/// plays no part in that. And by number: every row keeps the same number of blocks, with one more in some rows where
/// the density asks for that (of the gate the published number for a density). Each row's own block is always among
/// them. The attention of the model is computed by lacuna's kernels, and the densities in the table are what they
/// attended.
///
/// Of decode gates (--kind decode) every token picks blocks for itself, as many as budgets of 1024, 512, 256 and 128
/// tokens hold, for each KV head, by the gate's kernels; the attention that follows is in f32 on the CPU.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    reading: Options,
    /// What the gates select for
    #[arg(long, value_enum, default_value = "prefill")]
    kind: Kind,
    /// Bytes that the model reads at once
    #[arg(long, default_value_t = 4096)]
    window: usize,
    /// Windows to average over
    #[arg(long, default_value_t = 8)]
    windows: usize,
    /// Also write table and verdicts as JSON
    #[arg(long, value_name = "OUT.json")]
    json: Option<PathBuf>,
    /// Also write the plot of density against bits per byte
    #[arg(long, value_name = "OUT.svg")]
    plot: Option<PathBuf>,
    /// Also write the demo's report for these rows
    #[arg(long, value_name = "OUT.html")]
    report: Option<PathBuf>,
}

/// The JSON: the demo's, and what follows from it.
#[derive(serde::Serialize)]
struct Quality<'a> {
    #[serde(flatten)]
    results: &'a Results,
    gates: &'a str,
    thresholds: &'a [Thresholds],
    verdicts: &'a [Verdict],
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    for path in [&args.json, &args.plot, &args.report].into_iter().flatten() {
        files::check_writable(path)?;
    }
    if args.kind == Kind::Decode {
        return decode::run(args);
    }
    let reading = Reading::open(&args.reading, args.window, args.windows)?;
    let gates = Gates::open(args.reading.gates.as_deref(), reading.model.config())?;
    let (window, windows) = (args.window, args.windows);
    let device = Device::parse(&args.reading.device)?;
    let thresholds = calibrate::thresholds(&reading, &gates, window, windows, &device)?;
    let settings = settings::quality(&gates, window, &thresholds);
    let task = Task { reading: &reading, window, windows, settings: &settings, stated_bits_per_byte: None };
    let results = measure(&task, &device)?;
    let verdicts = verdict::verdicts(&results);
    terminal::print(&summary::text(&results, &gates.name, &verdicts));
    if let Some(path) = &args.json {
        let quality = Quality { results: &results, gates: &gates.name, thresholds: &thresholds, verdicts: &verdicts };
        let json = serde_json::to_string_pretty(&quality).map_err(|e| Failure::Failed(format!("json: {e}")))?;
        files::write_report(path, &json)?;
    }
    if let Some(path) = &args.plot {
        files::write_report(path, &plot::density_against_quality(&results)?)?;
    }
    if let Some(path) = &args.report {
        files::write_report(path, &report::render(&results)?)?;
    }
    check_errors(&results)
}
