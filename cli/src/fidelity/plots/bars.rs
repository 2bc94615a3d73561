//! A row for each estimator: mean and two standard errors on each source.

use super::legend::{self, Entry, Mark};
use super::{COLORS, Results, SIZE};
use crate::drawing::{Drawing, INK, LINE, PAPER, QUIET, font, plain};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels for the estimators' names.
const NAMES: u32 = 330;

pub fn bias(results: &Results) -> Drawing {
    let mut svg = String::new();
    let (estimators, sources) = (results.estimators(), results.bias_sources());
    let bars =
        results.bias.iter().map(|row| (row.bias - 2.0 * row.standard_error, row.bias + 2.0 * row.standard_error));
    let (low, high) = bars.fold((-0.05, 0.05), |(low, high): (f64, f64), bar| (low.min(bar.0), high.max(bar.1)));
    let rows = estimators.len() as f64;
    let size = (SIZE.0 + legend::WIDTH, 110 + 34 * estimators.len() as u32);
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    area.fill(&PAPER)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .margin_left(NAMES)
        .margin_right(legend::WIDTH)
        .x_label_area_size(48)
        .build_cartesian_2d(low * 1.05..high * 1.05, rows..0.0)?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, [INK, QUIET, LINE]);
    mesh.disable_y_mesh()
        .disable_y_axis()
        .x_label_formatter(&|x| format!("{:+.0} %", 100.0 * x))
        .x_desc("bias of the sum of exponentials, ± 2 standard errors")
        .draw()?;
    chart.draw_series(LineSeries::new([(0.0, 0.0), (0.0, rows)], QUIET.stroke_width(1)))?;
    let mut entries = Vec::new();
    for (s, source) in sources.iter().enumerate() {
        let color = COLORS[s % COLORS.len()];
        let height = |i: usize| i as f64 + (s + 1) as f64 / (sources.len() + 1) as f64;
        let found = estimators.iter().enumerate().filter_map(|(i, name)| {
            let row = results.bias.iter().find(|row| row.source == *source && row.estimator == *name)?;
            Some((height(i), row.bias, 2.0 * row.standard_error))
        });
        let found: Vec<_> = found.collect();
        let bar = |&(y, x, e): &(f64, f64, f64)| PathElement::new([(x - e, y), (x + e, y)], color.stroke_width(2));
        chart.draw_series(found.iter().map(bar))?;
        chart.draw_series(found.iter().map(|&(y, x, _)| Circle::new((x, y), 3, color.filled())))?;
        entries.push(Entry { name: (*source).to_owned(), color, mark: Mark::Point });
    }
    let text = font(14, &INK).pos(Pos::new(HPos::Right, VPos::Center));
    for (i, name) in estimators.iter().enumerate() {
        let (_, y) = chart.backend_coord(&(0.0, i as f64 + 0.5));
        area.draw(&Text::new(*name, (NAMES as i32 - 8, y), text.clone()))?;
    }
    legend::draw(&area, &entries)?;
    area.present()?;
    drop((chart, area));
    Ok(svg)
}
