//! `lacuna check`: every kernel of this build on a device against the f64 reference.

mod case;

use crate::failure::{Failure, Result};
use crate::files::{check_writable, write_report};
use crate::terminal;
use case::{Case, Kernels, Outcome};
use lacuna::{AttentionShape, BlockPlan, DType, Device, ForwardOptions, KernelFamily, attention, bf16, f16};
use std::path::PathBuf;

/// Validate every kernel on a device against the f64 reference.
///
/// Head dims x element types x kernels x plans, each over several masks, head groups and lengths. Exit code 1 if
/// anything is wrong.
#[derive(clap::Args)]
pub struct Args {
    /// auto, simt or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Seed of the random inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the table as JSON
    #[arg(long, value_name = "OUT.json")]
    json: Option<PathBuf>,
}

const HEAD_DIMS: [usize; 5] = [32, 64, 96, 128, 256];

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    args.json.as_deref().map_or(Ok(()), check_writable)?;
    let device = Device::parse(&args.device)?;
    let stream = device.new_stream()?;
    let kinds = case::Kind::ALL;
    let mut rows = vec![[vec!["kernel".to_owned()], kinds.map(case::Kind::name).to_vec()].concat()];
    let mut failures = Vec::new();
    let mut ran = 0;
    let all = kernels(&device);
    let calls = all.iter().map(|(_, _, kernels)| kinds.len() * kernels.variants().len()).sum();
    let progress = terminal::progress(calls);
    for (head_dim, dtype, kernels) in all {
        let variants = kernels.variants();
        let mut row = vec![format!("head_dim {head_dim:>3} {:>4} {kernels}", dtype.to_string())];
        for kind in kinds {
            let mut cell = Tally::default();
            for variant in &variants {
                let case = Case { head_dim, dtype, kernels, kind, variant: *variant, seed: args.seed };
                progress.set_message(case.to_string());
                let outcome = match dtype {
                    DType::BF16 => case.run::<bf16>(&stream),
                    DType::F16 => case.run::<f16>(&stream),
                };
                cell.add(&case, outcome?, &mut failures);
                progress.inc(1);
            }
            ran += cell.passed + cell.failed;
            row.push(cell.to_string());
        }
        rows.push(row);
    }
    progress.finish_and_clear();
    let mut text = format!("{} ({})\n\n{}", device.name(), device.choice(), terminal::table(&rows, 1));
    text += "\nEach cell: calls that passed of those run, and their largest error as a part of its bound (1.00 would be at it).\n";
    for failure in &failures {
        text += &format!("FAILED {failure}\n");
    }
    terminal::print(&text);
    if let Some(path) = &args.json {
        let json = serde_json::json!({"device": device.name(), "ran": ran, "failures": failures, "table": rows});
        write_report(path, &format!("{json:#}\n"))?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!("check: {} of {ran} calls are wrong", failures.len())))
}

/// Rows of the table: the portable kernels, others where the device has them, and those of decode.
fn kernels(device: &Device) -> Vec<(usize, DType, Kernels)> {
    let mut kernels = Vec::new();
    for (head_dim, dtype) in HEAD_DIMS.iter().flat_map(|&d| [DType::BF16, DType::F16].map(|t| (d, t))) {
        let shape = AttentionShape { batch: 1, q_heads: 1, kv_heads: 1, q_len: 128, kv_len: 128, head_dim, dtype };
        kernels.push((head_dim, dtype, Kernels::Forward(KernelFamily::Portable)));
        let options = ForwardOptions { family: KernelFamily::Hopper, ..ForwardOptions::causal() };
        if attention::kernel(device, &shape, &options, &BlockPlan::dense()).is_ok() {
            kernels.push((head_dim, dtype, Kernels::Forward(KernelFamily::Hopper)));
        }
        kernels.push((head_dim, dtype, Kernels::Decode));
    }
    kernels
}

/// The calls of one cell of the table.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    /// Error over bound, the largest of all calls.
    worst: f64,
}

impl Tally {
    fn add(&mut self, case: &Case, outcome: Outcome, failures: &mut Vec<String>) {
        match outcome {
            Outcome::NotBuilt => {}
            Outcome::Passed { ratio } => {
                self.passed += 1;
                self.worst = self.worst.max(ratio);
            }
            Outcome::Failed { why } => {
                self.failed += 1;
                failures.push(format!("{case}: {why}"));
            }
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.passed, self.failed) {
            (0, 0) => f.write_str("not served"),
            (passed, 0) => write!(f, "{passed}/{passed} {:.2}", self.worst),
            (passed, failed) => write!(f, "{passed}/{} FAILED", passed + failed),
        }
    }
}
