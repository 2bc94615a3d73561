//! What the quality table says about the gate.

use crate::demo::results::{Family, Results, Row};
use crate::gates::DENSITIES;

/// A question with its answer.
#[derive(Debug, serde::Serialize)]
pub struct Verdict {
    /// Density that was asked for.
    pub density: f64,
    /// What was asked of the gate.
    pub question: &'static str,
    /// The figures, in words.
    pub figures: String,
    /// The answer.
    pub passed: bool,
}

/// All questions, those about high densities first.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    DENSITIES.iter().filter_map(|&density| at(results, density)).flatten().collect()
}

fn at(results: &Results, density: f64) -> Option<Vec<Verdict>> {
    let rows = |family| results.rows.iter().filter(move |row| row.family == family && row.asked == Some(density));
    // By threshold or by number, whichever is better: whom the gate is compared with has the choice, the gate has not.
    let best = |family| rows(family).min_by(|a, b| a.bits_per_byte.total_cmp(&b.bits_per_byte));
    let gate = rows(Family::Seer).find(|row| row.threshold)?;
    let (pooled, window, oracle) = (best(Family::Pooled)?, best(Family::Window)?, best(Family::Oracle)?);
    let untrained = if pooled.bits_per_byte <= window.bits_per_byte { pooled } else { window };
    let difference = gate.bits_per_byte - untrained.bits_per_byte;
    let noise = 2.0 * standard_error(gate, untrained);
    let verdict = |question, figures, passed| Verdict { density, question, figures, passed };
    let against = format!(
        "{:.4} at {:.1} % against {:.4} at {:.1} % (pooled) and {:.4} at {:.1} % (window)",
        gate.bits_per_byte,
        100.0 * gate.density,
        pooled.bits_per_byte,
        100.0 * pooled.density,
        window.bits_per_byte,
        100.0 * window.density
    );
    if density > 0.25 {
        let figures = format!("{against}; to the better one {difference:+.4}, noise {noise:.4}");
        return Some(vec![verdict("no worse than pooling and window, beyond noise", figures, difference <= noise)]);
    }
    let mut verdicts = vec![verdict("better than pooling and window", against, difference < 0.0)];
    if density < 0.15 {
        let gap = untrained.bits_per_byte - oracle.bits_per_byte;
        let closed = -difference / gap;
        let figures = format!("{:.0} % of {gap:.4} bits per byte", 100.0 * closed);
        verdicts.push(verdict(
            "closes half of the gap between the better of them and the oracle",
            figures,
            gap > 0.0 && closed >= 0.5,
        ));
    }
    Some(verdicts)
}

/// Of the mean difference of two rows over the same windows; 0 for a single window.
fn standard_error(a: &Row, b: &Row) -> f64 {
    let differences: Vec<f64> = a.windows.iter().zip(&b.windows).map(|(a, b)| a - b).collect();
    let n = differences.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    let mean = differences.iter().sum::<f64>() / n;
    (differences.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0) / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(family: Family, density: f64, windows: &[f64]) -> Row {
        Row {
            family,
            method: String::new(),
            settings: String::new(),
            density,
            asked: Some(density),
            threshold: true,
            bits_per_byte: windows.iter().sum::<f64>() / windows.len() as f64,
            windows: windows.to_vec(),
            error: 0.0,
            error_bound: 0.0,
            work: None,
            seconds: 0.0,
            masks: Vec::new(),
        }
    }

    /// pooled, window, oracle and gate of two windows; the answers.
    fn answers(density: f64, bits: [[f64; 2]; 4]) -> Vec<bool> {
        let families = [Family::Pooled, Family::Window, Family::Oracle, Family::Seer];
        let rows = families.into_iter().zip(&bits).map(|(family, bits)| row(family, density, bits)).collect();
        let results = Results { rows, ..Results::default() };
        verdicts(&results).iter().map(|verdict| verdict.passed).collect()
    }

    #[test]
    fn the_gate_has_one_row_and_the_others_their_best() {
        let by_number = |family, bits: f64| Row { threshold: false, ..row(family, 0.2, &[bits]) };
        let passed = |gate: [f64; 2], pooled: [f64; 2]| {
            let window = by_number(Family::Window, 1.5);
            let mut rows = vec![window, row(Family::Oracle, 0.2, &[1.0])];
            for (family, [threshold, number]) in [(Family::Seer, gate), (Family::Pooled, pooled)] {
                rows.extend([row(family, 0.2, &[threshold]), by_number(family, number)]);
            }
            verdicts(&Results { rows, ..Results::default() })[0].passed
        };
        assert!(passed([1.2, 1.4], [1.3, 1.3]));
        assert!(!passed([1.4, 1.2], [1.3, 1.5]));
        assert!(!passed([1.4, 1.2], [1.5, 1.3]));
    }

    #[test]
    fn questions_have_both_answers() {
        let (pooled, window, oracle) = ([1.4, 1.4], [1.5, 1.3], [1.2, 1.2]);
        assert_eq!(answers(0.1, [pooled, window, oracle, [1.29, 1.29]]), [true, true]);
        assert_eq!(answers(0.1, [pooled, window, oracle, [1.35, 1.35]]), [true, false]);
        assert_eq!(answers(0.1, [pooled, window, oracle, [1.5, 1.5]]), [false, false]);
        assert_eq!(answers(0.2, [pooled, window, oracle, [1.399, 1.399]]), [true]);
        assert_eq!(answers(0.2, [pooled, window, oracle, [1.4, 1.4]]), [false]);
        // Worse by 0.01 on average: within the noise of ±0.1, outside of that of ±0.001.
        assert_eq!(answers(0.5, [pooled, window, oracle, [1.31, 1.51]]), [true]);
        assert_eq!(answers(0.5, [pooled, window, oracle, [1.409, 1.411]]), [false]);
    }
}
