//! `lacuna demo`: a language model reads real text, once for each way to attend.

mod kernel_attention;
mod measure;
mod planner;
mod reading;
pub mod results;
mod selection;
pub mod settings;
mod summary;

use crate::failure::{Failure, Result};
use crate::gates::Gates;
use crate::{files, report, terminal};
use lacuna::Device;
pub use measure::{Task, measure};
pub use reading::{Options, Reading};
use results::{Family, Results};
pub use selection::{map_shares, pooled_shares};
use settings::Setting;
use std::path::PathBuf;

/// How far the dense run may be from the bits per byte that the model's definition states.
const STATED_TOLERANCE: f64 = 0.005;

/// Run a language model on real text with dense and sparse attention, print a table, write an HTML report.
///
/// Model and text are built in. The attention of the model is computed by lacuna's kernels, once for each method and
/// setting; everything else by candle on the CPU.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    reading: reading::Options,
    /// Bytes that the model reads at once
    #[arg(long, default_value_t = 2048)]
    window: usize,
    /// Windows to average over
    #[arg(long, default_value_t = 1)]
    windows: usize,
    /// Run only these families of rows, and dense
    #[arg(long, value_delimiter = ',', value_name = "FAMILY,...")]
    only: Vec<Family>,
    /// Also write the table as JSON
    #[arg(long, value_name = "OUT.json")]
    json: Option<PathBuf>,
    /// Where to write the report
    #[arg(long, value_name = "FILE.html", default_value = "lacuna-report.html")]
    report: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    files::check_writable(&args.report)?;
    args.json.as_deref().map_or(Ok(()), files::check_writable)?;
    let reading = Reading::open(&args.reading, args.window, args.windows)?;
    let gates = Gates::open(args.reading.gates.as_deref(), reading.model.config())?;
    let wanted = |family| family == Family::Dense || args.only.is_empty() || args.only.contains(&family);
    let settings: Vec<Setting> = settings::demo(&gates).into_iter().filter(|row| wanted(row.family)).collect();
    let built_in = args.reading.model.is_none() && args.reading.text.is_none();
    let task = Task {
        reading: &reading,
        window: args.window,
        windows: args.windows,
        settings: &settings,
        stated_bits_per_byte: if built_in { stated(args.window, args.windows) } else { None },
    };
    let results = measure(&task, &Device::parse(&args.reading.device)?)?;
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
fn verdict(results: &Results) -> Result<()> {
    let dense = results.rows[0].bits_per_byte;
    if let Some(stated) = results.stated_bits_per_byte
        && (dense - stated).abs() > STATED_TOLERANCE
    {
        return Err(Failure::Failed(format!("dense attention gives {dense:.4} bits per byte, not {stated} as stated")));
    }
    check_errors(results)
}

/// Fails if a kernel is further from the reference than it may be.
pub fn check_errors(results: &Results) -> Result<()> {
    match results.rows.iter().find(|row| !row.within_bound()) {
        Some(row) => Err(Failure::Failed(format!(
            "{} ({}) is {:.1e} away from the reference, allowed are {:.1e}",
            row.method, row.settings, row.error, row.error_bound
        ))),
        None => Ok(()),
    }
}
