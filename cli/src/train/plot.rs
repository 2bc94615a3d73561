//! The curves as a picture.

use super::curve::Results;
use crate::drawing::{INK, LINE, PAPER, QUIET, font, plain};
use crate::failure::{Failure, Result};
use plotters::prelude::*;

/// Pixels of the drawing.
const SIZE: (u32, u32) = (860, 440);

const COLORS: [RGBColor; 2] = [RGBColor(74, 70, 214), RGBColor(178, 84, 10)];

/// Bits per byte over steps as SVG: lines for the validation text, dots for what was trained on.
pub fn curves(results: &Results) -> Result<String> {
    let mut svg = String::new();
    draw(results, &mut svg).map_err(|e| Failure::Failed(format!("plot: {e}")))?;
    Ok(svg)
}

fn draw(results: &Results, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let points = || results.curves.iter().flat_map(|curve| &curve.points);
    let bits = || points().flat_map(|point| point.train.into_iter().chain([point.valid]));
    let (low, high) = (bits().fold(f64::INFINITY, f64::min), bits().fold(f64::NEG_INFINITY, f64::max));
    let margin = ((high - low) * 0.06).max(0.01);
    let last = points().map(|point| point.step).max().unwrap_or(1) as f64;

    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&PAPER)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(64)
        // Room for the legend.
        .build_cartesian_2d(0.0..last, low - margin..high + 5.0 * margin)?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, [INK, QUIET, LINE]);
    mesh.disable_x_mesh()
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .x_desc("steps")
        .y_desc("bits per byte (lower is better)")
        .draw()?;
    for (curve, color) in results.curves.iter().zip(COLORS.into_iter().cycle()) {
        let valid = curve.points.iter().map(|point| (point.step as f64, point.valid));
        chart
            .draw_series(LineSeries::new(valid, color.stroke_width(2)).point_size(3))?
            .label(format!("{}, validation text", curve.name))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        let train = curve.points.iter().filter_map(|point| point.train.map(|bits| (point.step as f64, bits)));
        chart
            .draw_series(train.map(|point| Circle::new(point, 3, color.stroke_width(1))))?
            .label(format!("{}, text learned from", curve.name))
            .legend(move |(x, y)| Circle::new((x + 9, y), 3, color.stroke_width(1)));
    }
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
