//! `lacuna fidelity`: how far HyperAttention is from exact attention, measured.

mod bias;
mod choices;
mod errors;
mod language;
mod layers;
mod map;
mod plots;
mod settings;
mod sorted;
mod summary;
mod weights;

use crate::demo::{self, Reading};
use crate::failure::{Failure, Result, request};
use crate::{files, terminal};
use lacuna::{Device, HyperConfig, Mask, Stream};
use language::Way;
use layers::Source;
use serde::Serialize;
use std::path::PathBuf;

/// Measure how far HyperAttention is from exact attention.
///
/// Operator error, bias of the estimated sum beside that of weights that published codes have, choices beyond it, what
/// the paper's theorem assumes, and bits per byte of the language model, on its real q, k and v and on made-up ones.
/// All estimates come from lacuna's kernels, exact attention from f64.
#[derive(clap::Args)]
pub struct Args {
    /// Text to read instead of the built-in one
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// A directory with config.json, model.safetensors and valid.txt of the same architecture, instead of the built-in
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// auto, simt or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Tokens of the calls whose error is measured
    #[arg(long, default_value_t = 4096)]
    length: usize,
    /// Seeds that the bias is averaged over
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Bytes that the model reads at once for bits per byte
    #[arg(long, default_value_t = 4096)]
    window: usize,
    /// Windows to average bits per byte over
    #[arg(long, default_value_t = 4)]
    windows: usize,
    /// Seeds that choices beyond the paper are compared over in bits per byte; four times as many for their errors
    #[arg(long, default_value_t = 4)]
    choice_seeds: u64,
    /// Measure only this; several with commas
    #[arg(long, value_name = "PARTS", value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// Also write the tables as JSON
    #[arg(long, value_name = "OUT.json")]
    json: Option<PathBuf>,
    /// Also write the plots of what was measured there: hyper-error.svg, hyper-bias.svg, hyper-quality.svg
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Operator error, and what the theorem assumes.
    Error,
    /// Bias of the estimated sum.
    Bias,
    /// Choices beyond the paper.
    Choices,
    /// Bits per byte.
    Quality,
}

impl Part {
    const ALL: [Self; 4] = [Self::Error, Self::Bias, Self::Choices, Self::Quality];
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Bias => "bias",
            Self::Choices => "choices",
            Self::Quality => "quality",
        })
    }
}

/// Seeds of a choice's error for each of its bits per byte.
const CHOICE_ERRORS: u64 = 4;

/// Least tokens of a call: two leaves.
const SHORTEST: usize = 2 * settings::LEAF;

/// Tokens of the calls whose bias is measured, at most; seeds count more there.
const BIAS_LENGTH: usize = 1000;

/// Block and sample size of those calls, and the length of their leaves.
const BIAS_SIZE: usize = 64;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Results {
    version: &'static str,
    device: String,
    device_choice: String,
    text: String,
    length: usize,
    leaf: usize,
    kappa_block: usize,
    errors: Vec<errors::Row>,
    conditions: Vec<errors::Conditions>,
    seeds: u64,
    bias_length: usize,
    bias_size: usize,
    bias: Vec<bias::Row>,
    choices: Vec<choices::Row>,
    choice_seeds: u64,
    choices_quality: Vec<choices::Quality>,
    window: usize,
    windows: usize,
    language: Vec<language::Row>,
}

impl Results {
    /// Names of the estimators whose bias was measured, each once.
    fn estimators(&self) -> Vec<&str> {
        unique(self.bias.iter().map(|row| row.estimator.as_str()))
    }

    /// What bias was measured on.
    fn bias_sources(&self) -> Vec<&'static str> {
        unique(self.bias.iter().map(|row| row.source))
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    names.for_each(|name| {
        if !seen.contains(&name) {
            seen.push(name);
        }
    });
    seen
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    args.json.as_deref().map_or(Ok(()), files::check_writable)?;
    if let Some(folder) = args.plots.as_deref().filter(|folder| !folder.is_dir()) {
        return request!("--plots must be a folder, got {}", folder.display());
    }
    for (option, seeds) in [("seeds", args.seeds), ("choice-seeds", args.choice_seeds)] {
        if seeds < 2 {
            return request!("--{option} must be at least 2, got {seeds}");
        }
    }
    let options =
        demo::Options { text: args.text.clone(), model: args.model.clone(), gates: None, device: args.device.clone() };
    let reading = Reading::open(&options, args.window, args.windows)?;
    let longest = reading.model.config().max_position_embeddings.min(reading.text.len() - 1);
    for (option, tokens) in [("length", args.length), ("window", args.window)] {
        if !(SHORTEST..=longest).contains(&tokens) {
            return request!("--{option} must be in {SHORTEST}..={longest}, got {tokens}");
        }
    }
    let results = measure(args, &reading, &Device::parse(&args.device)?)?;
    terminal::print(&summary::text(&results));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&results).map_err(|e| Failure::Failed(format!("json: {e}")))?;
        files::write_report(path, &json)?;
    }
    if let Some(folder) = &args.plots {
        for (name, svg) in plots::all(&results)? {
            files::write_report(&folder.join(name), &svg)?;
        }
    }
    Ok(())
}

