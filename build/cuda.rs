//! The GPU kernels: one nvcc run per `.cu` file, no relocatable device code (it would block inlining across files and
//! change register counts), into a fat `liblacuna_cuda.a` with the CUDA runtime linked statically.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::architectures::Architectures;
use crate::objects::{self, Compiler, Object, Unit};
use crate::sources::Tree;
use crate::toolkit::{self, Toolkit};

const LIBRARY: &str = "lacuna_cuda";

pub fn build(tree: &Tree) -> Result<(), String> {
    if let Some(folder) = env::var_os("LACUNA_LIB_DIR").filter(|folder| !folder.is_empty()) {
        return link_prebuilt(&PathBuf::from(folder));
    }
    let architectures = Architectures::from_environment()?;
    let toolkit = Toolkit::find()?;
    let cudart = toolkit.cudart_folder()?;
    let compiler = Compiler {
        machine: "cuda",
        program: toolkit.nvcc.clone(),
        version: toolkit.version.clone() + &inherited_settings(),
        // nvcc never sees the SIMT host's own headers.
        headers: tree.hash_headers(|name| !name.starts_with("simt"))?,
        jobs: jobs()?,
    };
    let units: Vec<Unit> = tree.kernels.iter().filter_map(|source| unit(tree, source, &architectures)).collect();
    let objects = objects::compile(&compiler, tree, &units)?;
    save_reports(&objects)?;
    objects::archive(&objects, LIBRARY)?;
    link_runtime(&cudart);
    Ok(())
}

/// The compilation of one file, or nothing if no architecture of this build wants it: `cuda/sm90/` needs 90a.
fn unit(tree: &Tree, source: &Path, architectures: &Architectures) -> Option<Unit> {
    let hopper_only = tree.name(source).starts_with("sm90");
    let gencode = architectures.gencode(|name| !hopper_only || name == "90a");
    if gencode.is_empty() {
        return None;
    }
    let mut flags: Vec<String> = [
        "-std=c++17",
        "-O3",
        "-lineinfo",            // profilers show source lines; costs nothing at run time
        "--compress-mode=size", // a ninth of the size; drivers before 12.4 can't unpack it
        "-DLACUNA_SIMT=0",
        "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wno-unknown-pragmas",
        "-Xptxas=-v", // the report is saved for the register gate, not shown
    ]
    .map(String::from)
    .into();
    flags.push(format!("-DLACUNA_BUILT_ARCHS=\"{}\"", architectures.describe()));
    flags.push(format!("-DLACUNA_BUILT_SM90A={}", u8::from(architectures.has_hopper())));
    flags.push(format!("-I{}", tree.root.display()));
    flags.extend(gencode);
    Some(Unit { source: source.to_owned(), flags })
}

/// What nvcc reads by itself from the environment; part of the cache key.
fn inherited_settings() -> String {
    let names = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];
    names.map(|name| format!("{name}={}\n", env::var(name).unwrap_or_default())).concat()
}

fn jobs() -> Result<usize, String> {
    match env::var("LACUNA_NVCC_JOBS") {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(jobs) if jobs > 0 => Ok(jobs),
            _ => Err(format!("LACUNA_NVCC_JOBS is `{text}`; expected a number of processes, at least 1")),
        },
        _ => Ok(objects::cargo_jobs()),
    }
}

/// Keeps what the machine-code gates read in `<cache>/ptxas`, where only this build's files lie: a copy of each object,
/// and beside it the assembler's report (`.ptxas`). All else that nvcc printed is a warning to show.
fn save_reports(objects: &[Object]) -> Result<(), String> {
    let folder = objects::build_dir().join("ptxas");
    let fail = |e: std::io::Error| format!("cannot write the assembler reports to {}: {e}", folder.display());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(fail)?;
    for object in objects {
        let mut report = String::new();
        let mut reported = false;
        for line in object.output.lines().filter(|line| !line.trim().is_empty()) {
            // An indented line goes on with what the line before says.
            reported = line.starts_with("ptxas ") || (reported && line.starts_with("    "));
            if reported {
                report += line;
                report += "\n";
            }
            // The report also holds advisories, such as (C7512): the code is right, but slow.
            if !reported || line.starts_with("ptxas warning") || line.contains(": (C") {
                println!("cargo::warning={line}");
            }
        }
        let copy = folder.join(object.path.file_name().unwrap_or_default());
        fs::copy(&object.path, &copy).map_err(fail)?;
        fs::write(copy.with_extension("ptxas"), report).map_err(fail)?;
    }
    Ok(())
}

/// `liblacuna_cuda.a` with the CUDA runtime beside it or in a toolkit, or `liblacuna_cuda.so`, which brings its own.
fn link_prebuilt(folder: &Path) -> Result<(), String> {
    let has = |extension: &str| folder.join(format!("lib{LIBRARY}.{extension}")).is_file();
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rustc-link-search=native={}", folder.display());
    // What an earlier build without the variable left where the SIMT host's archive is looked for.
    let _ = fs::remove_file(objects::out_dir().join(format!("lib{LIBRARY}.a")));
    if !has("a") {
        if !has("so") {
            return Err(format!(
                "LACUNA_LIB_DIR is {}, but neither lib{LIBRARY}.a nor lib{LIBRARY}.so is there",
                folder.display()
            ));
        }
        println!("cargo::rustc-link-lib=dylib={LIBRARY}");
        return Ok(());
    }
    println!("cargo::rustc-link-lib=static={LIBRARY}");
    let cudart = if toolkit::has_cudart(folder) {
        folder.to_owned()
    } else {
        let toolkit = Toolkit::find();
        toolkit.and_then(|toolkit| toolkit.cudart_folder()).map_err(|reason| {
            format!(
                "LACUNA_LIB_DIR is {}, without libcudart_static.a, and no toolkit has it: {reason}",
                folder.display()
            )
        })?
    };
    link_runtime(&cudart);
    Ok(())
}

fn link_runtime(cudart: &Path) {
    println!("cargo::rustc-link-search=native={}", cudart.display());
    println!("cargo::rustc-link-lib=static=cudart_static");
    for library in ["dl", "rt"] {
        println!("cargo::rustc-link-lib={library}");
    }
}
