//! A first look at where a report goes, before the work that it reports.

use crate::failure::{Result, request};
use std::path::Path;

/// Refuses a path that is a directory, or whose directory does not exist.
pub fn check_writable(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() || parent.is_some_and(|parent| !parent.is_dir()) {
        return request!("{} can't be written: it is a directory, or its directory does not exist", path.display());
    }
    Ok(())
}
