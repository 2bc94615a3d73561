//! Figures over density.

use super::legend::{self, Entry, Mark};
use super::{COLORS, Results, SIZE};
use crate::drawing::{Drawing, INK, LINE, PAPER, QUIET, plain};
use plotters::coord::combinators::IntoLogRange;
use plotters::coord::ranged1d::{KeyPointHint, Ranged, ValueFormatter};
use plotters::prelude::*;

/// Points with a name, joined by a line.
struct Line {
    name: String,
    color: RGBColor,
    mark: Mark,
    points: Vec<(f64, f64)>,
}

/// Median error of the model's heads over density, a line for each block size.
pub fn operator_error(results: &Results) -> Drawing {
    let mut lines = Vec::new();
    for causal in [false, true] {
        for (block, color) in super::super::settings::BLOCKS.into_iter().zip(COLORS) {
            let rows = results.errors.iter().filter(|row| row.source == "model" && row.causal == causal);
            let points = rows.filter_map(|row| {
                let setting = row.setting.as_ref()?;
                let wanted = setting.block_size == block && setting.num_projections == 7;
                wanted.then(|| (100.0 * row.density, row.median()))
            });
            let (kind, mark) = if causal { ("causal", Mark::Open) } else { ("full", Mark::Full) };
            lines.push(Line { name: format!("{kind}, blocks of {block}"), color, mark, points: points.collect() });
        }
    }
    let titles = ["density: (query, key) pairs attended, of all visible ones", "operator error, median over heads"];
    draw(&lines, titles, None)
}

/// Bits per byte over density: the estimate by length of the leaves, and the local window.
pub fn quality(results: &Results) -> Drawing {
    let mut lines: Vec<Line> = Vec::new();
    for row in &results.language {
        let (name, mark) = match row.method {
            "hyper" => {
                (format!("hyper, leaves of {}", row.settings.rsplit(' ').next().unwrap_or_default()), Mark::Full)
            }
            "window" => ("local window".to_owned(), Mark::Open),
            _ => continue,
        };
        let point = (100.0 * row.density, row.bits_per_byte);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => {
                let color = COLORS[lines.len() % COLORS.len()];
                lines.push(Line { name, color, mark, points: vec![point] });
            }
        }
    }
    let dense = results.language.first().map(|row| row.bits_per_byte);
    let titles = ["density: (query, key) pairs attended, of all causal pairs", "bits per byte (lower is better)"];
    draw(&lines, titles, dense)
}

/// A log scale with ticks where people look for them: at 1, 1.5, 2, 3, 5 and 7 times powers of ten, or evenly where
/// those are few.
struct Ticks {
    low: f64,
    high: f64,
    scale: LogCoord<f64>,
}

impl Ticks {
    fn new(low: f64, high: f64) -> Self {
        Self { low, high, scale: (low..high).log_scale().into() }
    }
}

impl Ranged for Ticks {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.scale.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let steps = [1.0, 1.5, 2.0, 3.0, 5.0, 7.0];
        let round = (-6..6).flat_map(|power| steps.map(|step| step * 10f64.powi(power)));
        let seen: Vec<f64> = round.filter(|tick| (self.low..=self.high).contains(tick)).collect();
        if seen.len() >= 3 {
            return seen;
        }
        let first = (self.low * 20.0).ceil() as usize;
        (first..=(self.high * 20.0) as usize).map(|tick| tick as f64 / 20.0).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Ticks {
    fn format_ext(&self, value: &f64) -> String {
        let digits = if *value >= 0.1 { 2 } else { 3 };
        format!("{value:.digits$}")
    }
}

fn draw(lines: &[Line], titles: [&str; 2], dense: Option<f64>) -> Drawing {
    let mut svg = String::new();
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let right = points().fold(10.0, |most: f64, (x, _)| most.max(x)) * 1.06;
    let heights = || points().map(|(_, y)| y).chain(dense);
    let (low, high) = heights().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), y| (low.min(y), high.max(y)));
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&PAPER)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .margin_right(legend::WIDTH)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, Ticks::new(low * 0.96, high * 1.04))?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, [INK, QUIET, LINE]);
    mesh.disable_x_mesh().x_label_formatter(&|x| format!("{x:.0} %")).x_desc(titles[0]).y_desc(titles[1]).draw()?;
    let mut entries = Vec::new();
    for line in lines {
        let mut points = line.points.clone();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let stroke = line.color.stroke_width(line.mark.width());
        chart.draw_series(LineSeries::new(points.iter().copied(), stroke))?;
        // Paper under open circles, so that lines end at them.
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, PAPER.filled())))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, line.mark.style(line.color))))?;
        entries.push(Entry { name: line.name.clone(), color: line.color, mark: line.mark });
    }
    if let Some(dense) = dense {
        chart.draw_series(DashedLineSeries::new([(0.0, dense), (right, dense)], 5, 5, QUIET.stroke_width(1)))?;
        entries.push(Entry { name: "dense".into(), color: QUIET, mark: Mark::Dashes });
    }
    legend::draw(&area, &entries)?;
    area.present()?;
    drop((chart, area));
    Ok(svg)
}
