//! The pictures of the page on HyperAttention.

mod bars;
mod curves;
mod legend;

use super::Results;
use crate::drawing::Drawing;
use crate::failure::{Failure, Result};
use plotters::prelude::*;

/// Pixels of a drawing.
const SIZE: (u32, u32) = (900, 460);

const COLORS: [RGBColor; 4] =
    [RGBColor(74, 70, 214), RGBColor(13, 122, 111), RGBColor(178, 84, 10), RGBColor(187, 26, 95)];

/// File names and SVGs of what was measured.
pub fn all(results: &Results) -> Result<Vec<(&'static str, String)>> {
    let mut drawings = Vec::new();
    let mut add = |name, drawing: Drawing| -> Result<()> {
        drawings.push((name, drawing.map_err(|error| Failure::Failed(format!("plot {name}: {error}")))?));
        Ok(())
    };
    if !results.errors.is_empty() {
        add("hyper-error.svg", curves::operator_error(results))?;
    }
    if !results.bias.is_empty() {
        add("hyper-bias.svg", bars::bias(results))?;
    }
    if !results.language.is_empty() {
        add("hyper-quality.svg", curves::quality(results))?;
    }
    Ok(drawings)
}
