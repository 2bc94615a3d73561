//! The pictures of the page on HyperAttention.

use super::Results;
use crate::failure::{Failure, Result};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

/// Pixels of a drawing.
const SIZE: (u32, u32) = (860, 460);

const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(29, 28, 26);
const QUIET: RGBColor = RGBColor(103, 99, 93);
const LINE: RGBColor = RGBColor(227, 224, 217);
const COLORS: [RGBColor; 4] =
    [RGBColor(74, 70, 214), RGBColor(13, 122, 111), RGBColor(178, 84, 10), RGBColor(187, 26, 95)];

/// Points with a name, joined by a line.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// File names and SVGs.
pub fn all(results: &Results) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("hyper-error.svg", operator_error(results)?),
        ("hyper-bias.svg", bias(results)?),
        ("hyper-quality.svg", quality(results)?),
    ])
}

/// Median error of the model's heads over density, a line for each block size.
fn operator_error(results: &Results) -> Result<String> {
    let mut lines = Vec::new();
    for causal in [false, true] {
        for block in super::settings::BLOCKS {
            let rows = results.errors.iter().filter(|row| row.source == "model" && row.causal == causal);
            let points = rows.filter_map(|row| {
                let setting = row.setting.as_ref()?;
                let wanted = setting.block_size == block && setting.num_projections == 7;
                wanted.then(|| (100.0 * row.density, row.median()))
            });
            let name = format!("{}, blocks of {block}", if causal { "causal" } else { "full" });
            lines.push(Line { name, points: points.collect() });
        }
    }
    chart(
        &lines,
        ["density: (query, key) pairs attended, of all visible ones", "operator error, median over heads"],
        &|y| format!("{y:.3}"),
        None,
    )
}

/// Bits per byte over density: the estimate by length of the leaves, and the local window.
fn quality(results: &Results) -> Result<String> {
    let mut lines: Vec<Line> = Vec::new();
    for row in &results.language {
        let name = match row.method {
            "hyper" => format!("hyper, leaves of {}", row.settings.rsplit(' ').next().unwrap_or_default()),
            "window" => "local window".to_owned(),
            _ => continue,
        };
        let point = (100.0 * row.density, row.bits_per_byte);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name, points: vec![point] }),
        }
    }
    let dense = results.language.first().map(|row| row.bits_per_byte);
    let titles = ["density: (query, key) pairs attended, of all causal pairs", "bits per byte (lower is better)"];
    chart(&lines, titles, &|y| format!("{y:.2}"), dense)
}

fn failed<E: std::fmt::Display>(error: E) -> Failure {
    Failure::Failed(format!("plot: {error}"))
}

fn font(size: i32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}

fn chart(lines: &[Line], titles: [&str; 2], y_label: &dyn Fn(f64) -> String, dense: Option<f64>) -> Result<String> {
    let mut svg = String::new();
    draw_chart(&mut svg, lines, titles, y_label, dense).map_err(failed)?;
    Ok(svg)
}

fn draw_chart(
    svg: &mut String,
    lines: &[Line],
    titles: [&str; 2],
    y_label: &dyn Fn(f64) -> String,
    dense: Option<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let right = points().fold(10.0, |most: f64, (x, _)| most.max(x)) * 1.06;
    let heights = || points().map(|(_, y)| y).chain(dense);
    let (low, high) = heights().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), y| (low.min(y), high.max(y)));
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&PAPER)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, (low * 0.95..high * 1.05).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(LINE)
        .light_line_style(TRANSPARENT)
        .axis_style(LINE)
        .x_label_formatter(&|x| format!("{x:.0} %"))
        .y_label_formatter(&|y| y_label(*y))
        .label_style(font(14, &QUIET))
        .axis_desc_style(font(14, &INK))
        .x_desc(titles[0])
        .y_desc(titles[1])
        .draw()?;
    for (i, line) in lines.iter().enumerate() {
        let color = COLORS[i % 3];
        let mut points = line.points.clone();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        // The second three lines are those of causal attention: open circles.
        let style = if i < 3 { color.filled() } else { color.stroke_width(1) };
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(if i < 3 { 2 } else { 1 })))?
            .label(&line.name)
            .legend(move |(x, y)| Circle::new((x + 9, y), 4, style));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, style)))?;
    }
    if let Some(dense) = dense {
        chart
            .draw_series(DashedLineSeries::new([(0.0, dense), (right, dense)], 5, 5, QUIET.stroke_width(1)))?
            .label("dense")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], QUIET.stroke_width(1)));
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

/// A row for each estimator: mean and two standard errors on each source.
fn bias(results: &Results) -> Result<String> {
    let mut svg = String::new();
    draw_bias(&mut svg, results).map_err(failed)?;
    Ok(svg)
}

fn draw_bias(svg: &mut String, results: &Results) -> Result<(), Box<dyn std::error::Error>> {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    let (estimators, sources) = (results.estimators(), results.bias_sources());
    let bars =
        results.bias.iter().map(|row| (row.bias - 2.0 * row.standard_error, row.bias + 2.0 * row.standard_error));
    let (low, high) = bars.fold((-0.05, 0.05), |(low, high): (f64, f64), bar| (low.min(bar.0), high.max(bar.1)));
    let rows = estimators.len() as f64;
    let area = SVGBackend::with_string(svg, (SIZE.0, 110 + 34 * estimators.len() as u32)).into_drawing_area();
    area.fill(&PAPER)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .margin_left(330)
        .x_label_area_size(48)
        .build_cartesian_2d(low * 1.05..high * 1.05, rows..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .bold_line_style(LINE)
        .light_line_style(TRANSPARENT)
        .axis_style(LINE)
        .x_label_formatter(&|x| format!("{:+.0} %", 100.0 * x))
        .label_style(font(14, &QUIET))
        .axis_desc_style(font(14, &INK))
        .x_desc("bias of the sum of exponentials, ± 2 standard errors")
        .draw()?;
    chart.draw_series(LineSeries::new([(0.0, 0.0), (0.0, rows)], QUIET.stroke_width(1)))?;
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
        chart
            .draw_series(found.iter().map(|&(y, x, _)| Circle::new((x, y), 3, color.filled())))?
            .label(*source)
            .legend(move |(x, y)| Circle::new((x + 9, y), 4, color.filled()));
    }
    let text = font(14, &INK).pos(Pos::new(HPos::Right, VPos::Center));
    for (i, name) in estimators.iter().enumerate() {
        let (_, y) = chart.backend_coord(&(0.0, i as f64 + 0.5));
        area.draw(&Text::new(*name, (322, y), text.clone()))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .label_font(font(14, &INK))
        .border_style(LINE)
        .background_style(PAPER)
        .draw()?;
    area.present()?;
    Ok(())
}
