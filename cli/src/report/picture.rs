//! Block pictures as SVG: masks in one colour, attention maps in steps of opacity.

use crate::demo::results::BlockPicture;
use maud::{Markup, PreEscaped, html};
use std::fmt::Write;

/// Steps of opacity in a map.
const STEPS: usize = 8;
/// Probability at which a map's colour begins; maps are drawn on a logarithmic scale from here to 1.
const FAINTEST: f32 = 1e-2;

/// The causal triangle with the attended blocks filled. `label` is read out by screen readers.
pub fn mask(picture: &BlockPicture, label: &str) -> Markup {
    let cells = runs(picture, |value| value > 0.0);
    html! {
        svg.blocks viewBox=(view_box(picture)) role="img" aria-label=(label) shape-rendering="crispEdges" {
            path.unseen d=(triangle(picture)) {}
            path.seen d=(cells) {}
        }
    }
}

/// The causal triangle shaded by probability.
pub fn map(picture: &BlockPicture, label: &str) -> Markup {
    let mut paths = String::new();
    for step in 1..=STEPS {
        let cells = runs(picture, |value| shade(value) == step);
        if !cells.is_empty() {
            let opacity = step as f32 / STEPS as f32;
            write!(paths, r#"<path class="seen" opacity="{opacity:.3}" d="{cells}"/>"#).expect("writing to a string");
        }
    }
    html! {
        svg.blocks viewBox=(view_box(picture)) role="img" aria-label=(label) shape-rendering="crispEdges" {
            path.unseen d=(triangle(picture)) {}
            (PreEscaped(paths))
        }
    }
}

/// Masks side by side as an SVG file of its own.
pub fn standalone(pictures: &[BlockPicture]) -> String {
    let (rows, columns) = pictures.iter().fold((1, 1), |(r, c), p| (p.rows.max(r), p.columns.max(c)));
    let across = (pictures.len() as f64).sqrt().ceil().max(1.0) as usize;
    // Between pictures, in blocks.
    let gap = columns / 16 + 1;
    let down = pictures.len().div_ceil(across);
    let (width, height) = (across * (columns + gap) + gap, down * (rows + gap) + gap);
    let markup = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {width} {height}")) width=(width * 8) height=(height * 8)
            shape-rendering="crispEdges" {
            rect width=(width) height=(height) fill="#ffffff" {}
            @for (i, picture) in pictures.iter().enumerate() {
                g transform=(format!("translate({} {})", i % across * (columns + gap) + gap, i / across * (rows + gap) + gap)) {
                    rect width=(picture.columns) height=(picture.rows) fill="#efedf8" {}
                    path fill="#4a46d6" d=(runs(picture, |value| value > 0.0)) {}
                }
            }
        }
    };
    markup.into_string()
}

/// 0 (invisible) to [`STEPS`], logarithmic.
fn shade(value: f32) -> usize {
    if value < FAINTEST {
        return 0;
    }
    let depth = 1.0 - value.min(1.0).ln() / FAINTEST.ln();
    ((depth * STEPS as f32).ceil() as usize).clamp(1, STEPS)
}

fn view_box(picture: &BlockPicture) -> String {
    format!("0 0 {} {}", picture.columns, picture.rows)
}

/// The blocks up to the diagonal; the last query block is aligned with the last key block.
fn triangle(picture: &BlockPicture) -> String {
    let mut path = String::new();
    for row in 0..picture.rows {
        let width = (picture.columns + row + 1).saturating_sub(picture.rows).min(picture.columns);
        rectangle(&mut path, 0, row, width);
    }
    path
}

/// Rectangles around horizontal runs of blocks that pass.
fn runs(picture: &BlockPicture, pass: impl Fn(f32) -> bool) -> String {
    let mut path = String::new();
    for (row, values) in picture.values.chunks_exact(picture.columns.max(1)).enumerate() {
        let mut start = 0;
        for run in values.chunk_by(|&a, &b| pass(a) == pass(b)) {
            if pass(run[0]) {
                rectangle(&mut path, start, row, run.len());
            }
            start += run.len();
        }
    }
    path
}

fn rectangle(path: &mut String, column: usize, row: usize, width: usize) {
    write!(path, "M{column} {row}h{width}v1h-{width}z").expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_become_rectangles() {
        let picture = BlockPicture { rows: 2, columns: 3, values: vec![1.0, 1.0, 0.0, 1.0, 0.0, 1.0] };
        let svg = mask(&picture, "a & b").into_string();
        assert!(svg.contains("M0 0h2v1h-2zM0 1h1v1h-1zM2 1h1v1h-1z"), "{svg}");
        assert!(svg.contains("a &amp; b"));
        assert_eq!(triangle(&picture), "M0 0h2v1h-2zM0 1h3v1h-3z");
    }

    #[test]
    fn shades_are_logarithmic() {
        assert_eq!([0.0, 1e-3, 1e-2, 0.1, 1.0, 2.0].map(shade), [0, 0, 1, 4, 8, 8]);
    }
}
