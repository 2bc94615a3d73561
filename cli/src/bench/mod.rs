//! `lacuna bench`: how long planning and attention take, over a grid of methods, sizes and passes.

mod case;
mod clock;
mod measure;
mod page;
mod planner;
mod plot;
mod results;

use crate::config::Method;
use crate::failure::{Result, request};
use crate::files::{check_writable, write_report};
use crate::terminal;
use case::{Grid, Pass};
use lacuna::Device;
use results::Results;
use std::path::PathBuf;
use std::time::Duration;

/// Measure planning and attention over a grid of methods, sizes and passes.
///
/// Every call is causal, in bf16, on random inputs. Times are medians, by the device's clock on a GPU. On the SIMT
/// host, which emulates CUDA threads on CPU threads, they are wall time and compare with each other only; sizes are
/// small there.
#[derive(clap::Args)]
pub struct Args {
    /// auto, simt or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Methods, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    method: Vec<Method>,
    /// Passes, separated by commas [default: all that the methods have]
    #[arg(long, value_delimiter = ',')]
    pass: Vec<Pass>,
    /// Head dims, separated by commas [default: 64,128; on the SIMT host 64]
    #[arg(long, value_delimiter = ',')]
    head_dim: Vec<usize>,
    /// Tokens of a sequence, separated by commas [default: 4096,16384; on the SIMT host 256,512]
    #[arg(long, value_delimiter = ',')]
    len: Vec<usize>,
    /// Densities of `blocks` and `seer`, separated by commas [default: 0.5,0.25,0.1; on the SIMT host 0.25]
    #[arg(long, value_delimiter = ',')]
    density: Vec<f64>,
    /// Sequences
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Query heads [default: 32; on the SIMT host 2]
    #[arg(long)]
    heads: Option<usize>,
    /// KV heads [default: 8; on the SIMT host 1]
    #[arg(long)]
    kv_heads: Option<usize>,
    /// Milliseconds to spend on a number; three calls at least
    #[arg(long, default_value_t = 200, value_name = "MS")]
    time: u64,
    /// Also write the rows as JSON
    #[arg(long, value_name = "OUT.json")]
    json: Option<PathBuf>,
    /// Also write a page with plots
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    for path in [&args.json, &args.html].into_iter().flatten() {
        check_writable(path)?;
    }
    let device = Device::parse(&args.device)?;
    let cases = grid(args, device.is_simt())?.cases()?;
    let stream = device.new_stream()?;
    let mut results = Results::new(&device);
    let progress = terminal::progress(cases.len());
    for case in &cases {
        progress.set_message(case.to_string());
        let measured = measure::measure(&stream, case, Duration::from_millis(args.time))?;
        results.add(case, measured);
        progress.inc(1);
    }
    progress.finish_and_clear();
    terminal::print(&results.text());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&results)
            .map_err(|error| crate::failure::Failure::Failed(format!("json: {error}")))?;
        write_report(path, &(json + "\n"))?;
    }
    if let Some(path) = &args.html {
        write_report(path, &page::render(&results)?)?;
    }
    Ok(())
}

/// What was asked for, and what the device is fit for where nothing was.
fn grid(args: &Args, small: bool) -> Result<Grid> {
    let or = |given: &[usize], large: &[usize], little: &[usize]| match given {
        [] if small => little.to_vec(),
        [] => large.to_vec(),
        given => given.to_vec(),
    };
    let densities = match &args.density[..] {
        [] if small => vec![0.25],
        [] => vec![0.5, 0.25, 0.1],
        given => given.to_vec(),
    };
    if let Some(density) = densities.iter().find(|&&density| !(density > 0.0 && density <= 1.0)) {
        return request!("bench: --density must be above 0 and at most 1, got {density}");
    }
    let heads = args.heads.unwrap_or(if small { 2 } else { 32 });
    let all = [Method::Dense, Method::S2, Method::Blocks, Method::Seer, Method::Hyper];
    Ok(Grid {
        methods: if args.method.is_empty() { all.to_vec() } else { args.method.clone() },
        passes: if args.pass.is_empty() { Pass::ALL.to_vec() } else { args.pass.clone() },
        head_dims: or(&args.head_dim, &[64, 128], &[64]),
        lens: or(&args.len, &[4096, 16384], &[256, 512]),
        densities,
        batch: args.batch,
        heads,
        kv_heads: args.kv_heads.unwrap_or(if small { heads.div_ceil(2) } else { heads.div_ceil(4) }),
        small,
    })
}
