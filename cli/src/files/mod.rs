//! The tensor files of `attend`: safetensors in, safetensors out.

mod input;
mod output;

pub use input::TensorFile;
pub use output::{Contents, OutputFile};
