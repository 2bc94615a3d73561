//! The rows of the demo and of the quality table.

use super::planner::{Keep, Planner};
use super::results::Family;
use super::selection::number_for_density;
use crate::gates::{DENSITIES, Gates};
use lacuna::methods::seer::Select;
use lacuna::{S2Config, S2Variant};
use std::rc::Rc;

/// A method with a setting.
pub struct Setting {
    /// Colour in the report.
    pub family: Family,
    /// Method name in the table.
    pub method: &'static str,
    /// Settings in a few words.
    pub words: String,
    /// Density that was asked for.
    pub asked: Option<f64>,
    /// Whether one threshold for all layers and heads picks the blocks.
    pub threshold: bool,
    /// Who picks the blocks.
    pub planner: Planner,
}

/// All rows of the demo; dense first, since the others are measured against it.
pub fn demo(gates: &Rc<Gates>) -> Vec<Setting> {
    let mut rows = vec![dense()];
    // Published settings are local 16, stride 8 for contexts of 8k and more; here for windows of 2k.
    let base = S2Config { local_blocks: 4, vertical_stride: 8, ..S2Config::default() };
    rows.extend([
        s2("", S2Config { vertical_stride: 4, ..base.clone() }),
        s2("", base.clone()),
        s2(", phi3 variant", S2Config { variant: S2Variant::Phi3, ..base.clone() }),
        s2(", same for all heads", S2Config { homogeneous: true, ..base.clone() }),
        s2(", 1 sink", S2Config { sink_blocks: 1, ..base.clone() }),
        s2(", 1 dense KV head", S2Config { num_dense_kv_heads: 1, local_blocks: 2, vertical_stride: 16, ..base }),
    ]);
    if gates.thresholds.is_empty() {
        rows.extend(DENSITIES.map(|density| seer(gates, Select::Density(density))));
    }
    rows.extend(gates.thresholds.iter().map(|&(_, threshold)| seer(gates, Select::Threshold(threshold))));
    rows.extend([0.2, 0.1].map(|density| pooled(gates.block_size, Keep::Density(density))));
    rows.extend([window(8, 0), window(8, 1), window(4, 1)]);
    let sizes = [(64, 0.3), (64, 0.2), (64, 0.1), (32, 0.2), (32, 0.1), (16, 0.1)];
    rows.extend(sizes.map(|(block, density)| oracle(block, Keep::Density(density))));
    rows.push(random(64, Keep::Density(0.3)));
    rows
}

/// One threshold for all layers and heads, for each way to pick blocks that knows shares.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Thresholds {
    /// Density that they give.
    pub density: f64,
    /// Of the trained gate.
    pub gate: f64,
    /// Of mean-pooled scores.
    pub pooled: f64,
    /// Of the true block map.
    pub oracle: f64,
}

/// The rows of the quality table, for windows of `window` bytes. At each density: those that a threshold picks, and
/// those with the same number of blocks in every row, for the gate's kernel the published number.
pub fn quality(gates: &Rc<Gates>, window: usize, thresholds: &[Thresholds]) -> Vec<Setting> {
    let block = gates.block_size;
    let at = |at: &Thresholds| {
        let number = number_for_density(at.density, window, block);
        let same = Keep::Number(number);
        [
            seer(gates, Select::Threshold(at.gate)),
            pooled(block, Keep::Above(at.pooled)),
            oracle(block, Keep::Above(at.oracle)),
            seer(gates, Select::Density(at.density)),
            pooled(block, same),
            oracle(block, same),
            newest(block, number),
            random(block, same),
        ]
        .map(|setting| Setting { asked: Some(at.density), ..setting })
    };
    std::iter::once(dense()).chain(thresholds.iter().flat_map(at)).collect()
}

fn setting(family: Family, method: &'static str, words: String, planner: Planner) -> Setting {
    Setting { family, method, words, asked: None, threshold: false, planner }
}

fn dense() -> Setting {
    setting(Family::Dense, "dense", "every key".to_owned(), Planner::Dense)
}

fn s2(more: &str, config: S2Config) -> Setting {
    let words = format!("local {}, stride {}{more}", config.local_blocks, config.vertical_stride);
    setting(Family::S2, "s2", words, Planner::S2(config))
}

fn window(blocks: usize, sinks: usize) -> Setting {
    let sink = if sinks == 0 { String::new() } else { format!(" and {sinks} sink") };
    let words = format!("newest {blocks} blocks{sink}");
    setting(Family::Window, "window", words, Planner::Window { blocks, sinks, block: 64 })
}

fn newest(block: usize, number: f64) -> Setting {
    let words = format!("newest {number:.2} of each row, blocks of {block}");
    setting(Family::Window, "window", words, Planner::Newest { block, number })
}

fn seer(gates: &Rc<Gates>, select: Select) -> Setting {
    let rule = match select {
        Select::Threshold(share) => format!("share > {share:.4}"),
        Select::Density(density) => format!("{:.0} %", 100.0 * density),
        other => format!("{other:?}"),
    };
    let words = format!("trained gate {rule}, blocks of {}", gates.block_size);
    let planner = Planner::Seer { gates: gates.clone(), select };
    Setting { threshold: matches!(select, Select::Threshold(_)), ..setting(Family::Seer, "seer", words, planner) }
}

fn pooled(block: usize, keep: Keep) -> Setting {
    kept(Family::Pooled, "mean-pooled", keep, block, Planner::Pooled { block, keep })
}

fn oracle(block: usize, keep: Keep) -> Setting {
    kept(Family::Oracle, "oracle", keep, block, Planner::Oracle { block, keep })
}

fn random(block: usize, keep: Keep) -> Setting {
    kept(Family::Random, "random", keep, block, Planner::Random { block, keep, seed: 0 })
}

/// A row of masks that the host makes.
fn kept(family: Family, name: &str, keep: Keep, block: usize, planner: Planner) -> Setting {
    let rule = match keep {
        Keep::Density(density) => format!("{:.0} %", 100.0 * density),
        Keep::Number(number) => format!("{number:.2} of each row"),
        Keep::Above(share) => format!("share > {share:.4}"),
    };
    let words = format!("{name} {rule}, blocks of {block}");
    Setting { threshold: matches!(keep, Keep::Above(_)), ..setting(family, "blocks", words, planner) }
}