fn measure(args: &Args, reading: &Reading, device: &Device) -> Result<Results> {
    let stream = device.new_stream()?;
    let kappa_block = settings::grid()[0].block_size;
    let mut results = Results {
        version: env!("CARGO_PKG_VERSION"),
        device: device.name(),
        device_choice: device.choice().to_owned(),
        text: reading.text_name.clone(),
        length: args.length,
        leaf: settings::LEAF,
        kappa_block,
        errors: Vec::new(),
        conditions: Vec::new(),
        seeds: args.seeds,
        // The last block is not full, so that it shows what fills it.
        bias_length: args.length.min(BIAS_LENGTH) / BIAS_SIZE * BIAS_SIZE - BIAS_SIZE / 3,
        bias_size: BIAS_SIZE,
        bias: Vec::new(),
        choices: Vec::new(),
        choice_seeds: args.choice_seeds,
        choices_quality: Vec::new(),
        window: args.window,
        windows: args.windows,
        language: Vec::new(),
    };
    for part in Part::ALL.into_iter().filter(|part| args.only.contains(part)) {
        match part {
            Part::Error => operator_errors(args, reading, &stream, &mut results)?,
            Part::Bias => biases(reading, &stream, &mut results)?,
            Part::Choices => choices_beyond(args, reading, &stream, &mut results)?,
            Part::Quality => bits_per_byte(args, reading, &stream, &mut results)?,
        }
    }
    Ok(results)
}

fn operator_errors(args: &Args, reading: &Reading, stream: &Stream, results: &mut Results) -> Result<()> {
    let mut sources = vec![layers::of_model(&reading.model, &reading.text, args.length, 1)?];
    sources.extend(layers::made_up(args.length));
    let (grid, few) = (settings::grid(), settings::few());
    let calls = |source: &Source| source.layers.len() * if source.name == "model" { grid.len() } else { 2 * few.len() };
    let bar = terminal::progress(2 * sources.iter().map(calls).sum::<usize>());
    for source in &sources {
        bar.set_message(format!("operator error: {}", source.name));
        let configs = match source.name {
            "model" => grid.clone(),
            _ => few
                .iter()
                .flat_map(|config| [true, false].map(|center| HyperConfig { center, ..config.clone() }))
                .collect(),
        };
        for causal in [false, true] {
            let rows = errors::measure(stream, source, &configs, causal, &mut results.conditions, &bar)?;
            results.errors.extend(rows);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn biases(reading: &Reading, stream: &Stream, results: &mut Results) -> Result<()> {
    let (length, seeds) = (results.bias_length, results.seeds);
    let mut sources = vec![layers::of_model(&reading.model, &reading.text, length, 1)?];
    sources.extend(layers::made_up(length));
    let bar = terminal::progress(sources.len() * 2 * seeds as usize);
    let config = HyperConfig { min_seq_len: BIAS_SIZE, ..settings::config(BIAS_SIZE, BIAS_SIZE, 7) };
    for source in &sources {
        bar.set_message(format!("bias: {}", source.name));
        let full = bias::full(stream, source, &config, seeds, &bar)?;
        let causal = bias::kernel(stream, source, &config, ("lacuna's kernels, causal", Mask::CAUSAL), seeds, &bar)?;
        results.bias.push(causal);
        results.bias.extend(full);
    }
    bar.finish_and_clear();
    Ok(())
}

fn choices_beyond(args: &Args, reading: &Reading, stream: &Stream, results: &mut Results) -> Result<()> {
    let length = results.bias_length;
    let mut sources = vec![layers::of_model(&reading.model, &reading.text, length, 1)?];
    sources.extend(layers::made_up(length));
    let configs = settings::choices(BIAS_SIZE);
    let seeds = CHOICE_ERRORS * args.choice_seeds;
    let ways = choices::of(true).count() + choices::of(false).count();
    let bar = terminal::progress(sources.len() * configs.len() * ways * seeds as usize);
    for source in &sources {
        bar.set_message(format!("choices: {}", source.name));
        for (config, mask) in configs.iter().flat_map(|config| [(config, Mask::FULL), (config, Mask::CAUSAL)]) {
            results.choices.extend(choices::measure(stream, source, config, mask, seeds, &bar)?);
        }
    }
    bar.finish_and_clear();
    let (configs, sizes) = (settings::language_choices(), [args.window, args.windows]);
    let calls = choices::of(true).count() * args.windows * args.choice_seeds as usize;
    let bar = terminal::progress(configs.len() * calls);
    bar.set_message("choices: bits per byte");
    for config in &configs {
        let rows = choices::quality(stream, reading, sizes, config, args.choice_seeds, &bar)?;
        results.choices_quality.extend(rows);
    }
    bar.finish_and_clear();
    Ok(())
}

fn bits_per_byte(args: &Args, reading: &Reading, stream: &Stream, results: &mut Results) -> Result<()> {
    let configs = settings::language();
    let bar = terminal::progress((1 + 2 * configs.len()) * args.windows);
    let mut row = |way: &Way| -> Result<f64> {
        bar.set_message("bits per byte");
        let row = language::measure(stream, reading, [args.window, args.windows], way, &bar)?;
        let density = row.density;
        results.language.push(row);
        Ok(density)
    };
    row(&Way::Dense)?;
    for config in configs {
        let density = row(&Way::Hyper(config))?;
        row(&Way::window_of(density, args.window))?;
    }
    bar.finish_and_clear();
    Ok(())
}
