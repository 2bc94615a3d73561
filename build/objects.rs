//! Compiles objects in parallel, through a cache keyed by content: an object is built once for the same source,
//! headers, flags and compiler, whatever cargo profile or feature set asks for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};

use crate::sources::{Hash, Tree};

/// A compiler with its flags; `source` and output are added at the end of the command.
pub struct Compiler {
    /// Prefix of object names: "simt" or "cuda".
    pub machine: &'static str,
    pub program: PathBuf,
    /// First lines of `program --version`: a new compiler invalidates its objects.
    pub version: String,
    /// Hash of the headers that sources may include.
    pub headers: Hash,
    /// Processes at a time.
    pub jobs: usize,
}

/// One translation unit.
pub struct Unit {
    pub source: PathBuf,
    pub flags: Vec<String>,
}

/// What a compiler left: the object, and all that it printed.
pub struct Object {
    pub path: PathBuf,
    pub output: String,
}

/// The folder of the object cache.
pub fn build_dir() -> PathBuf {
    match env::var_os("LACUNA_BUILD_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => out_dir().join("kernels"),
    }
}

pub fn out_dir() -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
}

/// Parallelism that cargo grants this script.
pub fn cargo_jobs() -> usize {
    env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Compiles all units; objects come back in the order of `units`. The first failure is the error.
pub fn compile(compiler: &Compiler, tree: &Tree, units: &[Unit]) -> Result<Vec<Object>, String> {
    let folder = build_dir().join(compiler.machine);
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let next = Mutex::new(0);
    let results: Vec<Mutex<Option<Result<Object, String>>>> = units.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..compiler.jobs.clamp(1, units.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    let Some(unit) = units.get(index) else { return };
                    let result = compile_one(compiler, tree, unit, &folder);
                    if result.is_err() {
                        *next.lock().unwrap() = units.len(); // the others finish what they have begun
                    }
                    *results[index].lock().unwrap() = Some(result);
                }
            });
        }
    });
    let results: Vec<_> = results.into_iter().filter_map(|result| result.into_inner().unwrap()).collect();
    let objects: Vec<Object> = results.into_iter().collect::<Result<_, _>>()?;
    remove_stale(&folder, &objects);
    Ok(objects)
}

fn compile_one(compiler: &Compiler, tree: &Tree, unit: &Unit, folder: &Path) -> Result<Object, String> {
    let name = tree.name(&unit.source).to_string_lossy().replace(['/', '\\', '.'], "_");
    let mut hash = compiler.headers.clone();
    hash.text(&compiler.version);
    hash.file(&unit.source)?;
    // Where the tree lies is no part of what is compiled.
    let root = tree.root.to_string_lossy();
    unit.flags.iter().for_each(|flag| hash.text(&flag.replace(&*root, "cuda")));
    let path = folder.join(format!("{name}-{}.o", hash.hex()));
    let log = path.with_extension("log");
    // The log is written last: an object with a log is whole.
    if path.is_file()
        && let Ok(output) = fs::read_to_string(&log)
    {
        return Ok(Object { path, output });
    }

    // Builds that share the cache may compile the same unit at once: each writes its own file, then renames it.
    let partial = path.with_extension(format!("{}.o", std::process::id()));
    let mut command = Command::new(&compiler.program);
    command.args(&unit.flags).arg("-c").arg(&unit.source).arg("-o").arg(&partial);
    let done = command.output().map_err(|e| format!("cannot run {}: {e}", compiler.program.display()))?;
    let output = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if !done.status.success() {
        let _ = fs::remove_file(&partial);
        return Err(format!("{} does not compile ({}):\n{command:?}\n{output}", unit.source.display(), done.status));
    }
    fs::rename(&partial, &path).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    fs::write(&log, &output).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
    Ok(Object { path, output })
}

/// Bounds the size of a private cache; a shared one (LACUNA_BUILD_DIR) serves several builds and is left alone.
fn remove_stale(folder: &Path, current: &[Object]) {
    if !folder.starts_with(out_dir()) {
        return;
    }
    for file in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let object = file.with_extension("o");
        if !current.iter().any(|c| c.path == object) {
            let _ = fs::remove_file(file);
        }
    }
}

/// Puts the objects into one static library in OUT_DIR and tells cargo to link it.
pub fn archive(objects: &[Object], library: &str) -> Result<(), String> {
    // cc appends to an archive that is there, and keeps members that are gone from the sources.
    let _ = fs::remove_file(out_dir().join(format!("lib{library}.a")));
    if objects.is_empty() {
        return Ok(());
    }
    cc::Build::new()
        .cargo_metadata(false)
        .objects(objects.iter().map(|object| &object.path))
        .try_compile(library)
        .map_err(|e| format!("cannot archive the objects of {library}: {e}"))?;
    println!("cargo::rustc-link-search=native={}", out_dir().display());
    println!("cargo::rustc-link-lib=static={library}");
    Ok(())
}

/// The C++ runtime, once for both machines. With CXXSTDLIB_STATIC the binary runs where no libstdc++ is installed.
pub fn link_cpp_runtime() {
    println!("cargo::rustc-link-lib=pthread");
    if env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple") {
        println!("cargo::rustc-link-lib=c++");
        return;
    }
    if env::var_os("CXXSTDLIB_STATIC").is_none_or(|value| value.is_empty()) {
        println!("cargo::rustc-link-lib=stdc++");
        return;
    }
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
    let found = Command::new(compiler).arg("-print-file-name=libstdc++.a").output();
    let file = found.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())).unwrap_or_default();
    if let Some(folder) = file.parent() {
        println!("cargo::rustc-link-search=native={}", folder.display());
    }
    println!("cargo::rustc-link-lib=static:-bundle=stdc++");
}
