//! The rows of the demo and of the quality table.

use super::planner::Planner;
use super::results::Family;
use super::selection::blocks_for_density;
use crate::gates::Gates;
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
    /// Density that the published rule was asked for.
    pub asked: Option<f64>,
    /// Who picks the blocks.
    pub planner: Planner,
}

/// Densities at which learned gates are compared with what needs no training.
pub const DENSITIES: [f64; 4] = [0.5, 0.3, 0.2, 0.1];

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
    rows.extend(DENSITIES.map(|density| seer(gates, density)));
    rows.extend([0.2, 0.1].map(|density| pooled(gates.block_size, density)));
    rows.extend([window(8, 0), window(8, 1), window(4, 1)]);
    rows.extend([(64, 0.3), (64, 0.2), (64, 0.1), (32, 0.2), (32, 0.1), (16, 0.1)].map(|(b, r)| oracle(b, r)));
    rows.push(random(64, 0.3));
    rows
}

/// The rows of the quality table, for windows of `window` bytes: every way to pick as many blocks a row as the
/// published rule says, at each density.
pub fn quality(gates: &Rc<Gates>, window: usize) -> Vec<Setting> {
    let block = gates.block_size;
    let at = |density: f64| {
        let newest = blocks_for_density(density, window.div_ceil(block));
        let planner = Planner::Window { blocks: newest, sinks: 0, block };
        let plural = if newest == 1 { "" } else { "s" };
        let local = setting(Family::Window, "window", format!("newest {newest} block{plural} of {block}"), planner);
        [
            seer(gates, density),
            pooled(block, density),
            Setting { asked: Some(density), ..local },
            oracle(block, density),
            random(block, density),
        ]
    };
    let rows = DENSITIES.into_iter().flat_map(at);
    std::iter::once(dense()).chain(rows).collect()
}

fn setting(family: Family, method: &'static str, words: String, planner: Planner) -> Setting {
    Setting { family, method, words, asked: None, planner }
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

fn seer(gates: &Rc<Gates>, density: f64) -> Setting {
    let words = format!("trained gate {:.0} %, blocks of {}", 100.0 * density, gates.block_size);
    let planner = Planner::Seer { gates: gates.clone(), density };
    Setting { asked: Some(density), ..setting(Family::Seer, "seer", words, planner) }
}

fn pooled(block: usize, density: f64) -> Setting {
    let words = format!("mean-pooled {:.0} %, blocks of {block}", 100.0 * density);
    Setting { asked: Some(density), ..setting(Family::Pooled, "blocks", words, Planner::Pooled { block, density }) }
}

fn oracle(block: usize, density: f64) -> Setting {
    let words = format!("oracle {:.0} %, blocks of {block}", 100.0 * density);
    Setting { asked: Some(density), ..setting(Family::Oracle, "blocks", words, Planner::Oracle { block, density }) }
}

fn random(block: usize, density: f64) -> Setting {
    let words = format!("random {:.0} %, blocks of {block}", 100.0 * density);
    let planner = Planner::Random { block, density, seed: 0 };
    Setting { asked: Some(density), ..setting(Family::Random, "blocks", words, planner) }
}
