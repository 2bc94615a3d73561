//! JSON that is read strictly: one line for whatever is wrong with it, and with which key.

use crate::failure::{Failure, Result};
use serde::Deserialize;

/// A failure of the config.
pub fn config_error(message: impl std::fmt::Display) -> Failure {
    Failure::Request(format!("config: {message}"))
}

/// serde's derive refuses unknown and duplicate keys; serde_path_to_error tells which key an error belongs to.
pub fn strict_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    // A derived struct would also take an array of its fields.
    if !text.trim_start().starts_with('{') {
        return Err(config_error("expected an object `{...}`"));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let message = plain_words(&e.inner().to_string());
        match e.path().to_string().as_str() {
            "." | "?" => config_error(message),
            key if message.contains(&format!("`{key}`")) => config_error(message),
            key => config_error(format_args!("{key}: {message}")),
        }
    })?;
    json.end().map_err(config_error)?;
    Ok(value)
}

/// serde names Rust types; the reader of a config need not know them.
fn plain_words(message: &str) -> String {
    message
        .replace("expected usize", "expected a whole number of at least 0")
        .replace("expected u64", "expected a whole number of at least 0")
        .replace("expected i64", "expected a whole number")
        .replace("expected f64", "expected a number")
        .replace("expected a boolean", "expected true or false")
}
