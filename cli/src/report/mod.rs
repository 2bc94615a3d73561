//! The HTML report of a demo run: one file with everything inside, light and dark, for wide and narrow screens.

mod page;
mod picture;
mod plot;
pub mod theme;

pub use page::{mark, render};
pub use picture::standalone as standalone_svg;

/// The style sheet of every page.
pub const STYLE: &str = include_str!("style.css");
