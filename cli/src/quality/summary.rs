//! The quality table on stdout.

use super::verdict::Verdict;
use crate::demo::results::Results;
use crate::terminal::table;

/// The table, and the verdicts below it.
pub fn text(results: &Results, gates: &str, verdicts: &[Verdict]) -> String {
    let dense = results.rows[0].bits_per_byte;
    let mut rows =
        vec![["blocks picked by", "settings", "density", "bits/byte", "to dense"].map(str::to_owned).to_vec()];
    for row in &results.rows {
        rows.push(vec![
            row.family.name().to_owned(),
            row.settings.clone(),
            format!("{:.1} %", 100.0 * row.density),
            format!("{:.4}", row.bits_per_byte),
            format!("{:+.4}", row.bits_per_byte - dense),
        ]);
    }
    let windows = if results.windows == 1 { "1 window".to_owned() } else { format!("{} windows", results.windows) };
    let mut text = format!(
        "{windows} of {} bytes of {}, attention by the kernels on {} ({}), gates: {gates}\n\n",
        results.window, results.text, results.device, results.device_choice
    );
    text += &table(&rows, 2);
    text +=
        "\nshare > t: one t for all layers and heads, which gives the density on this text with dense attention\n\n";
    for verdict in verdicts {
        let answer = if verdict.passed { "yes" } else { "no " };
        text += &format!("{answer} {:.0} %: {}: {}\n", 100.0 * verdict.density, verdict.question, verdict.figures);
    }
    text
}
