//! What the marks mean, in a column of its own beside the chart: inside it would cover points.

use crate::drawing::{INK, font};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels of the column.
pub const WIDTH: u32 = 196;

/// A mark and its meaning.
pub struct Entry {
    pub name: String,
    pub color: RGBColor,
    pub mark: Mark,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A full circle on a line.
    Full,
    /// An open circle on a line.
    Open,
    /// A full circle.
    Point,
    /// A broken line.
    Dashes,
}

impl Mark {
    /// The circle.
    pub fn style(self, color: RGBColor) -> ShapeStyle {
        if self == Self::Open { color.stroke_width(1) } else { color.filled() }
    }

    /// The line, in pixels.
    pub fn width(self) -> u32 {
        if self == Self::Full { 2 } else { 1 }
    }
}

/// Draws the column at the right end of `area`, which a chart has left free.
pub fn draw<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    entries: &[Entry],
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let left = area.dim_in_pixel().0 as i32 - WIDTH as i32 + 12;
    let text = font(14, &INK).pos(Pos::new(HPos::Left, VPos::Center));
    for (i, entry) in entries.iter().enumerate() {
        let y = 26 + 22 * i as i32;
        let line = |from: i32, to: i32| {
            PathElement::new([(left + from, y), (left + to, y)], entry.color.stroke_width(entry.mark.width()))
        };
        match entry.mark {
            Mark::Dashes => {
                for from in [0, 7, 14] {
                    area.draw(&line(from, from + 4))?;
                }
            }
            Mark::Point => {}
            Mark::Full => area.draw(&line(0, 18))?,
            // Not through the circle.
            Mark::Open => {
                area.draw(&line(0, 5))?;
                area.draw(&line(13, 18))?;
            }
        }
        if entry.mark != Mark::Dashes {
            area.draw(&Circle::new((left + 9, y), 4, entry.mark.style(entry.color)))?;
        }
        area.draw(&Text::new(entry.name.as_str(), (left + 26, y), text.clone()))?;
    }
    Ok(())
}
