//! The quality table as a picture of its own: a line for each way to pick blocks.

use crate::demo::results::{Family, Results};
use crate::failure::{Failure, Result};
use plotters::prelude::*;

/// Pixels of the drawing.
const SIZE: (u32, u32) = (860, 480);

const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(29, 28, 26);
const QUIET: RGBColor = RGBColor(103, 99, 93);
const LINE: RGBColor = RGBColor(227, 224, 217);

/// The lines, in the order of the legend.
const LINES: [(Family, &str, RGBColor); 5] = [
    (Family::Seer, "trained gate", RGBColor(74, 70, 214)),
    (Family::Pooled, "mean-pooled scores, untrained", RGBColor(138, 109, 0)),
    (Family::Window, "local window", RGBColor(178, 84, 10)),
    (Family::Oracle, "oracle: the true block map", RGBColor(13, 122, 111)),
    (Family::Random, "random blocks", RGBColor(187, 26, 95)),
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
    let font = |size: i32, color: &RGBColor| ("sans-serif", size).into_font().color(color);
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(LINE)
        .light_line_style(TRANSPARENT)
        .axis_style(LINE)
        .x_label_formatter(&|x| format!("{x:.0} %"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .label_style(font(14, &QUIET))
        .axis_desc_style(font(14, &INK))
        .x_desc("density: (query, key) pairs visited, of all causal pairs")
        .y_desc("bits per byte (lower is better)")
        .draw()?;
    for (family, name, color) in LINES {
        let rows = results.rows.iter().filter(|row| row.family == family);
        let mut points: Vec<(f64, f64)> = rows.map(|row| (100.0 * row.density, row.bits_per_byte)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, color.filled())))?;
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
