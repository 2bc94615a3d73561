//! `cargo xtask ptxas-gate FOLDER`: what the assembler said about every kernel (saved by build.rs as .ptxas files).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Kernels whose mangled name contains this must keep everything in registers.
const HOT: &str = "forward";

/// One kernel on one architecture; sizes in bytes.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    registers: u32,
    stack: u32,
    spill_stores: u32,
    spill_loads: u32,
}

impl Usage {
    fn uses_local_memory(&self) -> bool {
        self.stack + self.spill_stores + self.spill_loads > 0
    }
}

/// Prints a table of all kernels and fails if a hot one spills or has a stack.
pub fn run(folder: &Path) -> Result<(), String> {
    let mut kernels = BTreeMap::new();
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "ptxas") {
            let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            kernels.extend(parse(&text));
        }
    }
    if kernels.is_empty() {
        return Err(format!("no kernel in the .ptxas files of {}", folder.display()));
    }
    let mut bad = 0;
    println!("registers  stack  spills  kernel (architecture)");
    for ((name, arch), usage) in &kernels {
        let refused = name.contains(HOT) && usage.uses_local_memory();
        bad += u32::from(refused);
        let spills = usage.spill_stores + usage.spill_loads;
        let mark = if refused { "  <- local memory in a hot kernel" } else { "" };
        println!("{:9}  {:5}  {:6}  {name} ({arch}){mark}", usage.registers, usage.stack, spills);
    }
    println!("{} kernels, {bad} refused", kernels.len());
    if bad > 0 { Err(format!("{bad} hot kernels use local memory")) } else { Ok(()) }
}

/// (mangled name, architecture) -> usage, from the text of `ptxas -v`.
fn parse(text: &str) -> BTreeMap<(String, String), Usage> {
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
        let kernels = parse(SAMPLE);
        let forward = &kernels[&("_Z7forwardPf".into(), "sm_80".into())];
        assert_eq!(*forward, Usage { registers: 40, stack: 16, spill_stores: 4, spill_loads: 8 });
        let merge = &kernels[&("_Z5mergePf".into(), "sm_90a".into())];
        assert_eq!(*merge, Usage { registers: 12, ..Usage::default() });
        assert!(forward.uses_local_memory() && !merge.uses_local_memory());
    }
}
