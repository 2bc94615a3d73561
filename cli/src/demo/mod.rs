pub mod results;
pub mod selection;
