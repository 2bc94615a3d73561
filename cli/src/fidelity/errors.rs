//! The error of the estimate as an operator, and the conditions of the paper's theorem.

use super::layers::{Layer, Source};
use super::map::{Map, spectral_norm};
use super::sorted::Sorted;
use crate::attend::Hyper;
use crate::attention_call::attend;
use crate::failure::Result;
use indicatif::ProgressBar;
use lacuna::reference::widen;
use lacuna::{BlockPlan, ForwardOptions, HyperConfig, Mask, Stream};
use serde::Serialize;

/// Columns that [`Conditions::late_alpha`] leaves out: the paper's own figures do.
const EARLY: usize = 32;

/// One setting on all heads of a source.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What it was measured on.
    pub source: &'static str,
    /// The settings; `None`: the dense kernel, whose error is that of rounding.
    #[serde(flatten)]
    pub setting: Option<Setting>,
    /// Causal or full attention.
    pub causal: bool,
    /// Attended pairs over visible pairs, mean over layers.
    pub density: f64,
    /// For each head ‖estimate − exact‖ / (‖D⁻¹A‖ ‖V‖), in the spectral norm.
    pub heads: Vec<f64>,
    /// For each head ‖estimate − exact‖ / ‖exact‖, in the Frobenius norm.
    pub relative: Vec<f64>,
}

/// The settings of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub block_size: usize,
    pub sample_size: usize,
    pub num_projections: usize,
    pub center: bool,
}

impl Row {
    /// Median operator error of the heads.
    pub fn median(&self) -> f64 {
        median(&self.heads)
    }

    /// Largest operator error of the heads.
    pub fn worst(&self) -> f64 {
        self.heads.iter().copied().fold(0.0, f64::max)
    }

    /// Median relative error of the heads.
    pub fn median_relative(&self) -> f64 {
        median(&self.relative)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

impl From<&HyperConfig> for Setting {
    fn from(config: &HyperConfig) -> Self {
        let &HyperConfig { block_size, sample_size, num_projections, center, .. } = config;
        Self { block_size, sample_size, num_projections, center }
    }
}

/// What the paper's theorem assumes small, for one layer.
#[derive(Debug, Clone, Serialize)]
pub struct Conditions {
    /// What it was measured on.
    pub source: &'static str,
    /// Layer of the model, windows one after another.
    pub layer: usize,
    /// Causal or full attention.
    pub causal: bool,
    /// α for each head: n · the largest squared norm of a column of D⁻¹A.
    pub alpha: Vec<f64>,
    /// α without the first 32 columns.
    pub late_alpha: Vec<f64>,
    /// Full attention: log10 κ for each head, κ being the largest over the smallest row sum of A outside of the blocks
    /// of the first setting.
    pub log_kappa: Vec<f64>,
    /// ‖D⁻¹A‖ for each head.
    pub map_norm: Vec<f64>,
}

/// Exact attention of a head.
struct Truth {
    out: Vec<f64>,
    map_norm: f64,
    value_norm: f64,
}

/// Measures each of `configs`, causal or not, on a source. `conditions` takes what the exact maps show, κ for
/// `configs[0]`.
pub fn measure(
    stream: &Stream,
    source: &Source,
    configs: &[HyperConfig],
    causal: bool,
    conditions: &mut Vec<Conditions>,
    progress: &ProgressBar,
) -> Result<Vec<Row>> {
    let row =
        |setting| Row { source: source.name, setting, causal, density: 0.0, heads: Vec::new(), relative: Vec::new() };
    let settings = configs.iter().map(|config| Some(Setting::from(config)));
    let mut rows: Vec<Row> = std::iter::once(None).chain(settings).map(row).collect();
    let options = ForwardOptions { mask: if causal { Mask::CAUSAL } else { Mask::FULL }, ..ForwardOptions::default() };
    for (index, layer) in source.layers.iter().enumerate() {
        let maps = Map::of_layer(layer, causal)?;
        let dense = attend(stream, &layer.shape, &options, &BlockPlan::dense(), layer.inputs())?;
        let map_norm: Vec<f64> = maps.iter().map(Map::norm).collect();
        conditions.push(Conditions {
            source: source.name,
            layer: index,
            causal,
            alpha: maps.iter().map(|map| map.alpha(0)).collect(),
            late_alpha: maps.iter().map(|map| map.alpha(EARLY)).collect(),
            log_kappa: if causal { Vec::new() } else { log_kappa(stream, layer, &configs[0], &maps)? },
            map_norm: map_norm.clone(),
        });
        let value_norm = |h: usize| spectral_norm(&layer.head(h)[2], layer.shape.head_dim);
        let truths: Vec<Truth> = maps
            .into_iter()
            .enumerate()
            .map(|(h, map)| Truth { out: map.out, map_norm: map_norm[h], value_norm: value_norm(h) })
            .collect();
        add(&mut rows[0], layer, &truths, &dense.out, 1.0, source.layers.len());
        for (row, config) in rows[1..].iter_mut().zip(configs) {
            let answer = Hyper::drawn(config.clone()).attend(stream, &layer.shape, &options, layer.inputs())?;
            let (_, density) = answer.visited(&layer.shape, &options.mask);
            add(row, layer, &truths, &answer.out, density, source.layers.len());
            progress.inc(1);
        }
    }
    Ok(rows)
}

pub fn difference(out: &[f32], exact: &[f64]) -> Vec<f64> {
    widen(out).iter().zip(exact).map(|(out, exact)| out - exact).collect()
}

/// ‖difference‖ / ‖exact‖, Frobenius norms.
pub fn relative(difference: &[f64], exact: &[f64]) -> f64 {
    let squares = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
    (squares(difference) / squares(exact)).sqrt()
}

/// Adds the errors of a layer.
fn add(row: &mut Row, layer: &Layer, truths: &[Truth], out: &[f32], density: f64, layers: usize) {
    row.density += density / layers as f64;
    let dim = layer.shape.head_dim;
    for (truth, out) in truths.iter().zip(out.chunks_exact(layer.shape.q_len * dim)) {
        let difference = difference(out, &truth.out);
        row.heads.push(spectral_norm(&difference, dim) / (truth.map_norm * truth.value_norm));
        row.relative.push(relative(&difference, &truth.out));
    }
}

/// With the blocks that the kernels made.
fn log_kappa(stream: &Stream, layer: &Layer, config: &HyperConfig, maps: &[Map]) -> Result<Vec<f64>> {
    let options = ForwardOptions { mask: Mask::FULL, ..ForwardOptions::default() };
    let answer = Hyper::drawn(config.clone()).attend(stream, &layer.shape, &options, layer.inputs())?;
    let sorted = Sorted::new(config, &layer.shape, answer.ranks.as_ref())?;
    let blocks = |h: usize| (&sorted.q_blocks[h], &sorted.k_blocks[h / layer.shape.group()]);
    let of_head = |(h, map): (usize, &Map)| {
        let (q_blocks, k_blocks) = blocks(h);
        map.log_kappa(q_blocks, k_blocks)
    };
    Ok(maps.iter().enumerate().map(of_head).collect())
}
