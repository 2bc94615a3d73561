//! The plot of density against quality.

use crate::demo::results::{Family, Results};
use crate::failure::{Failure, Result};
use plotters::prelude::*;

/// Pixels of the drawing; it scales with the page.
const SIZE: (u32, u32) = (860, 440);

/// Colours that stand for the page's own: plotters writes plain colours, the page wants its light or dark ones.
const INK: RGBColor = RGBColor(1, 1, 1);
const QUIET: RGBColor = RGBColor(2, 2, 2);
const LINE: RGBColor = RGBColor(3, 3, 3);
const PAPER: RGBColor = RGBColor(4, 4, 4);

fn family_color(family: Family) -> RGBColor {
    let index = Family::ALL.iter().position(|&f| f == family).unwrap_or(0);
    RGBColor(16 + index as u8, 0, 0)
}

/// Bits per byte over density: a numbered point a row of the table, and a line at dense.
pub fn density_against_quality(results: &Results) -> Result<String> {
    let mut svg = String::new();
    draw(results, &mut svg).map_err(|e| Failure::Failed(format!("report: {e}")))?;
    Ok(themed(svg))
}

fn draw(results: &Results, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let rows = &results.rows;
    let bits = || rows.iter().map(|r| r.bits_per_byte);
    let (low, high) = (bits().fold(f64::INFINITY, f64::min), bits().fold(f64::NEG_INFINITY, f64::max));
    let margin = ((high - low) * 0.12).max(0.01);
    let (low, high) = (low - margin, high + margin);

    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let font = |size: i32, color: &RGBColor| ("sans-serif", size).into_font().color(color);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..105.0, low..high)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(LINE)
        .light_line_style(TRANSPARENT)
        .axis_style(LINE)
        .x_labels(11)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0} %"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .label_style(font(14, &QUIET))
        .axis_desc_style(font(14, &INK))
        .x_desc("density: (query, key) pairs visited, of all causal pairs")
        .y_desc("bits per byte (lower is better)")
        .draw()?;

    if let Some(dense) = rows.iter().find(|r| r.family == Family::Dense) {
        let line = [(0.0, dense.bits_per_byte), (105.0, dense.bits_per_byte)];
        chart.draw_series(DashedLineSeries::new(line, 5, 5, family_color(Family::Dense).stroke_width(1)))?;
    }
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    for (i, row) in rows.iter().enumerate() {
        let color = family_color(row.family);
        let number = font(12, &PAPER).pos(Pos::new(HPos::Center, VPos::Center));
        chart.draw_series(std::iter::once(
            EmptyElement::at((row.density * 100.0, row.bits_per_byte))
                + Circle::new((0, 0), 10, ShapeStyle::from(PAPER).filled())
                + Circle::new((0, 0), 9, ShapeStyle::from(color).filled())
                + Text::new((i + 1).to_string(), (0, 0), number),
        ))?;
    }
    area.present()?;
    Ok(())
}

/// Replaces the stand-in colours by the page's variables and lets the drawing scale.
fn themed(svg: String) -> String {
    let variable = |color: RGBColor| format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
    let mut svg = svg
        .replace(&variable(INK), "var(--ink)")
        .replace(&variable(QUIET), "var(--quiet)")
        .replace(&variable(LINE), "var(--line)")
        .replace(&variable(PAPER), "var(--card)");
    for family in Family::ALL {
        svg = svg.replace(&variable(family_color(family)), &format!("var(--{})", family.name().to_lowercase()));
    }
    let size = format!(r#"width="{}" height="{}" "#, SIZE.0, SIZE.1);
    svg.replacen(&size, r#"role="img" aria-label="bits per byte over density" "#, 1)
}
