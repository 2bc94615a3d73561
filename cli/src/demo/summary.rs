//! The demo's table on stdout.

use super::results::Results;
use crate::terminal::table;

/// The table, with a line before and a line after it.
pub fn text(results: &Results) -> String {
    let headings = ["#", "method", "settings", "density", "bits/byte", "error", "work", "time"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for (i, row) in results.rows.iter().enumerate() {
        rows.push(vec![
            format!("{:>2}", i + 1),
            row.method.clone(),
            row.settings.clone(),
            format!("{:.1} %", 100.0 * row.density),
            format!("{:.4}", row.bits_per_byte),
            format!("{:.1e}{}", row.error, if row.within_bound() { "" } else { " !" }),
            row.work.map_or("-".to_owned(), |work| format!("{:.1} %", 100.0 * work)),
            format!("{:.2} s", row.seconds),
        ]);
    }
    let windows = if results.windows == 1 { "1 window".to_owned() } else { format!("{} windows", results.windows) };
    let mut text =
        format!("{windows} of {} bytes on {} ({})\n\n", results.window, results.device, results.device_choice);
    text += &table(&rows, 3);
    text += &format!(
        "\nerror: relative to the f64 reference under the same mask, query head {} of layer {}; the bound is {:.1e} or more\n",
        results.reference_head,
        results.reference_layer,
        results.rows.iter().map(|row| row.error_bound).fold(f64::INFINITY, f64::min),
    );
    text += "work: multiply-adds of matrix instructions, of those of dense; counted by the SIMT host\n";
    if let Some(stated) = results.stated_bits_per_byte {
        text += &format!(
            "dense: {:.4} bits per byte; the model's definition states {stated:.4}\n",
            results.rows[0].bits_per_byte
        );
    }
    text
}
