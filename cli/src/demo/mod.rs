//! `lacuna demo`: a language model reads real text, once for each way to attend.

mod kernel_attention;
mod measure;
mod planner;
pub mod results;
mod selection;
mod settings;
mod summary;

use crate::failure::{Failure, Result, request};
use crate::model::{Files, Model};
use crate::{files, report, terminal};
use lacuna::Device;
use std::path::PathBuf;

/// How far the dense run may be from the bits per byte that the model's definition states.
const STATED_TOLERANCE: f64 = 0.005;

/// Run a language model on real text with dense and sparse attention, print a table, write an HTML report.
///
/// Model and text are built in. The attention of the model is computed by lacuna's kernels, once for each method and
/// setting; everything else by candle on the CPU.
#[derive(clap::Args)]
pub struct Args {
    /// Text to read instead of the built-in one
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// A directory with config.json, model.safetensors and valid.txt of the same architecture, instead of the built-in
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Trained gates for the SeerAttention rows (not built yet)
    #[arg(long, value_name = "FILE")]
    gates: Option<PathBuf>,
    /// Bytes that the model reads at once
    #[arg(long, default_value_t = 2048)]
    window: usize,
    /// Windows to average over
    #[arg(long, default_value_t = 1)]
    windows: usize,
    /// Run only these families of rows, and dense
    #[arg(long, value_delimiter = ',', value_name = "FAMILY,...")]
    only: Vec<results::Family>,
    /// Also write the table as JSON
    #[arg(long, value_name = "OUT.json")]
    json: Option<PathBuf>,
    /// Where to write the report
    #[arg(long, value_name = "FILE.html", default_value = "lacuna-report.html")]
    report: PathBuf,
    /// auto, simt or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.gates.is_some() {
        return request!("--gates: method seer is not built yet");
    }
    files::check_writable(&args.report)?;
    args.json.as_deref().map_or(Ok(()), files::check_writable)?;
    let files = args.model.as_deref().map_or_else(|| Ok(Files::built_in()), Files::open)?;
    let model = Model::load(&files)?;
    let text = match &args.text {
        Some(path) => files::read_regular(path).map_err(|e| Failure::Request(format!("{}: {e}", path.display())))?,
        None => files.text,
    };
    let longest = model.config().max_position_embeddings;
    if !(2..=longest).contains(&args.window) {
        return request!("--window must be in 2..={longest}, what the model was trained for, got {}", args.window);
    }
    let needed = args.windows.checked_mul(args.window).and_then(|n| n.checked_add(1));
    if args.windows == 0 || needed.is_none_or(|needed| needed > text.len()) {
        return request!(
            "--windows must be in 1..={} for windows of {} bytes of a text of {}, got {}",
            text.len().saturating_sub(1) / args.window,
            args.window,
            text.len(),
            args.windows
        );
    }
    let built_in = args.model.is_none() && args.text.is_none();
    let task = measure::Task {
        model: &model,
        text: &text,
        text_name: args.text.as_ref().map_or_else(
            || "valid.txt: Python of the CPython 3.11 standard library that the model has not seen".to_owned(),
            |path| path.display().to_string(),
        ),
        window: args.window,
        windows: args.windows,
        only: &args.only,
        stated_bits_per_byte: if built_in { stated(args.window, args.windows) } else { None },
    };
    let results = measure::measure(&task, &Device::parse(&args.device)?)?;
    terminal::print(&summary::text(&results));
    files::write_report(&args.report, &report::render(&results)?)?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&results).map_err(|e| Failure::Failed(format!("json: {e}")))?;
        files::write_report(path, &json)?;
    }
    terminal::print(&format!("report: {}\n", args.report.display()));
    verdict(&results)
}

/// Bits per byte of the built-in model on its text, from its definition (data/reference-model/README.md).
fn stated(window: usize, windows: usize) -> Option<f64> {
    match (window, windows) {
        (2048, 1) => Some(1.2675),
        (4096, 1) => Some(1.1265),
        (1024, 16) => Some(0.9433),
        (2048, 16) => Some(0.7826),
        (4096, 16) => Some(0.7476),
        _ => None,
    }
}

/// The demo is a check as well: of the whole model by what is stated, of each plan by the reference.
fn verdict(results: &results::Results) -> Result<()> {
    let dense = results.rows[0].bits_per_byte;
    if let Some(stated) = results.stated_bits_per_byte
        && (dense - stated).abs() > STATED_TOLERANCE
    {
        return Err(Failure::Failed(format!("dense attention gives {dense:.4} bits per byte, not {stated} as stated")));
    }
    match results.rows.iter().find(|row| !row.within_bound()) {
        Some(row) => Err(Failure::Failed(format!(
            "{} ({}) is {:.1e} away from the reference, allowed are {:.1e}",
            row.method, row.settings, row.error, row.error_bound
        ))),
        None => Ok(()),
    }
}
