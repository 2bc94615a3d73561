//! The kernel tree `cuda/` and the content hash that the object cache is keyed by.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Every file of `cuda/`, sorted, so that builds are reproducible.
pub struct Tree {
    /// Absolute path of `cuda/`, the include folder of both compilers.
    pub root: PathBuf,
    /// `.cu` files: compiled for both machines.
    pub kernels: Vec<PathBuf>,
    /// `.cpp` files below `simt/`: the SIMT host itself.
    #[cfg(feature = "simt")]
    pub simt_host: Vec<PathBuf>,
    headers: Vec<PathBuf>,
}

impl Tree {
    pub fn scan() -> Result<Tree, String> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set: run this through cargo")?;
        let root = Path::new(&manifest).join("cuda");
        let mut files = Vec::new();
        list(&root, &mut files)?;
        files.sort();
        let with = |extensions: &[&str]| -> Vec<PathBuf> {
            let wanted = |file: &&PathBuf| file.extension().is_some_and(|e| extensions.iter().any(|&x| e == x));
            files.iter().filter(wanted).cloned().collect()
        };
        let (kernels, headers) = (with(&["cu"]), with(&["h", "cuh", "inc"]));
        #[cfg(feature = "simt")]
        let simt_host = with(&["cpp"]).into_iter().filter(|file| file.starts_with(root.join("simt"))).collect();
        if kernels.is_empty() {
            return Err(format!("no .cu file under {}: the source tree is incomplete", root.display()));
        }
        Ok(Tree {
            root,
            kernels,
            #[cfg(feature = "simt")]
            simt_host,
            headers,
        })
    }

    /// Hash of all headers; `keep` says which count (by their path below `cuda/`).
    pub fn hash_headers(&self, keep: impl Fn(&Path) -> bool) -> Result<Hash, String> {
        let mut hash = Hash::new();
        for header in &self.headers {
            let name = self.name(header);
            if keep(name) {
                hash.text(&name.to_string_lossy());
                hash.file(header)?;
            }
        }
        Ok(hash)
    }

    /// Path below `cuda/`.
    pub fn name<'a>(&self, file: &'a Path) -> &'a Path {
        file.strip_prefix(&self.root).unwrap_or(file)
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| format!("cannot list {}: {e}", folder.display()))?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// FNV-1a over 128 bits: not cryptographic, and needs no dependency.
#[derive(Clone)]
pub struct Hash(u128);

impl Hash {
    pub fn new() -> Hash {
        Hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    /// Adds a text and its end, so that "ab", "c" and "a", "bc" differ.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
        self.bytes(&[0]);
    }

    pub fn file(&mut self, file: &Path) -> Result<(), String> {
        let content = fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        self.bytes(&(content.len() as u64).to_le_bytes());
        self.bytes(&content);
        Ok(())
    }

    pub fn hex(&self) -> String {
        format!("{:032x}", self.0)
    }
}
