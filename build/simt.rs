//! The SIMT host: every `.cu` file as C++, plus `cuda/simt/*.cpp`, into `liblacuna_simt.a`.

use std::env;
use std::process::Command;

use crate::objects::{self, Compiler, Unit};
use crate::sources::Tree;

/// Flags every unit of the SIMT host is compiled with, beside the include folder.
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-DLACUNA_SIMT=1",
    "-O3", // in every cargo profile: nobody who debugs Rust code wants slow kernels
    "-g1", // line tables, so that a debugger and a fault report can name the kernel's line
    "-pthread",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",          // nothing may unwind through a fiber switch
    "-ffp-contract=off",        // the same bits on every host
    "-fstack-clash-protection", // a frame larger than the stack guard faults in the guard, not behind it
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
];

pub fn build(tree: &Tree) -> Result<(), String> {
    let flags = flags(tree);
    let tool = cc::Build::new()
        .cpp(true)
        .no_default_flags(true)
        .cargo_metadata(false)
        .try_get_compiler()
        .map_err(|e| format!("feature `simt` needs a C++17 compiler (g++ or clang++; set CXX): {e}"))?;
    // What cc was told from outside: CXXFLAGS, a wrapper such as `ccache c++`, a cross target.
    let outer = tool.to_command();
    let arguments: Vec<String> = outer.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let version = Command::new(outer.get_program()).args(&arguments).arg("--version").output();
    let version = version.map_err(|_| {
        format!(
            "feature `simt` needs a C++17 compiler, and `{}` does not run. Install g++ or clang++ (Debian, Ubuntu: \
             apt-get install g++), or set CXX, or switch the feature off with `default-features = false`.",
            outer.get_program().to_string_lossy()
        )
    })?;
    let compiler = Compiler {
        machine: "simt",
        program: outer.get_program().into(),
        version: String::from_utf8_lossy(&version.stdout).into_owned(),
        headers: tree.hash_headers(|_| true)?,
        jobs: objects::cargo_jobs(),
    };
    let unit = |source: &std::path::PathBuf| Unit {
        source: source.clone(),
        flags: arguments.iter().chain(&flags).cloned().chain(["-x".into(), "c++".into()]).collect(),
    };
    let units: Vec<Unit> = tree.kernels.iter().chain(&tree.simt_host).map(unit).collect();
    let objects = objects::compile(&compiler, tree, &units)?;
    for line in objects.iter().flat_map(|object| object.output.lines()) {
        println!("cargo::warning={line}");
    }
    objects::archive(&objects, "lacuna_simt")?;
    // For tests that compile kernels of their own (DEP_LACUNA_KERNELS_SIMT_FLAGS; separated by spaces).
    println!("cargo::metadata=simt_flags={}", flags.join(" "));
    Ok(())
}

fn flags(tree: &Tree) -> Vec<String> {
    let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.into()).collect();
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        flags.push("-fcf-protection=none".into()); // the fiber switch breaks shadow stacks
    }
    flags.push(format!("-I{}", tree.root.display()));
    // Objects say `cuda/...`, wherever the checkout lies: they can be shared through the cache.
    flags.push(format!("-ffile-prefix-map={}=cuda", tree.root.display()));
    flags
}
