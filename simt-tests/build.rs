//! Compiles `kernels/` as the library's SIMT build compiles its own, against the same headers.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=LACUNA_SKIP_KERNELS");
    // The library's build script says how; it does not when kernels are skipped, and then nothing links anyway.
    let (Some(include), Some(flags)) =
        (env::var_os("DEP_LACUNA_KERNELS_INCLUDE"), env::var_os("DEP_LACUNA_KERNELS_SIMT_FLAGS"))
    else {
        return;
    };
    for folder in ["abi", "common", "ptx", "simt", "lacuna_kernels.h"] {
        println!("cargo::rerun-if-changed={}", PathBuf::from(&include).join(folder).display());
    }
    let mut sources: Vec<PathBuf> = fs::read_dir("kernels")
        .expect("the folder of this package")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cpp"))
        .collect();
    sources.sort();
    let mut build = cc::Build::new();
    build.cpp(true).no_default_flags(true).include("kernels").files(&sources);
    for flag in flags.to_str().expect("flags are text").split(' ') {
        build.flag(flag);
    }
    build.flag("-xc++").compile("lacuna_simt_tests");
}
