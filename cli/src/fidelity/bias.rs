//! Is the sum of exponentials right on average? Over seeds, which draw hyperplanes and samples, the estimate less the
//! truth, for the kernels and for other weights in f64.

use super::layers::{Layer, Source};
use super::map::Map;
use super::sorted::Sorted;
use super::weights::{Row as RowShares, Weights};
use crate::attend::Hyper;
use crate::failure::Result;
use indicatif::ProgressBar;
use lacuna::{ForwardOptions, HyperConfig, Mask, Stream};
use serde::Serialize;

/// Mean and standard error of one way to estimate on one source.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was estimated by what.
    pub estimator: String,
    /// What it was measured on.
    pub source: &'static str,
    /// Mean over seeds of the mean over heads and queries of exp(lse - exact lse) - 1.
    pub bias: f64,
    /// Of that mean, from the spread over seeds.
    pub standard_error: f64,
}

/// `config` on a source, not causal, by the kernels and by every [`Weights`].
pub fn full(
    stream: &Stream,
    source: &Source,
    config: &HyperConfig,
    seeds: u64,
    progress: &ProgressBar,
) -> Result<Vec<Row>> {
    let maps = source.layers.iter().map(|layer| Map::of_layer(layer, false)).collect::<Result<Vec<_>>>()?;
    let mut samples = vec![Vec::new(); 1 + Weights::ALL.len()];
    for seed in 0..seeds {
        let config = HyperConfig { seed, ..config.clone() };
        let mut sums = vec![Mean::default(); samples.len()];
        for (layer, maps) in source.layers.iter().zip(&maps) {
            let options = ForwardOptions { mask: Mask::FULL, ..ForwardOptions::default() };
            let answer = Hyper::drawn(config.clone()).attend(stream, &layer.shape, &options, layer.inputs())?;
            sums[0].add_ratios(&answer.lse, maps);
            let sorted = Sorted::new(&config, &layer.shape, answer.ranks.as_ref())?;
            for (h, map) in maps.iter().enumerate() {
                add_weights(&mut sums[1..], layer, h, map, &sorted, &config);
            }
        }
        samples.iter_mut().zip(&sums).for_each(|(samples, sum)| samples.push(sum.mean()));
        progress.inc(1);
    }
    let names = Weights::ALL.into_iter().map(|weights| weights.name().to_owned());
    let names = std::iter::once("lacuna's kernel, full".to_owned()).chain(names);
    Ok(names.zip(&samples).map(|(name, samples)| row(name, source.name, samples)).collect())
}

/// `config` on a source, by the kernels.
pub fn kernel(
    stream: &Stream,
    source: &Source,
    config: &HyperConfig,
    (name, mask): (&str, Mask),
    seeds: u64,
    progress: &ProgressBar,
) -> Result<Row> {
    let maps = source.layers.iter().map(|layer| Map::of_layer(layer, mask.causal)).collect::<Result<Vec<_>>>()?;
    let mut samples = Vec::new();
    for seed in 0..seeds {
        let mut sum = Mean::default();
        for (layer, maps) in source.layers.iter().zip(&maps) {
            let options = ForwardOptions { mask, ..ForwardOptions::default() };
            let hyper = Hyper::drawn(HyperConfig { seed, ..config.clone() });
            sum.add_ratios(&hyper.attend(stream, &layer.shape, &options, layer.inputs())?.lse, maps);
        }
        samples.push(sum.mean());
        progress.inc(1);
    }
    Ok(row(name.to_owned(), source.name, &samples))
}

fn row(estimator: String, source: &'static str, samples: &[f64]) -> Row {
    let (bias, standard_error) = mean_and_error(samples);
    Row { estimator, source, bias, standard_error }
}

/// The mean of what seeds gave, and its standard error from their spread.
pub fn mean_and_error(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let variance = samples.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

/// A mean that grows.
#[derive(Debug, Clone, Default)]
pub struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    pub fn add(&mut self, x: f64) {
        self.sum += x;
        self.count += 1;
    }

    /// `lse` of all heads of a layer.
    pub fn add_ratios(&mut self, lse: &[f32], maps: &[Map]) {
        let exact = maps.iter().flat_map(|map| &map.lse);
        lse.iter().zip(exact).for_each(|(&lse, exact)| self.add((f64::from(lse) - exact).exp_m1()));
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// Adds every query of head `h`, estimated with every [`Weights`].
fn add_weights(sums: &mut [Mean], layer: &Layer, h: usize, map: &Map, sorted: &Sorted, config: &HyperConfig) {
    let (n, m, kv_head) = (layer.shape.kv_len, config.sample_size, h / layer.shape.group());
    let (order, k_blocks) = (&sorted.k_order[kv_head], &sorted.k_blocks[kv_head]);
    let samples: Vec<usize> =
        config.sampling.places(config.seed, kv_head, 0, m, n).into_iter().map(|place| order[place]).collect();
    for (t, &block) in sorted.q_blocks[h].iter().enumerate() {
        let p = |key: usize| f64::from(map.row(t)[key]);
        let keys = &order[block * config.block_size..n.min((block + 1) * config.block_size)];
        let is_own = |key: usize| k_blocks[key] == block;
        let shares = |own: bool| samples.iter().filter(move |&&key| is_own(key) == own);
        let row = RowShares {
            block: keys.iter().map(|&key| p(key)).sum(),
            others: shares(false).map(|&key| p(key)).sum(),
            own: shares(true).map(|&key| p(key)).sum(),
            others_count: shares(false).count(),
            block_keys: keys.len(),
            first: (0..m.min(n)).map(p).sum(),
            zero: (-map.lse[t]).exp(),
            missing: config.block_size - keys.len(),
        };
        for (sum, weights) in sums.iter_mut().zip(Weights::ALL) {
            sum.add(weights.ratio(&row, n, m) - 1.0);
        }
    }
}
