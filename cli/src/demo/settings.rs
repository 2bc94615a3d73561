//! The rows of the demo.

use super::planner::Planner;
use super::results::Family;
use lacuna::{S2Config, S2Variant};

/// A method with a setting.
pub struct Setting {
    /// Colour in the report.
    pub family: Family,
    /// Method name in the table.
    pub method: &'static str,
    /// Settings in a few words.
    pub words: String,
    /// Who picks the blocks.
    pub planner: Planner,
}

/// All rows; dense first, since the others are measured against it.
pub fn all() -> Vec<Setting> {
    let mut rows = vec![Setting {
        family: Family::Dense,
        method: "dense",
        words: "every key".to_owned(),
        planner: Planner::Dense,
    }];
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
    rows.extend([window(8, 0), window(8, 1), window(4, 1)]);
    rows.extend([(64, 0.3), (64, 0.2), (32, 0.2), (32, 0.1), (16, 0.1)].map(|(block, density)| Setting {
        family: Family::Oracle,
        method: "blocks",
        words: format!("oracle {:.0} %, blocks of {block}", 100.0 * density),
        planner: Planner::Oracle { block, density },
    }));
    rows.push(Setting {
        family: Family::Random,
        method: "blocks",
        words: "random 30 %, blocks of 64".to_owned(),
        planner: Planner::Random { block: 64, density: 0.3, seed: 0 },
    });
    rows
}

fn s2(more: &str, config: S2Config) -> Setting {
    Setting {
        family: Family::S2,
        method: "s2",
        words: format!("local {}, stride {}{more}", config.local_blocks, config.vertical_stride),
        planner: Planner::S2(config),
    }
}

fn window(blocks: usize, sinks: usize) -> Setting {
    let sink = if sinks == 0 { String::new() } else { format!(" and {sinks} sink") };
    Setting {
        family: Family::Window,
        method: "window",
        words: format!("newest {blocks} blocks{sink}"),
        planner: Planner::Window { blocks, sinks },
    }
}
