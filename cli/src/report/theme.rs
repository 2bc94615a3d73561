//! Drawings in the page's own colours. plotters writes plain colours, the page wants its light or dark ones: each
//! stands for a variable of the style sheet until the drawing is done.

use plotters::prelude::*;

pub const INK: RGBColor = RGBColor(1, 1, 1);
pub const QUIET: RGBColor = RGBColor(2, 2, 2);
pub const LINE: RGBColor = RGBColor(3, 3, 3);
pub const PAPER: RGBColor = RGBColor(4, 4, 4);

/// The colour that stands for the variable with this place among the names that [`themed`] is given.
pub fn series(place: usize) -> RGBColor {
    RGBColor(16 + place as u8, 0, 0)
}

/// Replaces the stand-ins by the page's variables and lets a drawing of `size` pixels scale. `label` says what it
/// shows.
pub fn themed(svg: String, (width, height): (u32, u32), label: &str, names: &[&str]) -> String {
    let standing = |color: RGBColor| format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
    let mut svg = svg
        .replace(&standing(INK), "var(--ink)")
        .replace(&standing(QUIET), "var(--quiet)")
        .replace(&standing(LINE), "var(--line)")
        .replace(&standing(PAPER), "var(--card)");
    for (place, name) in names.iter().enumerate() {
        svg = svg.replace(&standing(series(place)), &format!("var(--{name})"));
    }
    svg.replacen(&format!(r#"width="{width}" height="{height}" "#), &format!(r#"role="img" aria-label="{label}" "#), 1)
}
