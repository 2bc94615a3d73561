//! Reports: a first look at where one goes, before the work that it reports, and writing it.

use crate::failure::{Failure, Result, request};
use std::path::Path;

/// Refuses a path that is a directory, or whose directory does not exist.
pub fn check_writable(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() || parent.is_some_and(|parent| !parent.is_dir()) {
        return request!("{} can't be written: it is a directory, or its directory does not exist", path.display());
    }
    Ok(())
}

/// Writes a report.
pub fn write_report(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| Failure::Request(format!("{}: {e}", path.display())))
}
