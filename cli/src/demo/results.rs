//! What a demo run found: the one structure behind the table, the JSON and the report.

use serde::Serialize;
use std::ops::Range;

/// A whole run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Results {
    /// Version of the tool.
    pub version: &'static str,
    /// Device name, e.g. `simt`.
    pub device: String,
    /// Why that device.
    pub device_choice: String,
    /// Where the text came from.
    pub text: String,
    /// Bytes of a window.
    pub window: usize,
    /// Windows measured.
    pub windows: usize,
    /// One sentence on the model.
    pub model: String,
    /// Bits per byte that the model's definition states for dense attention on this input, if it does.
    pub stated_bits_per_byte: Option<f64>,
    /// The part of the model on which errors were measured, counted from 0.
    pub reference_layer: usize,
    /// See `reference_layer`.
    pub reference_head: usize,
    /// One row a method and setting; the first is dense.
    pub rows: Vec<Row>,
    /// The model's own attention, largest probability of each block, per query head of `reference_layer`.
    #[serde(skip)]
    pub maps: Vec<BlockPicture>,
}

/// What decides which keys are read; rows of a family share a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Every key.
    Dense,
    /// The best blocks of the true attention map.
    Oracle,
    /// S2-Attention.
    S2,
    /// SeerAttention: blocks that a trained gate picks.
    Seer,
    /// Blocks by the product of their mean query and mean key: a gate without training.
    Pooled,
    /// Sliding window, with or without sinks.
    Window,
    /// Blocks drawn at random.
    Random,
}

impl Family {
    /// All, in the order of a legend.
    pub const ALL: [Self; 7] =
        [Self::Dense, Self::Oracle, Self::S2, Self::Seer, Self::Pooled, Self::Window, Self::Random];

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Oracle => "oracle",
            Self::S2 => "S2",
            Self::Seer => "seer",
            Self::Pooled => "pooled",
            Self::Window => "window",
            Self::Random => "random",
        }
    }
}

/// One method with one setting.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What decides which keys are read.
    pub family: Family,
    /// Method name in the table.
    pub method: String,
    /// Its settings in a few words.
    pub settings: String,
    /// Visited pairs over causal pairs, mean over layers.
    pub density: f64,
    /// Density that was asked for, where one was.
    pub asked: Option<f64>,
    /// Whether one threshold for all layers and heads picked the blocks.
    pub threshold: bool,
    /// Mean over all windows.
    pub bits_per_byte: f64,
    /// Bits per byte of each window.
    pub windows: Vec<f64>,
    /// ‖out − ref‖ / ‖ref‖ against the f64 reference under the same mask.
    pub error: f64,
    /// What `error` may be: twice the error of the ideal algorithm in the compute type.
    pub error_bound: f64,
    /// Matrix multiply-adds over those of dense; only the SIMT host counts them.
    pub work: Option<f64>,
    /// Wall time of all attention calls: planning, scheduling, kernels and copies.
    pub seconds: f64,
    /// Blocks attended in `reference_layer`, one picture a query head.
    #[serde(skip)]
    pub masks: Vec<BlockPicture>,
}

impl Row {
    /// Whether the kernels are as close to the reference as they must be.
    pub fn within_bound(&self) -> bool {
        self.error <= self.error_bound
    }
}

/// A value for each (query block, key block), row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockPicture {
    /// Query blocks.
    pub rows: usize,
    /// Key blocks.
    pub columns: usize,
    /// 0 (not attended) to 1.
    pub values: Vec<f32>,
}

impl BlockPicture {
    /// A picture of 0s and 1s.
    pub fn from_bytes(bytes: &[u8], rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: bytes.iter().map(|&b| f32::from(b.min(1))).collect() }
    }

    /// The part of a rectangle that is attended; 0 outside the picture.
    pub fn filled(&self, rows: Range<usize>, columns: Range<usize>) -> f32 {
        let (rows, columns) = (rows.start..rows.end.min(self.rows), columns.start..columns.end.min(self.columns));
        let cells = rows.len() * columns.len();
        if cells == 0 {
            return 0.0;
        }
        let attended = rows.flat_map(|r| self.values[r * self.columns..][columns.clone()].iter()).filter(|&&x| x > 0.0);
        attended.count() as f32 / cells as f32
    }
}
