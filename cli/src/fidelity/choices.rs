//! Choices beyond the paper beside the default: the same hashes for the same seed, so that only the choice differs.

use super::bias::{Mean, mean_and_error};
use super::errors::{difference, relative};
use super::language::{self, Way};
use super::layers::Source;
use super::map::Map;
use crate::attend::Hyper;
use crate::demo::Reading;
use crate::failure::Result;
use indicatif::ProgressBar;
use lacuna::{ForwardOptions, HyperConfig, Mask, Sampling, Stream};
use serde::Serialize;

/// A choice: what it changes in the default settings.
pub struct Choice {
    name: &'static str,
    /// Means nothing to other calls.
    causal: bool,
    of: fn(HyperConfig) -> HyperConfig,
}

/// In the order of the tables; the first is the default, which the others are compared with.
static CHOICES: [Choice; 15] = [
    choice("default", |config| config),
    choice("distinct samples", |config| HyperConfig { sampling: Sampling::Distinct, ..config }),
    choice("stratified samples", |config| HyperConfig { sampling: Sampling::Stratified, ..config }),
    choice("samples by values", by_values),
    choice("16 sinks", |config| HyperConfig { sinks: SINKS, ..config }),
    choice("aligned windows", aligned),
    choice("by values, aligned", |config| aligned(by_values(config))),
    choice("two rounds of half the blocks", two_rounds),
    choice("two rounds, aligned", |config| aligned(two_rounds(config))),
    causal_choice("local window", with_window),
    causal_choice("local, aligned", |config| aligned(with_window(config))),
    causal_choice("by values, local, aligned", |config| aligned(by_values(with_window(config)))),
    causal_choice("two rounds, local, aligned", |config| aligned(two_rounds(with_window(config)))),
    causal_choice("values, rounds, local, aligned", |config| aligned(two_rounds(by_values(with_window(config))))),
    causal_choice("leaves of twice the size", |config| HyperConfig { min_seq_len: 2 * config.min_seq_len, ..config }),
];

const fn choice(name: &'static str, of: fn(HyperConfig) -> HyperConfig) -> Choice {
    Choice { name, causal: false, of }
}

const fn causal_choice(name: &'static str, of: fn(HyperConfig) -> HyperConfig) -> Choice {
    Choice { name, causal: true, of }
}

fn by_values(config: HyperConfig) -> HyperConfig {
    HyperConfig { sampling: Sampling::Values, ..config }
}

fn aligned(config: HyperConfig) -> HyperConfig {
    HyperConfig { align_windows: true, ..config }
}

/// Blocks of half the size: as many pairs as one round has, those counted twice that both have.
fn two_rounds(config: HyperConfig) -> HyperConfig {
    HyperConfig { rounds: 2, block_size: config.block_size / 2, ..config }
}

/// A leaf reaches over the whole one before it.
fn with_window(config: HyperConfig) -> HyperConfig {
    HyperConfig { local_window: config.min_seq_len, ..config }
}

/// Sinks of the choices that have any.
const SINKS: usize = 16;

/// Choices for calls that are causal, or for others.
pub fn of(causal: bool) -> impl Iterator<Item = &'static Choice> {
    CHOICES.iter().filter(move |choice| causal || !choice.causal)
}

/// A choice on one source.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub source: &'static str,
    pub causal: bool,
    pub block_size: usize,
    pub sample_size: usize,
    pub choice: &'static str,
    /// Attended pairs over visible ones, mean over seeds and layers.
    pub density: f64,
    /// exp(lse - exact lse) - 1, mean over heads and queries.
    pub bias: Figure,
    /// ‖estimate − exact‖ / ‖exact‖ of a head's output, Frobenius norms, mean over heads.
    pub error: Figure,
    /// The error over that of the default for the same seed, less 1; the default's own row has none.
    pub change: Option<Figure>,
}

/// Mean over seeds, and the standard error of that mean.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figure {
    pub mean: f64,
    pub standard_error: f64,
}

