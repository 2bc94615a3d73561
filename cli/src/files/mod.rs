//! The tensor files of `attend`: safetensors in, safetensors out.

mod input;
mod output;
mod regular;
mod values;
mod writable;

pub use input::TensorFile;
pub use output::{Contents, OutputFile};
pub use regular::{open_regular, read_regular};
pub use values::{floats, rounded};
pub use writable::{check_writable, write_report};
