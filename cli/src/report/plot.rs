//! The plot of density against quality.

use super::theme::{INK, LINE, PAPER, QUIET, series, themed};
use crate::demo::results::{Family, Results};
use crate::drawing::{font, plain};
use crate::failure::{Failure, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels of the drawing; it scales with the page.
const SIZE: (u32, u32) = (860, 440);

/// Pixels of a numbered circle.
const RADIUS: i32 = 9;

fn family_color(family: Family) -> RGBColor {
    series(Family::ALL.iter().position(|&f| f == family).unwrap_or(0))
}

/// Bits per byte over density: a numbered point a row of the table, and a line at dense.
pub fn density_against_quality(results: &Results) -> Result<String> {
    let mut svg = String::new();
    draw(results, &mut svg).map_err(|e| Failure::Failed(format!("report: {e}")))?;
    let names = Family::ALL.map(|family| family.name().to_lowercase());
    Ok(themed(svg, SIZE, "bits per byte over density", &names.each_ref().map(String::as_str)))
}

fn draw(results: &Results, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let rows = &results.rows;
    let bits = || rows.iter().map(|r| r.bits_per_byte);
    let (low, high) = (bits().fold(f64::INFINITY, f64::min), bits().fold(f64::NEG_INFINITY, f64::max));
    let margin = ((high - low) * 0.12).max(0.01);
    let (low, high) = (low - margin, high + margin);

    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..105.0, low..high)?;
    let mut mesh = chart.configure_mesh();
    plain(&mut mesh, [INK, QUIET, LINE]);
    mesh.disable_x_mesh()
        .x_labels(11)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0} %"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .x_desc("density: (query, key) pairs visited, of all causal pairs")
        .y_desc("bits per byte (lower is better)")
        .draw()?;

    if let Some(dense) = rows.iter().find(|r| r.family == Family::Dense) {
        let line = [(0.0, dense.bits_per_byte), (105.0, dense.bits_per_byte)];
        chart.draw_series(DashedLineSeries::new(line, 5, 5, family_color(Family::Dense).stroke_width(1)))?;
    }
    let pixels: Vec<(i32, i32)> =
        rows.iter().map(|row| chart.backend_coord(&(row.density * 100.0, row.bits_per_byte))).collect();
    let number = font(12, &PAPER).pos(Pos::new(HPos::Center, VPos::Center));
    for (i, (&point, label)) in pixels.iter().zip(spread(&pixels)).enumerate() {
        let color = family_color(rows[i].family);
        area.draw(&PathElement::new([point, label], color.stroke_width(1)))?;
        area.draw(&Circle::new(point, 3, color.filled()))?;
        area.draw(&Circle::new(label, RADIUS + 1, PAPER.filled()))?;
        area.draw(&Circle::new(label, RADIUS, color.filled()))?;
        area.draw(&Text::new((i + 1).to_string(), label, number.clone()))?;
    }
    area.present()?;
    Ok(())
}

/// Centres for the numbers: at their points, pushed apart where they would cover each other.
fn spread(points: &[(i32, i32)]) -> Vec<(i32, i32)> {
    let distance = f64::from(2 * RADIUS + 2);
    let mut centres: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (f64::from(x), f64::from(y))).collect();
    for _ in 0..200 {
        for a in 0..centres.len() {
            for b in 0..a {
                let (dx, dy) = (centres[a].0 - centres[b].0, centres[a].1 - centres[b].1);
                let apart = dx.hypot(dy);
                if apart < distance {
                    // Half of what is missing for each; two at the very same place part sideways.
                    let (ux, uy) = if apart > 0.0 { (dx / apart, dy / apart) } else { (1.0, 0.0) };
                    let push = (distance - apart) / 2.0;
                    centres[a] = (centres[a].0 + ux * push, centres[a].1 + uy * push);
                    centres[b] = (centres[b].0 - ux * push, centres[b].1 - uy * push);
                }
            }
        }
    }
    centres.into_iter().map(|(x, y)| (x.round() as i32, y.round() as i32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_cover_each_other() {
        let centres = spread(&[(100, 100), (100, 100), (104, 101), (300, 50)]);
        assert_eq!(centres[3], (300, 50));
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let (dx, dy) = (centres[a].0 - centres[b].0, centres[a].1 - centres[b].1);
            assert!(f64::from(dx * dx + dy * dy).sqrt() >= f64::from(2 * RADIUS), "{centres:?}");
        }
    }
}
