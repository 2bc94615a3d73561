//! The assembler's reports (`ptxas -v`) that build.rs saves, one `.ptxas` file beside each object of the build.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What ptxas said about one object.
pub struct Report {
    pub object: PathBuf,
    /// (mangled name, architecture) -> usage.
    pub kernels: BTreeMap<(String, String), Usage>,
    /// Lines such as "(C7512) Potential Performance Loss: ..."; some name their kernel, some do not.
    pub advisories: Vec<String>,
}

/// One kernel on one architecture; sizes in bytes.
#[derive(Debug, Default, PartialEq)]
pub struct Usage {
    pub registers: u32,
    pub stack: u32,
    pub spill_stores: u32,
    pub spill_loads: u32,
}

impl Usage {
    pub fn uses_local_memory(&self) -> bool {
        self.stack + self.spill_stores + self.spill_loads > 0
    }
}

/// All reports of a folder, sorted by name. It is an error if they name no kernel.
pub fn read(folder: &Path) -> Result<Vec<Report>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "ptxas"));
    paths.sort();
    let mut reports = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let object = path.with_extension("o");
        reports.push(Report { object, kernels: kernels(&text), advisories: advisories(&text) });
    }
    if reports.iter().all(|report| report.kernels.is_empty()) {
        return Err(format!("no kernel in the .ptxas files of {}", folder.display()));
    }
    Ok(reports)
}

fn kernels(text: &str) -> BTreeMap<(String, String), Usage> {
    let mut kernels = BTreeMap::new();
    let mut current: Option<(String, String)> = None;
    for line in text.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            // Compiling entry function 'NAME' for 'sm_80'
            let mut quoted = rest.split('\'');
            let name = quoted.next().unwrap_or_default().to_owned();
            let arch = quoted.nth(1).unwrap_or_default().to_owned();
            kernels.insert((name.clone(), arch.clone()), Usage::default());
            current = Some((name, arch));
        } else if line.contains("Function properties for") {
            // Device functions that were not inlined are listed too; only the entry's own lines are its own.
            let own = current.as_ref().is_some_and(|(name, _)| line.trim_end().ends_with(name.as_str()));
            if !own {
                current = None;
            }
        } else if let Some(usage) = current.as_ref().and_then(|key| kernels.get_mut(key)) {
            if line.contains("bytes stack frame") {
                usage.stack = number_before(line, " bytes stack frame");
                usage.spill_stores = number_before(line, " bytes spill stores");
                usage.spill_loads = number_before(line, " bytes spill loads");
            } else if line.contains("Used ") {
                usage.registers = number_before(line, " registers");
            }
        }
    }
    kernels
}

fn number_before(line: &str, unit: &str) -> u32 {
    let head = line.split(unit).next().unwrap_or_default();
    head.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn advisories(text: &str) -> Vec<String> {
    text.lines().filter(|line| is_advisory(line)).map(str::to_owned).collect()
}

/// The messages of ptxas about wgmma and setmaxnreg have numbers from C7500 to C7599.
fn is_advisory(line: &str) -> bool {
    let digits = line.split_once("(C75").map(|(_, rest)| rest.as_bytes());
    line.starts_with("ptxas") && matches!(digits, Some([b'0'..=b'9', b'0'..=b'9', b')', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z7forwardPf' for 'sm_80'
ptxas info    : Function properties for _Z7forwardPf
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 376 bytes cmem[0]
ptxas info    : Compiling entry function '_Z5mergePf' for 'sm_90a'
ptxas info    : Function properties for _Z5mergePf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers";

    #[test]
    fn reads_registers_stack_and_spills() {
        let kernels = kernels(SAMPLE);
        let forward = &kernels[&("_Z7forwardPf".into(), "sm_80".into())];
        assert_eq!(*forward, Usage { registers: 40, stack: 16, spill_stores: 4, spill_loads: 8 });
        let merge = &kernels[&("_Z5mergePf".into(), "sm_90a".into())];
        assert_eq!(*merge, Usage { registers: 12, ..Usage::default() });
        assert!(forward.uses_local_memory() && !merge.uses_local_memory());
        assert!(advisories(SAMPLE).is_empty());
    }

    // As ptxas 13.0.88 prints them: an accumulator touched between two products, too many registers, and setmaxnreg
    // without launch bounds (which names no kernel).
    const ADVISORIES: &str = "\
ptxas info    : (C7519) warpgroup.arrive is injected in around line 87 by compiler to allow use of registers in GMMA in function '_Z7touchedPfmm'
ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the function '_Z7forwardPf'
ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.
ptxas info    : (C7608) not one of them
ptxas info    : 0 bytes gmem";

    #[test]
    fn finds_every_advisory() {
        let found = advisories(ADVISORIES);
        let expected: Vec<&str> = ADVISORIES.lines().take(3).collect();
        assert_eq!(found, expected);
    }
}
