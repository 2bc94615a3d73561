//! The quality table as a picture of its own: a line for each way to pick blocks, dashed where every row has the same
//! number.

use crate::demo::results::{Family, Results};
use crate::drawing::{INK, LINE, PAPER, QUIET, font, plain};
use crate::failure::{Failure, Result};
use plotters::element::DashedPathElement;
use plotters::prelude::*;

/// Pixels of the drawing.
const SIZE: (u32, u32) = (860, 480);

const GATE: RGBColor = RGBColor(74, 70, 214);
const POOLED: RGBColor = RGBColor(138, 109, 0);
const ORACLE: RGBColor = RGBColor(13, 122, 111);

/// The lines, in the order of the legend: family, whether by threshold, name, colour.
const LINES: [(Family, bool, &str, RGBColor); 8] = [
    (Family::Random, false, "random blocks, same number", RGBColor(187, 26, 95)),
    (Family::Window, false, "local window", RGBColor(178, 84, 10)),
    (Family::Pooled, true, "mean-pooled scores, threshold", POOLED),
    (Family::Pooled, false, "mean-pooled scores, same number", POOLED),
    (Family::Seer, false, "trained gate, same number", GATE),
    (Family::Seer, true, "trained gate, threshold", GATE),
    (Family::Oracle, true, "oracle: true block map, threshold", ORACLE),
    (Family::Oracle, false, "oracle: true block map, same number", ORACLE),
];

/// Bits per byte over measured density as SVG.
pub fn density_against_quality(results: &Results) -> Result<String> {
    let mut svg = String::new();
    draw(results, &mut svg).map_err(|e| Failure::Failed(format!("plot: {e}")))?;
    Ok(svg)
}

fn draw(results: &Results, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let bits = || results.rows.iter().map(|row| row.bits_per_byte);
    let (low, high) = (bits().fold(f64::INFINITY, f64::min), bits().fold(f64::NEG_INFINITY, f64::max));
    let margin = ((high - low) * 0.06).max(0.01);
    let right = results.rows.iter().skip(1).map(|row| 100.0 * row.density).fold(10.0, f64::max) * 1.06;

    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&PAPER)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, low - margin..high + margin)?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, [INK, QUIET, LINE]);
    mesh.disable_x_mesh()
        .x_label_formatter(&|x| format!("{x:.0} %"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .x_desc("density: (query, key) pairs visited, of all causal pairs")
        .y_desc("bits per byte (lower is better)")
        .draw()?;
    for (family, threshold, name, color) in LINES {
        let rows = results.rows.iter().filter(|row| row.family == family && row.threshold == threshold);
        let mut points: Vec<(f64, f64)> = rows.map(|row| (100.0 * row.density, row.bits_per_byte)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        // A dash of the whole legend is a line.
        let (dash, gap) = if threshold { (18, 0) } else { (4, 3) };
        let line = points.iter().copied();
        let series = if threshold {
            chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?
        } else {
            chart.draw_series(DashedLineSeries::new(line, dash, gap, color.stroke_width(2)))?
        };
        series
            .label(name)
            .legend(move |(x, y)| DashedPathElement::new([(x, y), (x + 18, y)], dash, gap, color.stroke_width(2)));
        let mark = if threshold { color.filled() } else { color.stroke_width(2) };
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, mark)))?;
    }
    let dense = results.rows[0].bits_per_byte;
    chart
        .draw_series(DashedLineSeries::new([(0.0, dense), (right, dense)], 5, 5, QUIET.stroke_width(1)))?
        .label("dense")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], QUIET.stroke_width(1)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(font(14, &INK))
        .border_style(LINE)
        .background_style(PAPER)
        .draw()?;
    area.present()?;
    Ok(())
}
