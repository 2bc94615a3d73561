//! The rows, as a table and as JSON.

use super::case::Case;
use super::clock::Timing;
use super::measure::Measured;
use crate::config::Method;
use crate::terminal;
use lacuna::Device;

/// All that was measured.
#[derive(serde::Serialize)]
pub struct Results {
    pub version: &'static str,
    pub device: String,
    pub device_choice: String,
    /// Whether CUDA threads were emulated.
    pub simt: bool,
    /// What a reader of the times must know.
    pub note: Option<String>,
    pub rows: Vec<Row>,
}

/// One case.
#[derive(serde::Serialize)]
pub struct Row {
    pub method: &'static str,
    pub settings: String,
    pub pass: &'static str,
    pub batch: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub len: usize,
    pub kernels: Vec<String>,
    /// The density that was asked for, of methods that can be asked.
    pub asked: Option<f64>,
    /// Pairs as a part of those of dense attention; none where they were not counted.
    pub density: Option<f64>,
    pub planning_seconds: Option<Timing>,
    pub attention_seconds: Timing,
    /// Useful work over the time of attention, in 10^12 operations a second.
    pub useful_tflops: Option<f64>,
    /// Dense attention's time of the same sizes over this one's, planning included; none where dense was not measured.
    pub speedup: Option<f64>,
}

impl Row {
    /// Seconds of a step: planning where it is needed, and attention.
    pub fn seconds(&self) -> f64 {
        self.attention_seconds.median + self.planning_seconds.map_or(0.0, |timing| timing.median)
    }

    fn same_sizes(&self, other: &Self) -> bool {
        (self.pass, self.head_dim, self.len) == (other.pass, other.head_dim, other.len)
    }
}

impl Results {
    pub fn new(device: &Device) -> Self {
        let note = device.is_simt().then(|| {
            "No GPU was measured: these are times of the SIMT host, which emulates CUDA threads on CPU threads. They compare with \
             each other, not with a GPU."
                .to_owned()
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            device: device.name(),
            device_choice: device.choice().to_owned(),
            simt: device.is_simt(),
            note,
            rows: Vec::new(),
        }
    }

    /// Adds a row. Dense attention comes before what is compared with it.
    pub fn add(&mut self, case: &Case, measured: Measured) {
        let shape = &case.shape;
        let work = |pairs: u64| case.pass.operations() * pairs as f64 * shape.head_dim as f64;
        let mut row = Row {
            method: case.method.name(),
            settings: measured.settings,
            pass: case.pass.name(),
            batch: shape.batch,
            q_heads: shape.q_heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            len: case.len(),
            kernels: measured.kernels,
            asked: case.density,
            density: measured.pairs.map(|pairs| pairs as f64 / measured.dense_pairs as f64),
            planning_seconds: measured.planning,
            attention_seconds: measured.attention,
            useful_tflops: measured.pairs.map(|pairs| work(pairs) / measured.attention.median * 1e-12),
            speedup: None,
        };
        let dense = self.rows.iter().find(|dense| dense.method == Method::Dense.name() && dense.same_sizes(&row));
        row.speedup = dense.map(|dense| dense.seconds() / row.seconds());
        self.rows.push(row);
    }

    /// What the command prints.
    pub fn text(&self) -> String {
        let heading = [
            "pass",
            "method",
            "settings",
            "head_dim",
            "tokens",
            "density",
            "planning",
            "attention",
            "vs dense",
            "TFLOP/s",
        ];
        let mut table = vec![heading.map(str::to_owned).to_vec()];
        for row in &self.rows {
            table.push(vec![
                row.pass.to_owned(),
                row.method.to_owned(),
                row.settings.clone(),
                row.head_dim.to_string(),
                row.len.to_string(),
                row.density.map_or("not counted".into(), |density| format!("{:.1} %", density * 100.0)),
                row.planning_seconds.map_or("once".into(), |timing| duration(timing.median)),
                duration(row.attention_seconds.median),
                row.speedup.map_or(String::new(), |speedup| format!("{:.2} x", speedup)),
                row.useful_tflops.map_or(String::new(), significant),
            ]);
        }
        let mut text = format!("{} ({})\n", self.device, self.device_choice);
        if let Some(first) = self.rows.first() {
            let Row { batch, q_heads, kv_heads, .. } = first;
            text += &format!("causal, bf16, batch {batch}, {q_heads} query heads, {kv_heads} KV heads\n");
        }
        text += &format!("\n{}", terminal::table(&table, 3));
        text += "\nMedians. planning: what each step must do before attention. vs dense: how many times faster than dense a step \
                 is, planning included.\nTFLOP/s: useful work (pairs that the mask keeps) over the time of attention.\n";
        if let Some(note) = &self.note {
            text += &format!("{note}\n");
        }
        text
    }
}

/// Seconds in a unit that leaves three digits.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "us"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", significant(value))
}

/// Three digits, or as many as are before the point.
pub fn significant(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 0.01 => format!("{v:.2}"),
        v => format!("{v:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([12.3e-6, 0.00456, 1.5, 123.4].map(duration), ["12.3 us", "4.56 ms", "1.50 s", "123 s"]);
        assert_eq!([0.001234, 0.5, 99.0, 512.0].map(significant), ["1.2e-3", "0.50", "99.0", "512"]);
    }
}
