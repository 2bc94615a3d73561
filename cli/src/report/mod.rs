//! The HTML report of a demo run: one file with everything inside, light and dark, for wide and narrow screens.

mod page;
mod picture;
mod plot;

pub use page::render;
pub use picture::standalone as standalone_svg;
