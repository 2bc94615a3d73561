//! Finds `cuobjdump` and runs it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first that runs, in the order in which build.rs looks for nvcc.
pub fn find(root: &Path) -> Result<PathBuf, String> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let beside_nvcc = variable("NVCC").and_then(|nvcc| Some(nvcc.parent()?.to_owned()));
    let homes = ["CUDA_HOME", "CUDA_PATH"].map(|name| variable(name).map(|home| home.join("bin")));
    let path = variable("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = beside_nvcc.into_iter().chain(homes.into_iter().flatten()).collect();
    folders.extend(env::split_paths(&path));
    folders.extend(["/usr/local/cuda/bin".into(), root.join("target/cuda-toolkit/nvidia/cu13/bin")]);
    let runs =
        |tool: &PathBuf| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    folders.iter().map(|folder| folder.join("cuobjdump")).find(runs).ok_or_else(|| {
        "no cuobjdump beside NVCC, in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda; `make cuda-toolkit` installs one \
         under target/"
            .into()
    })
}

/// The SASS of an object for one architecture.
pub fn sass(tool: &Path, arch: &str, object: &Path) -> Result<String, String> {
    let mut command = Command::new(tool);
    command.args(["-sass", "-arch", arch]).arg(object);
    let output = command.output().map_err(|e| format!("cannot run {}: {e}", tool.display()))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed ({}):\n{printed}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
