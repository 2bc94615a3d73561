//! Compiles the kernels of `cuda/`: with the host C++ compiler for the SIMT host (feature `simt`), with nvcc for the
//! GPU (feature `cuda`). Never touches the network, never asks nvidia-smi. It reads `VARIABLES`.

#[cfg(feature = "cuda")]
#[path = "build/architectures.rs"]
mod architectures;
#[cfg(feature = "cuda")]
#[path = "build/cuda.rs"]
mod cuda;
#[cfg(any(feature = "simt", feature = "cuda"))]
#[path = "build/objects.rs"]
mod objects;
#[cfg(feature = "simt")]
#[path = "build/simt.rs"]
mod simt;
#[cfg(any(feature = "simt", feature = "cuda"))]
#[path = "build/sources.rs"]
mod sources;
#[cfg(feature = "cuda")]
#[path = "build/toolkit.rs"]
mod toolkit;

use std::process::ExitCode;

/// Everything the environment can say to this script.
const VARIABLES: &[&str] = &[
    "DOCS_RS",
    "LACUNA_SKIP_KERNELS", // 1: compile nothing, for `cargo check` and editors; nothing links then
    "LACUNA_BUILD_DIR",    // object cache to share between builds; default: cargo's OUT_DIR
    "LACUNA_LIB_DIR",      // a folder with a prebuilt liblacuna_cuda.a or .so
    "LACUNA_CUDA_ARCHS",   // "80;90a"
    "LACUNA_NVCC_JOBS",    // nvcc processes at a time (a heavy file takes up to 2 GB)
    "CXX",
    "CXXFLAGS",
    "CXXSTDLIB_STATIC",
    "NVCC",
    "NVCC_CCBIN",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
    "CUDA_HOME",
    "CUDA_PATH",
    "PATH",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    for variable in VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    // docs.rs has no nvcc and links nothing.
    if is_set("DOCS_RS") || is_set("LACUNA_SKIP_KERNELS") {
        return ExitCode::SUCCESS;
    }
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={}", message.trim_end().replace('\n', "\ncargo::error="));
            ExitCode::FAILURE
        }
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}

#[cfg(not(any(feature = "simt", feature = "cuda")))]
fn compile() -> Result<(), String> {
    Ok(())
}

#[cfg(any(feature = "simt", feature = "cuda"))]
fn compile() -> Result<(), String> {
    println!("cargo::rerun-if-changed=cuda");
    let tree = sources::Tree::scan()?;
    println!("cargo::metadata=include={}", tree.root.display());
    #[cfg(feature = "simt")]
    simt::build(&tree)?;
    #[cfg(feature = "cuda")]
    cuda::build(&tree)?;
    objects::link_cpp_runtime();
    Ok(())
}