/// Bits per byte of a choice.
#[derive(Debug, Clone, Serialize)]
pub struct Quality {
    pub block_size: usize,
    pub sample_size: usize,
    pub choice: &'static str,
    /// Attended pairs over causal ones, mean over seeds and layers.
    pub density: f64,
    pub bits_per_byte: Figure,
    /// Less those of the default for the same seed.
    pub change: Option<Figure>,
}

/// All choices with `config` on a source.
pub fn measure(
    stream: &Stream,
    source: &Source,
    config: &HyperConfig,
    mask: Mask,
    seeds: u64,
    progress: &ProgressBar,
) -> Result<Vec<Row>> {
    let maps = source.layers.iter().map(|layer| Map::of_layer(layer, mask.causal)).collect::<Result<Vec<_>>>()?;
    let options = ForwardOptions { mask, ..ForwardOptions::default() };
    let mut rows = Vec::new();
    let mut default_errors: Vec<f64> = Vec::new();
    for choice in of(mask.causal) {
        let (mut biases, mut errors, mut density) = (Vec::new(), Vec::new(), Mean::default());
        for seed in 0..seeds {
            let (mut bias, mut error) = (Mean::default(), Mean::default());
            for (layer, maps) in source.layers.iter().zip(&maps) {
                let hyper = Hyper::drawn((choice.of)(HyperConfig { seed, ..config.clone() }));
                let answer = hyper.attend(stream, &layer.shape, &options, layer.inputs())?;
                bias.add_ratios(&answer.lse, maps);
                density.add(answer.visited(&layer.shape, &mask).1);
                let of_head = layer.shape.q_len * layer.shape.head_dim;
                for (map, out) in maps.iter().zip(answer.out.chunks_exact(of_head)) {
                    error.add(relative(&difference(out, &map.out), &map.out));
                }
            }
            biases.push(bias.mean());
            errors.push(error.mean());
            progress.inc(1);
        }
        let change = (!rows.is_empty()).then(|| {
            let ratios: Vec<f64> =
                errors.iter().zip(&default_errors).map(|(error, default)| error / default - 1.0).collect();
            Figure::of(&ratios)
        });
        rows.push(Row {
            source: source.name,
            causal: mask.causal,
            block_size: config.block_size,
            sample_size: config.sample_size,
            choice: choice.name,
            density: density.mean(),
            bias: Figure::of(&biases),
            error: Figure::of(&errors),
            change,
        });
        if default_errors.is_empty() {
            default_errors = errors;
        }
    }
    Ok(rows)
}

/// All choices with `config` in the language model.
pub fn quality(
    stream: &Stream,
    reading: &Reading,
    sizes: [usize; 2],
    config: &HyperConfig,
    seeds: u64,
    progress: &ProgressBar,
) -> Result<Vec<Quality>> {
    let mut rows = Vec::new();
    let mut default_bits: Vec<f64> = Vec::new();
    for choice in &CHOICES {
        let (mut bits, mut density) = (Vec::new(), Mean::default());
        for seed in 0..seeds {
            let way = Way::Hyper((choice.of)(HyperConfig { seed, ..config.clone() }));
            let row = language::measure(stream, reading, sizes, &way, progress)?;
            bits.push(row.bits_per_byte);
            density.add(row.density);
        }
        let less = || bits.iter().zip(&default_bits).map(|(bits, default)| bits - default).collect::<Vec<f64>>();
        rows.push(Quality {
            block_size: config.block_size,
            sample_size: config.sample_size,
            choice: choice.name,
            density: density.mean(),
            bits_per_byte: Figure::of(&bits),
            change: (!default_bits.is_empty()).then(|| Figure::of(&less())),
        });
        if default_bits.is_empty() {
            default_bits = bits;
        }
    }
    Ok(rows)
}

impl Figure {
    fn of(samples: &[f64]) -> Self {
        let (mean, standard_error) = mean_and_error(samples);
        Self { mean, standard_error }
    }
}
