//! Files that can be read to an end: a pipe or a device might have none.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// The bytes of a regular file (or of a link to one).
pub fn read_regular(path: &Path) -> Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    std::fs::read(path)
}
