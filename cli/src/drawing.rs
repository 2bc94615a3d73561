//! What all drawings have in common.

use plotters::chart::MeshStyle;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

/// Colours of pictures that stand alone; those in pages take their page's.
pub const PAPER: RGBColor = RGBColor(255, 255, 255);
pub const INK: RGBColor = RGBColor(29, 28, 26);
pub const QUIET: RGBColor = RGBColor(103, 99, 93);
pub const LINE: RGBColor = RGBColor(227, 224, 217);

/// An SVG, or why there is none.
pub type Drawing = Result<String, Box<dyn std::error::Error>>;

pub fn font(size: i32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}

/// Titles in ink, numbers quiet, thin lines at the numbers and nowhere else.
pub fn plain<X: Ranged, Y: Ranged, DB: DrawingBackend>(
    mesh: &mut MeshStyle<'_, '_, X, Y, DB>,
    [ink, quiet, line]: [RGBColor; 3],
) {
    mesh.bold_line_style(line)
        .light_line_style(TRANSPARENT)
        .axis_style(line)
        .label_style(font(14, &quiet))
        .axis_desc_style(font(14, &ink));
}
