//! The tables on stdout.

use super::Results;
use super::choices::Figure;
use super::errors;
use crate::terminal::table;

/// All tables.
pub fn text(results: &Results) -> String {
    let mut text = format!("on {} ({}); text: {}\n", results.device, results.device_choice, results.text);
    let mut section = |heading: String, rows: Vec<Vec<String>>, left: usize| {
        // The first row is that of the columns' names.
        if rows.len() > 1 {
            text += &format!("\n{heading}\n\n{}", table(&rows, left));
        }
    };
    section(
        format!(
            "Operator error ‖estimate − exact‖ / (‖D⁻¹A‖ ‖V‖), spectral norms, {} tokens, causal leaves of {}; rel: ‖·‖/‖exact‖, Frobenius",
            results.length, results.leaf
        ),
        error_rows(&results.errors),
        6,
    );
    section(
        format!("What the theorem wants small, {} tokens, κ for blocks of {}", results.length, results.kappa_block),
        condition_rows(results),
        2,
    );
    section(
        format!(
            "Bias: mean of exp(lse − exact) − 1 over {} seeds ± standard error; {} tokens, b = m = {}",
            results.seeds, results.bias_length, results.bias_size
        ),
        bias_rows(results),
        1,
    );
    section(
        format!(
            "Choices, {} seeds, {} tokens: bias as above; error ‖estimate − exact‖/‖exact‖, Frobenius, mean over heads; change: \
             of the error to the default, same seeds",
            super::CHOICE_ERRORS * results.choice_seeds,
            results.bias_length
        ),
        choice_rows(results),
        5,
    );
    section(
        format!(
            "Choices, bits per byte, {} windows of {}, {} seeds; change: to the default, same seeds",
            results.windows, results.window, results.choice_seeds
        ),
        choice_quality_rows(results),
        3,
    );
    section(format!("Bits per byte, {} windows of {}", results.windows, results.window), language_rows(results), 2);
    text
}

fn cells(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// Causal and full attention side by side.
fn error_rows(errors: &[errors::Row]) -> Vec<Vec<String>> {
    let head = ["source", "b", "m", "r", "centred", "", "density", "median", "worst", "rel"];
    let mut rows = vec![cells(&[&head[..], &["causal: density", "median", "worst", "rel"]].concat())];
    for row in errors.iter().filter(|row| !row.causal) {
        let names = match &row.setting {
            None => ["dense", "", "", ""].map(str::to_owned),
            Some(s) => [
                s.block_size.to_string(),
                s.sample_size.to_string(),
                s.num_projections.to_string(),
                if s.center { "yes" } else { "no" }.to_owned(),
            ],
        };
        let mut line = vec![row.source.to_owned()];
        line.extend(names);
        line.push(String::new());
        let same = |other: &&errors::Row| other.causal && other.source == row.source && other.setting == row.setting;
        for row in std::iter::once(row).chain(errors.iter().find(same)) {
            line.push(format!("{:.1} %", 100.0 * row.density));
            line.extend([row.median(), row.worst(), row.median_relative()].map(|x| format!("{x:.4}")));
        }
        rows.push(line);
    }
    rows
}

fn condition_rows(results: &Results) -> Vec<Vec<String>> {
    let mut rows =
        vec![cells(&["source", "layer", "α", "α late", "‖D⁻¹A‖", "log10 κ", "causal: α", "α late", "‖D⁻¹A‖"])];
    let of = |values: &[f64]| {
        let all: Vec<String> =
            values.iter().map(|x| if *x < 100.0 { format!("{x:.1}") } else { format!("{x:.0}") }).collect();
        all.join(" ")
    };
    for row in results.conditions.iter().filter(|row| !row.causal) {
        let mut line = vec![row.source.to_owned(), row.layer.to_string()];
        line.extend([&row.alpha, &row.late_alpha, &row.map_norm, &row.log_kappa].map(|values| of(values)));
        let same = |other: &&errors::Conditions| other.causal && (other.source, other.layer) == (row.source, row.layer);
        if let Some(row) = results.conditions.iter().find(same) {
            line.extend([&row.alpha, &row.late_alpha, &row.map_norm].map(|values| of(values)));
        }
        rows.push(line);
    }
    rows
}

fn bias_rows(results: &Results) -> Vec<Vec<String>> {
    let sources = results.bias_sources();
    let mut rows = vec![std::iter::once("estimator").chain(sources.iter().copied()).map(str::to_owned).collect()];
    for name in results.estimators() {
        let mut line = vec![name.to_owned()];
        for source in &sources {
            let found = results.bias.iter().find(|row| row.estimator == name && row.source == *source);
            line.push(found.map_or(String::new(), |row| format!("{:+.4} ± {:.4}", row.bias, row.standard_error)));
        }
        rows.push(line);
    }
    rows
}

fn choice_rows(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![cells(&["source", "mask", "b", "m", "choice", "density", "bias", "error", "change"])];
    for row in &results.choices {
        let percent = |figure: Figure| format!("{:+.2} ± {:.2} %", 100.0 * figure.mean, 100.0 * figure.standard_error);
        rows.push(vec![
            row.source.to_owned(),
            if row.causal { "causal" } else { "full" }.to_owned(),
            row.block_size.to_string(),
            row.sample_size.to_string(),
            row.choice.to_owned(),
            format!("{:.1} %", 100.0 * row.density),
            format!("{:+.4} ± {:.4}", row.bias.mean, row.bias.standard_error),
            format!("{:.4}", row.error.mean),
            row.change.map_or(String::new(), percent),
        ]);
    }
    rows
}

fn choice_quality_rows(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![cells(&["b", "m", "choice", "density", "bits/byte", "change"])];
    for row in &results.choices_quality {
        let bits = |sign: bool, Figure { mean, standard_error }| {
            if sign {
                format!("{mean:+.4} ± {standard_error:.4}")
            } else {
                format!("{mean:.4} ± {standard_error:.4}")
            }
        };
        rows.push(vec![
            row.block_size.to_string(),
            row.sample_size.to_string(),
            row.choice.to_owned(),
            format!("{:.1} %", 100.0 * row.density),
            bits(false, row.bits_per_byte),
            row.change.map_or(String::new(), |change| bits(true, change)),
        ]);
    }
    rows
}

fn language_rows(results: &Results) -> Vec<Vec<String>> {
    let mut rows = vec![cells(&["method", "settings", "density", "bits/byte", "to dense"])];
    let dense = results.language.first().map_or(0.0, |row| row.bits_per_byte);
    for row in &results.language {
        rows.push(vec![
            row.method.to_owned(),
            row.settings.clone(),
            format!("{:.1} %", 100.0 * row.density),
            format!("{:.4}", row.bits_per_byte),
            format!("{:+.4}", row.bits_per_byte - dense),
        ]);
    }
    rows
}
