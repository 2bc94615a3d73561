//! Runs the model once for each row.

use super::kernel_attention::{KernelAttention, Probe};
use super::reading::Reading;
use super::results::{BlockPicture, Results, Row};
use super::settings::Setting;
use crate::failure::{Failure, Result};
use crate::model::{Attention, Exact, Heads, block_maps};
use crate::terminal;
use candle_core::Tensor;
use lacuna::Device;

/// What to measure.
pub struct Task<'a> {
    /// Model and text.
    pub reading: &'a Reading,
    /// Bytes of a window.
    pub window: usize,
    /// Windows.
    pub windows: usize,
    /// One a row; the first is dense.
    pub settings: &'a [Setting],
    /// What dense attention is known to give, if it is.
    pub stated_bits_per_byte: Option<f64>,
}

/// Block size of the attention map in the report.
const MAP_BLOCK: usize = 64;

/// Runs every row on a device.
pub fn measure(task: &Task<'_>, device: &Device) -> Result<Results> {
    let Reading { model, text, text_name } = task.reading;
    let config = model.config();
    // Late layers attend sharply, the first one does not.
    let probe = Probe { layer: (config.num_layers - 1) * 2 / 3, head: 0 };
    let progress = terminal::progress(task.settings.len() * task.windows * config.num_layers);
    let mut rows: Vec<Row> = Vec::new();
    let mut dense_macs = 0;
    for setting in task.settings {
        progress.set_message(format!("{} {}", setting.method, setting.words));
        let (row, macs) = run_row(task, device, setting, probe, &progress, dense_macs)?;
        if rows.is_empty() {
            dense_macs = macs;
        }
        rows.push(row);
    }
    progress.finish_and_clear();
    let mut maps = Maps { layer: probe.layer, maps: Vec::new() };
    model.bits_per_byte(&text[..=task.window], &mut maps)?;
    Ok(Results {
        version: env!("CARGO_PKG_VERSION"),
        device: device.name(),
        device_choice: device.choice().to_owned(),
        text: text_name.clone(),
        window: task.window,
        windows: task.windows,
        model: format!(
            "byte-level, {} layers, {} query and {} KV heads of {}, context {}",
            config.num_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.max_position_embeddings
        ),
        stated_bits_per_byte: task.stated_bits_per_byte,
        reference_layer: probe.layer,
        reference_head: probe.head,
        rows,
        maps: maps.maps,
    })
}

/// One row and its multiply-adds; `dense_macs` is 0 in the dense row itself.
fn run_row(
    task: &Task<'_>,
    device: &Device,
    setting: &Setting,
    probe: Probe,
    progress: &indicatif::ProgressBar,
    dense_macs: u64,
) -> Result<(Row, u64)> {
    let stream = device.new_stream()?;
    let mut attention = KernelAttention::new(&stream, &setting.planner, progress, probe);
    let mut bits = Vec::new();
    for window in 0..task.windows {
        let text = &task.reading.text[window * task.window..][..=task.window];
        bits.push(task.reading.model.bits_per_byte(text, &mut attention)?);
    }
    let Some(error) = attention.error else {
        return Err(Failure::Failed("demo: the model never called its attention".into()));
    };
    let macs = attention.mma_macs;
    let base = if dense_macs == 0 { macs } else { dense_macs };
    let row = Row {
        family: setting.family,
        method: setting.method.to_owned(),
        settings: setting.words.clone(),
        density: attention.density / attention.calls as f64,
        bits_per_byte: bits.iter().sum::<f64>() / task.windows as f64,
        windows: bits,
        asked: setting.asked,
        threshold: setting.threshold,
        error: error.error,
        error_bound: error.bound,
        work: attention.counted.then(|| macs as f64 / base.max(1) as f64),
        seconds: attention.elapsed.as_secs_f64(),
        masks: attention.masks,
    };
    Ok((row, macs))
}

/// Dense attention that keeps the block maps of one layer.
struct Maps {
    layer: usize,
    maps: Vec<BlockPicture>,
}

impl Attention for Maps {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        if heads.layer == self.layer {
            let blocks = heads.q.dim(1)?.div_ceil(MAP_BLOCK);
            let picture = |values| BlockPicture { rows: blocks, columns: blocks, values };
            self.maps = block_maps(heads, MAP_BLOCK)?.into_iter().map(picture).collect();
        }
        Exact.attend(heads)
    }
}
