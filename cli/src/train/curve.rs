//! What trainings gave: a table, JSON.

use super::{Args, Course};
use crate::failure::{Failure, Result};
use crate::terminal;
use lacuna::S2Config;
use serde::Serialize;

/// A look at the validation text.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Steps done.
    pub step: usize,
    /// Mean bits per byte of the steps since the last look, each before its step.
    pub train: Option<f64>,
    /// Bits per byte of the validation text.
    pub valid: f64,
}

/// One training.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    pub name: &'static str,
    pub points: Vec<Point>,
    pub seconds_per_step: f64,
    /// With the looks at the validation text.
    pub seconds: f64,
}

/// All trainings of a command, and their settings.
#[derive(Debug, Serialize)]
pub struct Results {
    device: &'static str,
    text: String,
    scratch: bool,
    window: usize,
    batch: usize,
    lr: f64,
    seed: u64,
    valid_windows: usize,
    dense_layers: usize,
    block_size: usize,
    local_blocks: usize,
    vertical_stride: usize,
    /// Share of the causal pairs that a sparse layer visits.
    density: f64,
    pub curves: Vec<Curve>,
}

impl Results {
    pub fn new(args: &Args, course: &Course, s2: &S2Config, density: f64, curves: Vec<Curve>) -> Self {
        let name = args.text.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self {
            device: "simt",
            text: name,
            scratch: args.scratch,
            window: course.window,
            batch: course.batch,
            lr: course.rates.highest,
            seed: course.seed,
            valid_windows: course.valid_windows,
            dense_layers: args.dense_layers,
            block_size: s2.block_size,
            local_blocks: s2.local_blocks,
            vertical_stride: s2.vertical_stride,
            density,
            curves,
        }
    }

    /// A row a look, a column of bits per byte a training.
    pub fn table(&self) -> String {
        let mut heading = vec!["step".to_owned()];
        heading.extend(self.curves.iter().flat_map(|c| [format!("{}: valid", c.name), "train".to_owned()]));
        let mut rows = vec![heading];
        for (i, point) in self.curves[0].points.iter().enumerate() {
            let mut row = vec![point.step.to_string()];
            for point in self.curves.iter().map(|curve| &curve.points[i]) {
                row.push(format!("{:.4}", point.valid));
                row.push(point.train.map_or_else(String::new, |bits| format!("{bits:.4}")));
            }
            rows.push(row);
        }
        let mut text = terminal::table(&rows, 0);
        for curve in &self.curves {
            text += &format!("{}: {:.2} s a step, {:.0} s in all\n", curve.name, curve.seconds_per_step, curve.seconds);
        }
        text + &format!(
            "a sparse layer visits {:.1} % of the causal pairs; bits per byte, lower is better\n",
            100.0 * self.density
        )
    }

    pub fn json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Failure::Failed(format!("json: {e}")))?;
        Ok(text + "\n")
    }
}
