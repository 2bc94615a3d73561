//! The plots of the page: time over length for each pass, and speed-up over density.

use super::results::{Results, Row, duration};
use crate::drawing::{font, plain};
use crate::failure::{Failure, Result};
use crate::report::theme::{INK, LINE, QUIET, series, themed};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels of a drawing; it scales with the page.
const SIZE: (u32, u32) = (860, 400);

/// Methods in the order of the legend, and the variables of the style sheet that colour them.
pub const METHODS: [(&str, &str); 5] =
    [("dense", "dense"), ("s2", "s2"), ("blocks", "window"), ("seer", "seer"), ("hyper", "oracle")];

fn color(row: &Row) -> RGBColor {
    series(METHODS.iter().position(|(name, _)| *name == row.method).unwrap_or(0))
}

fn finish(svg: String, label: &str) -> String {
    themed(svg, SIZE, label, &METHODS.map(|(_, variable)| variable))
}

fn failed(error: Box<dyn std::error::Error>) -> Failure {
    Failure::Failed(format!("plot: {error}"))
}

/// Seconds of a step over tokens, both logarithmic, for one pass and head dim: a line for each method and density.
pub fn time_over_length(rows: &[&Row], label: &str) -> Result<String> {
    let mut svg = String::new();
    draw_times(rows, &mut svg).map_err(failed)?;
    Ok(finish(svg, label))
}

fn draw_times(rows: &[&Row], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let lens = || rows.iter().map(|row| row.len as f64);
    let seconds = || rows.iter().map(|row| row.seconds());
    let around = |low: f64, high: f64, factor: f64| (low / factor)..(high * factor);
    let (x, y) = (around(least(lens()), most(lens()), 1.15), around(least(seconds()), most(seconds()), 1.4));
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area).margin(12).x_label_area_size(48).y_label_area_size(78).build_cartesian_2d(
        x.log_scale().with_key_points(distinct(lens())),
        y.clone().log_scale().with_key_points(steps(y.start, y.end)),
    )?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, [INK, QUIET, LINE]);
    mesh.disable_x_mesh()
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|&y| duration(y).replace(".00", "").replace(".0", ""))
        .x_desc("tokens of a sequence")
        .y_desc("planning and attention")
        .draw()?;
    for line in lines(rows) {
        let points = line.iter().map(|row| (row.len as f64, row.seconds()));
        chart.draw_series(LineSeries::new(points.clone(), color(line[0]).stroke_width(2)))?;
        chart.draw_series(points.map(|point| Circle::new(point, 4, color(line[0]).filled())))?;
        // Lines of one method differ in what density was asked for.
        if let (Some(asked), Some(last)) = (line[0].asked, line.last()) {
            let (x, y) = chart.backend_coord(&(last.len as f64, last.seconds()));
            let style = font(12, &color(line[0])).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(format!("{} %", asked * 100.0), (x + 9, y), style))?;
        }
    }
    area.present()?;
    Ok(())
}

/// Rows of one method and density, shortest first.
fn lines<'a>(rows: &[&'a Row]) -> Vec<Vec<&'a Row>> {
    let mut lines: Vec<Vec<&Row>> = Vec::new();
    for &row in rows {
        let place = lines.iter_mut().find(|line| (line[0].method, line[0].asked) == (row.method, row.asked));
        match place {
            Some(line) => line.push(row),
            None => lines.push(vec![row]),
        }
    }
    lines.iter_mut().for_each(|line| line.sort_by_key(|row| row.len));
    lines
}

/// How many times faster than dense, over density, both logarithmic; the dashed line is what the density promises.
/// `None` where no row has both.
pub fn speedup_over_density(results: &Results) -> Result<Option<String>> {
    let compared = |row: &&Row| row.method != "dense" && row.speedup.is_some() && row.density.is_some_and(|d| d > 0.0);
    let rows: Vec<&Row> = results.rows.iter().filter(compared).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let mut svg = String::new();
    draw_speedups(&rows, &mut svg).map_err(failed)?;
    Ok(Some(finish(svg, "speed-up over density")))
}

fn draw_speedups(rows: &[&Row], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let point = |row: &&Row| (row.density.unwrap_or(1.0) * 100.0, row.speedup.unwrap_or(1.0));
    let densities = || rows.iter().map(|row| point(row).0);
    let speedups = || rows.iter().map(|row| point(row).1);
    let left = (least(densities()) / 1.3).min(50.0);
    let (bottom, top) = (least(speedups()).min(1.0) / 1.3, most(speedups()).max(100.0 / left) * 1.1);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area).margin(12).x_label_area_size(48).y_label_area_size(64).build_cartesian_2d(
        (left..110.0).log_scale().with_key_points(steps(left, 110.0)),
        (bottom..top).log_scale().with_key_points(steps(bottom, top)),
    )?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, [INK, QUIET, LINE]);
    mesh.disable_x_mesh()
        .x_label_formatter(&|x| format!("{x} %"))
        .y_label_formatter(&|y| format!("{y} x"))
        .x_desc("density: pairs visited, of all causal pairs")
        .y_desc("times faster than dense")
        .draw()?;
    let promised = [(left, 100.0 / left), (100.0, 1.0)];
    chart.draw_series(DashedLineSeries::new(promised, 5, 5, QUIET.stroke_width(1)))?;
    chart.draw_series(rows.iter().map(|row| Circle::new(point(row), 5, color(row).filled())))?;
    area.present()?;
    Ok(())
}

fn least(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

fn most(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, f64::max)
}

fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

/// 1, 2 and 5 times the powers of ten in a range: the labels of a logarithmic axis.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let powers = (-7..=5).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| (digit, power)));
    // Negative powers as quotients: 0.2 is nearer to 2 / 10 than to 2 * 0.1.
    let value =
        |(digit, power): (f64, i32)| if power < 0 { digit / 10f64.powi(-power) } else { digit * 10f64.powi(power) };
    powers.map(value).filter(|value| (low..=high).contains(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_labels() {
        assert_eq!(steps(0.15, 12.0), [0.2, 0.5, 1.0, 2.0, 5.0, 10.0]);
        assert_eq!(steps(1.5e-6, 1.2e-5), [2e-6, 5e-6, 1e-5]);
    }
}
