//! Development tasks. Run them through `cargo xtask TASK`, or through the Makefile, which sets up libclang.

mod bindings;
mod budgets;
mod cuobjdump;
mod hot_loop;
mod ptxas;
mod reports;
mod sass;
mod sass_gate;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK
  bindings [--check]   write the Rust side of the C headers (src/kernels/bindings.rs from cuda/lacuna_kernels.h,
                       capi/src/abi.rs from capi/include), or prove that it is fresh
  ptxas-gate FOLDER    registers per kernel from the .ptxas files in FOLDER; fails on local memory in kernels named
                       *forward*, registers over a budget, and advisories on wgmma or setmaxnreg
  sass-gate FOLDER     machine code of the Hopper forward kernels in FOLDER; fails where the softmax no longer runs
                       under matrix products";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies one folder below the root");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["bindings"] => bindings::run(root, false),
        ["bindings", "--check"] => bindings::run(root, true),
        ["ptxas-gate", folder] => ptxas::run(Path::new(folder)),
        ["sass-gate", folder] => sass_gate::run(root, Path::new(folder)),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
