//! The rows of the demo and of the quality table.

use super::planner::{Keep, Planner};
use super::results::Family;
use crate::gates::{DENSITIES, Gates};
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
        rows.extend(DENSITIES.map(|density| seer(gates, Keep::Density(density))));
    }
    rows.extend(gates.thresholds.iter().map(|&(_, threshold)| seer(gates, Keep::Above(threshold))));
    rows.extend([0.2, 0.1].map(|density| pooled(gates.block_size, Keep::Density(density))));
    rows.extend([window(8, 0, 64), window(8, 1, 64), window(4, 1, 64)]);
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

/// The rows of the quality table, for windows of `window` bytes. At each density: those that a threshold picks, and those
/// with the same number of blocks in every row, the fewest newest blocks that are no fewer pairs than asked for.
pub fn quality(gates: &Rc<Gates>, window: usize, thresholds: &[Thresholds]) -> Vec<Setting> {
    let block = gates.block_size;
    let at = |at: &Thresholds| {
        let count = newest_for_density(at.density, window, block);
        let best = Keep::Best(count);
        [
            seer(gates, Keep::Above(at.gate)),
            pooled(block, Keep::Above(at.pooled)),
            oracle(block, Keep::Above(at.oracle)),
            seer(gates, best),
            pooled(block, best),
            oracle(block, best),
            self::window(count, 0, block),
            random(block, best),
        ]
        .map(|setting| Setting { asked: Some(at.density), ..setting })
    };
    std::iter::once(dense()).chain(thresholds.iter().flat_map(at)).collect()
}

/// The fewest newest blocks, each row's own counted, that hold at least this part of the pairs of a window.
fn newest_for_density(density: f64, window: usize, block: usize) -> usize {
    let blocks = window.div_ceil(block);
    let pairs = |newest: usize| -> usize {
        let row = |t: usize| t + 1 - (t / block + 1).saturating_sub(newest) * block;
        (0..window).map(row).sum()
    };
    let wanted = density * pairs(blocks) as f64;
    (1..blocks).find(|&newest| pairs(newest) as f64 >= wanted).unwrap_or(blocks)
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

fn window(blocks: usize, sinks: usize, block: usize) -> Setting {
    let plural = if blocks == 1 { "" } else { "s" };
    let size = if block == 64 { String::new() } else { format!(" of {block}") };
    let sink = if sinks == 0 { String::new() } else { format!(" and {sinks} sink") };
    let words = format!("newest {blocks} block{plural}{size}{sink}");
    setting(Family::Window, "window", words, Planner::Window { blocks, sinks, block })
}

fn seer(gates: &Rc<Gates>, keep: Keep) -> Setting {
    let planner = Planner::Seer { gates: gates.clone(), keep };
    kept(Family::Seer, "seer", "trained gate", keep, gates.block_size, planner)
}

fn pooled(block: usize, keep: Keep) -> Setting {
    kept(Family::Pooled, "blocks", "mean-pooled", keep, block, Planner::Pooled { block, keep })
}

fn oracle(block: usize, keep: Keep) -> Setting {
    kept(Family::Oracle, "blocks", "oracle", keep, block, Planner::Oracle { block, keep })
}

fn random(block: usize, keep: Keep) -> Setting {
    kept(Family::Random, "blocks", "random", keep, block, Planner::Random { block, keep, seed: 0 })
}

fn kept(
    family: Family,
    method: &'static str,
    name: &str,
    keep: Keep,
    block: usize,
    planner: Planner,
) -> Setting {
    let (rule, threshold) = match keep {
        Keep::Density(density) => (format!("{:.0} %", 100.0 * density), false),
        Keep::Best(1) => ("best block".to_owned(), false),
        Keep::Best(count) => (format!("best {count} blocks"), false),
        Keep::Above(share) => (format!("share > {share:.4}"), true),
    };
    let words = match keep {
        Keep::Best(_) if block == 64 => format!("{name}, {rule} of each row"),
        Keep::Best(_) => format!("{name}, {rule} of {block} of each row"),
        _ => format!("{name} {rule}, blocks of {block}"),
    };
    Setting { threshold, ..setting(family, method, words, planner) }
}

#[cfg(test)]
mod tests {
    use super::newest_for_density;

    #[test]
    fn windows_hold_no_fewer_pairs_than_asked_for() {
        // Rows of 4 blocks of 2: 3 + 7 + 11 + 15 = 36 pairs; 12 in one block each, 24 with one more, 32 with two more.
        let at = [0.1, 0.33, 0.34, 0.66, 0.67, 0.88, 0.89, 1.0].map(|density| newest_for_density(density, 8, 2));
        assert_eq!(at, [1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(newest_for_density(0.5, 5, 16), 1);
    }
}
