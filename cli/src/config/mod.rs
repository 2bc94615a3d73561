//! The JSON config of `attend`, `decode` and `show`: one strict struct per method, named as in the papers.

mod decode;
mod keys;
mod method;
mod seer;
mod select;
mod strict;

pub use decode::{Cache, DecodeKeys, DecodeMethod};
pub use keys::{BucketOrder, Columns, ComputeType, HyperKeys, Options, S2Keys, Sampling, Variant};
pub use method::{Method, MethodKeys, PatternKeys};
pub use seer::{Pool, SeerDecodeKeys, SeerKeys, pool_set};

use crate::failure::{Failure, Result};
use std::path::Path;

/// Config files are a few lines; anything above this many bytes is a wrong file.
const LARGEST: u64 = 1 << 20;

/// Reads a method's config; no path means every default.
pub fn read(method: Method, path: Option<&Path>) -> Result<MethodKeys> {
    MethodKeys::parse(method, &text(path)?)
}

/// The same for `decode`.
pub fn read_decode(method: Method, path: Option<&Path>) -> Result<(DecodeKeys, DecodeMethod)> {
    decode::parse_decode(method, &text(path)?)
}

fn text(path: Option<&Path>) -> Result<String> {
    let Some(path) = path else {
        return Ok("{}".to_owned());
    };
    let bad = |message: String| Failure::Request(format!("config: {}: {message}", path.display()));
    if std::fs::metadata(path).is_ok_and(|file| file.len() > LARGEST) {
        return Err(bad(format!("larger than {LARGEST} bytes")));
    }
    let bytes = crate::files::read_regular(path).map_err(|e| bad(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| bad(e.to_string()))
}
