//! `cargo xtask ptxas-gate FOLDER`: what the assembler said about every kernel.

use std::collections::BTreeMap;
use std::path::Path;

use crate::budgets::budget;
use crate::reports::{self, Report, Usage};

/// Kernels whose mangled name contains one of these must keep everything in registers.
const HOT: &[&str] = &["forward", "grad_kernel", "decode", "block_max", "gate_"];

/// Prints a table of all kernels; fails on advisories, on local memory in a hot kernel and on registers over a budget.
pub fn run(folder: &Path) -> Result<(), String> {
    let reports = reports::read(folder)?;
    let kernels: BTreeMap<_, _> = reports.iter().flat_map(|report| &report.kernels).collect();
    let mut refused = 0;
    println!("registers  stack  spills  kernel (architecture)");
    for ((name, arch), usage) in &kernels {
        let fault = fault(name, usage);
        refused += u32::from(fault.is_some());
        let mark = fault.map(|fault| format!("  <- {fault}")).unwrap_or_default();
        let spills = usage.spill_stores + usage.spill_loads;
        println!("{:9}  {:5}  {:6}  {name} ({arch}){mark}", usage.registers, usage.stack, spills);
    }
    let advisories = advisories(&reports);
    advisories.iter().for_each(|advisory| println!("{advisory}"));
    println!("{} kernels, {refused} refused, {} advisories", kernels.len(), advisories.len());
    if refused > 0 || !advisories.is_empty() {
        return Err(format!(
            "ptxas-gate: {refused} kernels use local memory or too many registers, {} advisories of ptxas on wgmma or \
             setmaxnreg",
            advisories.len()
        ));
    }
    Ok(())
}

fn fault(kernel: &str, usage: &Usage) -> Option<String> {
    if HOT.iter().any(|part| kernel.contains(part)) && usage.uses_local_memory() {
        return Some("local memory in a hot kernel".into());
    }
    let budget = budget(kernel)?;
    let over = usage.registers > budget.registers;
    over.then(|| format!("over its budget of {} registers: {}", budget.registers, budget.reason))
}

/// Every advisory with the object it was said of.
fn advisories(reports: &[Report]) -> Vec<String> {
    let of = |report: &Report| {
        let object = report.object.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        report.advisories.iter().map(|line| format!("{object}: {line}")).collect::<Vec<_>>()
    };
    reports.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_memory_is_refused_in_hot_kernels_only() {
        let spills = Usage { registers: 40, spill_loads: 4, ..Usage::default() };
        assert!(fault("_Z7forwardPf", &spills).is_some());
        assert!(fault("_Z5mergePf", &spills).is_none());
    }

    #[test]
    fn a_budget_is_the_most_that_passes() {
        let kernel = "_ZN4sm9014forward_kernelE";
        assert!(fault(kernel, &Usage { registers: 168, ..Usage::default() }).is_none());
        assert!(fault(kernel, &Usage { registers: 169, ..Usage::default() }).is_some());
    }
}
