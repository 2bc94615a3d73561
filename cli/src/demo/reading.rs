//! What the model reads: which model, which text, how many windows of it.

use crate::failure::{Failure, Result, request};
use crate::files;
use crate::model::{Files, Model};
use std::path::{Path, PathBuf};

/// The options that the demo and the quality table share.
#[derive(clap::Args)]
pub struct Options {
    /// Text to read instead of the built-in one
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// A directory with config.json, model.safetensors and valid.txt of the same architecture, instead of the built-in
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Trained gates (safetensors, as `lacuna distill` writes them) instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    pub gates: Option<PathBuf>,
    /// auto, simt or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
}

/// A model and a text with at least `window * windows + 1` bytes.
pub struct Reading {
    /// The model.
    pub model: Model,
    /// The text.
    pub text: Vec<u8>,
    /// Where the text came from.
    pub text_name: String,
}

impl Reading {
    /// Loads both and checks the windows.
    pub fn open(options: &Options, window: usize, windows: usize) -> Result<Self> {
        let files = options.model.as_deref().map_or_else(|| Ok(Files::built_in()), Files::open)?;
        let model = Model::load(&files)?;
        let (text, text_name) = match &options.text {
            Some(path) => (read(path)?, path.display().to_string()),
            None => (files.text, unseen(options.model.as_deref())),
        };
        let longest = model.config().max_position_embeddings;
        if !(2..=longest).contains(&window) {
            return request!("--window must be in 2..={longest}, what the model was trained for, got {window}");
        }
        let needed = windows.checked_mul(window).and_then(|n| n.checked_add(1));
        if windows == 0 || needed.is_none_or(|needed| needed > text.len()) {
            return request!(
                "--windows must be in 1..={} for windows of {window} bytes of a text of {}, got {windows}",
                text.len().saturating_sub(1) / window,
                text.len()
            );
        }
        Ok(Self { model, text, text_name })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read_regular(path).map_err(|e| Failure::Request(format!("{}: {e}", path.display())))
}

fn unseen(model: Option<&Path>) -> String {
    match model {
        None => "valid.txt: Python of the CPython 3.11 standard library that the model has not seen".to_owned(),
        Some(model) => model.join("valid.txt").display().to_string(),
    }
}
