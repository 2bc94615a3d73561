//! Writing the output: a whole file or none.

use crate::failure::{Failure, Result, request};
use lacuna::BlockMask;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the output goes. Nothing is touched before [`write`](Self::write).
pub struct OutputFile {
    path: PathBuf,
    directory: PathBuf,
}

impl OutputFile {
    /// Checks before any work that `path` can be written and is none of the files being read.
    pub fn check(path: &Path, read: &[&Path]) -> Result<Self> {
        let shown = path.display();
        // Through a link the file itself is replaced, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.exists() && !path.is_file() {
            return request!("output: {shown} exists and is not a regular file");
        }
        for input in read {
            if is_same_file(&path, input) {
                return request!("output: {shown} is also an input");
            }
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if path.file_name().is_none() || !directory.is_dir() {
            return request!("output: the directory of {shown} does not exist");
        }
        Ok(Self { path, directory })
    }

    /// Writes `contents` beside the target and renames it into place.
    pub fn write(&self, contents: &Contents) -> Result<()> {
        let bad = |e: std::io::Error| Failure::Request(format!("output: {}: {e}", self.path.display()));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".lacuna-");
        // The default, 0600, would outlive the rename; the umask still applies to this one.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(&self.directory).map_err(bad)?;
        contents.write_to(file.as_file_mut()).map_err(bad)?;
        file.persist(&self.path).map_err(|e| bad(e.error))?;
        Ok(())
    }
}

#[cfg(unix)]
fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Tensors and metadata in the making.
#[derive(Default)]
pub struct Contents {
    tensors: Vec<(String, &'static str, Vec<usize>, Vec<u8>)>,
    metadata: BTreeMap<&'static str, String>,
}

impl Contents {
    /// Adds an f32 tensor.
    pub fn add_f32(&mut self, name: impl Into<String>, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.push((name.into(), "F32", dims.to_vec(), bytes));
    }

    /// Adds a bf16 tensor, rounded.
    pub fn add_bf16(&mut self, name: impl Into<String>, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|&x| lacuna::bf16::from_f32(x).to_le_bytes()).collect();
        self.tensors.push((name.into(), "BF16", dims.to_vec(), bytes));
    }

    /// Adds a u8 tensor.
    pub fn add_u8(&mut self, name: impl Into<String>, dims: &[usize], values: Vec<u8>) {
        self.tensors.push((name.into(), "U8", dims.to_vec(), values));
    }

    /// Adds a plan's blocks; a pattern that all `batch` sequences share is written once for each of them.
    pub fn add_blocks(&mut self, blocks: &BlockMask, batch: usize) {
        let copies = if blocks.batch == batch { 1 } else { batch };
        let dims = [batch, blocks.heads, blocks.q_blocks, blocks.kv_blocks];
        self.add_u8("block_mask", &dims, blocks.data.repeat(copies));
    }

    /// Adds a line of `__metadata__`.
    pub fn note(&mut self, key: &'static str, value: impl ToString) {
        self.metadata.insert(key, value.to_string());
    }

    /// The safetensors format by hand: the library keeps metadata in a `HashMap`, whose order changes from run to run,
    /// and the same request shall give the same bytes.
    fn write_to(&self, file: &mut impl Write) -> std::io::Result<()> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!(self.metadata));
        let mut start = 0;
        for (name, dtype, dims, bytes) in &self.tensors {
            let offsets = [start, start + bytes.len()];
            header.insert(name.clone(), json!({"dtype": dtype, "shape": dims, "data_offsets": offsets}));
            start += bytes.len();
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // The data starts at a multiple of 8 bytes; the format pads with spaces.
        header.resize(header.len().next_multiple_of(8), b' ');
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, _, _, bytes) in &self.tensors {
            file.write_all(bytes)?;
        }
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_safetensors() {
        let mut contents = Contents::default();
        contents.add_f32("out", &[1, 2], &[1.5, -2.0]);
        contents.add_u8("block_mask", &[3], vec![1, 0, 1]);
        contents.note("device", "simt");
        let mut bytes = Vec::new();
        contents.write_to(&mut bytes).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("out").unwrap().data(), [1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat());
        assert_eq!(tensors.tensor("block_mask").unwrap().data(), [1, 0, 1]);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["device"], "simt");
    }
}
