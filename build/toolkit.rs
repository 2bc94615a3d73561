//! Finds nvcc and the static CUDA runtime.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest nvcc that is tested, as (major, minor).
const OLDEST: (u32, u32) = (12, 8);

pub struct Toolkit {
    pub nvcc: PathBuf,
    /// All that `nvcc --version` prints.
    pub version: String,
}

impl Toolkit {
    /// The first nvcc that is new enough, in the order NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda, wheels.
    pub fn find() -> Result<Toolkit, String> {
        let mut tried = Vec::new();
        for (origin, nvcc) in candidates() {
            match probe(&nvcc) {
                Ok(version) => return Ok(Toolkit { nvcc, version }),
                // Whoever names a compiler wants that one, not another.
                Err(reason) if origin == "NVCC" => {
                    return Err(format!("NVCC is set to {}, but {reason}", nvcc.display()));
                }
                Err(reason) => tried.push(format!("{} ({origin}): {reason}", nvcc.display())),
            }
        }
        Err(missing(&tried))
    }

    /// The folder of the toolkit, two levels above nvcc (links such as /usr/bin/nvcc are followed).
    fn root(&self) -> Option<PathBuf> {
        let nvcc = self.nvcc.canonicalize().unwrap_or_else(|_| self.nvcc.clone());
        Some(nvcc.parent()?.parent()?.to_owned())
    }

    /// The folder of `libcudart_static.a`. Layouts differ: runfile and deb, conda, wheels.
    pub fn cudart_folder(&self) -> Result<PathBuf, String> {
        let root = self.root().ok_or_else(|| format!("{} has no parent folder", self.nvcc.display()))?;
        let folders = ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"].map(|f| root.join(f));
        folders.iter().find(|folder| has_cudart(folder)).cloned().ok_or_else(|| {
            format!(
                "nvcc is {}, but libcudart_static.a is in none of lib64, lib, targets/*/lib of {}; install the CUDA \
                 runtime development files (cuda-cudart-dev) of the same version",
                self.nvcc.display(),
                root.display()
            )
        })
    }
}

pub fn has_cudart(folder: &Path) -> bool {
    folder.join("libcudart_static.a").is_file()
}

/// (where the path comes from, the path), in order of preference.
fn candidates() -> Vec<(&'static str, PathBuf)> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut candidates = Vec::new();
    candidates.extend(variable("NVCC").map(|nvcc| ("NVCC", nvcc)));
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(variable(name).map(|home| (name, home.join("bin/nvcc"))));
    }
    if let Some(path) = env::var_os("PATH") {
        candidates.extend(env::split_paths(&path).map(|p| ("PATH", p.join("nvcc"))).filter(|(_, p)| p.is_file()));
    }
    candidates.push(("the usual place", "/usr/local/cuda/bin/nvcc".into()));
    let manifest = variable("CARGO_MANIFEST_DIR").unwrap_or_default();
    candidates.push(("make cuda-toolkit", manifest.join("target/cuda-toolkit/nvidia/cu13/bin/nvcc")));
    candidates
}

/// What `nvcc --version` prints, or why this nvcc won't do.
fn probe(nvcc: &Path) -> Result<String, String> {
    let output = Command::new(nvcc).arg("--version").output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "not there".to_owned(),
        _ => format!("does not run: {e}"),
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = release(&text).ok_or("`nvcc --version` names no release")?;
    if found < OLDEST {
        return Err(format!("release {}.{} is older than {}.{}", found.0, found.1, OLDEST.0, OLDEST.1));
    }
    Ok(text)
}

/// (13, 0) from "Cuda compilation tools, release 13.0, V13.0.88".
fn release(text: &str) -> Option<(u32, u32)> {
    let number = text.split("release ").nth(1)?.split(',').next()?;
    let (major, minor) = number.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn missing(tried: &[String]) -> String {
    format!(
        "feature `cuda` needs nvcc {}.{} or newer, and none was found. Either install a CUDA toolkit and set NVCC (the \
         compiler) or CUDA_HOME or CUDA_PATH (the toolkit folder), or put nvcc on PATH; or run `make cuda-toolkit` in \
         a checkout, which installs the compiler as Python wheels under target/ (no GPU, no root); or set \
         LACUNA_LIB_DIR to a folder with a prebuilt liblacuna_cuda.a and libcudart_static.a; or leave the feature off: \
         the SIMT host (feature `simt`) needs only a C++ compiler. Tried:\n  {}",
        OLDEST.0,
        OLDEST.1,
        tried.join("\n  ")
    )
}
