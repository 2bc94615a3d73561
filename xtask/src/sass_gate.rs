//! `cargo xtask sass-gate FOLDER`: what can be said of the Hopper forward kernels without a GPU, from their machine
//! code.

use std::path::Path;

use crate::cuobjdump;
use crate::hot_loop::HotLoop;
use crate::reports::{self, Report};
use crate::sass::{self, Instruction};

const ARCH: &str = "sm_90a";

/// A kernel is concerned if its mangled name contains all of these.
const CONCERNED: &[&str] = &["sm90", "forward"];

/// A kernel with this in its name fetches rows by cp.async and need not use TMA.
const GATHERS: &str = "gather";

/// The least share, in percent, of the hot loop's exponentials under a product in flight. Where the wait stays behind
/// the softmax ptxas 13.0.88 leaves all of them there, where it moves up it leaves none; the bound lies between, so
/// that a scheduler which lets a few instructions sink below the wait passes, and one that halves the overlap does not.
const LEAST_OVERLAP: usize = 60;

/// What is measured of one kernel.
struct Measured {
    products: usize,
    tma_loads: usize,
    local_memory: usize,
    hot_loop: Option<HotLoop>,
}

/// Prints a table of the kernels concerned; fails if one lacks what makes it fast.
pub fn run(root: &Path, folder: &Path) -> Result<(), String> {
    let reports = reports::read(folder)?;
    let objects: Vec<(&Report, Vec<(&str, u32)>)> =
        reports.iter().map(|report| (report, concerned(report))).filter(|(_, kernels)| !kernels.is_empty()).collect();
    if objects.is_empty() {
        return nothing_concerned(&reports);
    }
    let tool = cuobjdump::find(root)?;
    println!("least share of exponentials under products: {LEAST_OVERLAP} %");
    println!("registers  HGMMA  UTMALDG  MUFU.EX2 in the hot loop  under products  kernel");
    let mut bad = 0;
    for (report, kernels) in objects {
        let functions = sass::functions(&cuobjdump::sass(&tool, ARCH, &report.object)?);
        for (name, registers) in kernels {
            let code = functions
                .get(name)
                .ok_or_else(|| format!("{} holds no {ARCH} code of {name}", report.object.display()))?;
            let measured = Measured::of(code);
            let faults = measured.faults(name);
            bad += u32::from(!faults.is_empty());
            let verdict = if faults.is_empty() { "ok".into() } else { format!("REFUSED: {}", faults.join("; ")) };
            println!("{registers:9}  {}  {name}  <- {verdict}", measured.columns());
        }
    }
    if bad > 0 { Err(format!("sass-gate: {bad} Hopper forward kernels refused")) } else { Ok(()) }
}

/// (mangled name, registers) of the report's kernels that are concerned.
fn concerned(report: &Report) -> Vec<(&str, u32)> {
    let kernels = report.kernels.iter();
    let concerned =
        kernels.filter(|((name, arch), _)| arch == ARCH && CONCERNED.iter().all(|part| name.contains(part)));
    concerned.map(|((name, _), usage)| (name.as_str(), usage.registers)).collect()
}

/// Fine in a build without Hopper kernels, but a gate that looks for the wrong name must not pass for one that looked.
fn nothing_concerned(reports: &[Report]) -> Result<(), String> {
    let hopper = |report: &&Report| {
        let object = report.object.file_name().unwrap_or_default().to_string_lossy();
        object.starts_with("sm90_forward") // build.rs names objects by their path below cuda/
    };
    match reports.iter().find(hopper) {
        Some(report) => Err(format!("no kernel of {} has all of {CONCERNED:?} in its name", report.object.display())),
        None => {
            println!("no object of cuda/sm90/forward in this build");
            Ok(())
        }
    }
}

impl Measured {
    fn of(code: &[Instruction]) -> Measured {
        let count = |opcode| code.iter().filter(|instruction| instruction.is(opcode)).count();
        Measured {
            products: count("HGMMA"),
            tma_loads: count("UTMALDG"),
            local_memory: count("LDL") + count("STL"),
            hot_loop: HotLoop::find(code),
        }
    }

    fn columns(&self) -> String {
        let (exponentials, share) = match &self.hot_loop {
            Some(hot) => (hot.exponentials.to_string(), format!("{} %", hot.overlapped * 100 / hot.exponentials)),
            None => ("none".into(), "-".into()),
        };
        format!("{:5}  {:7}  {exponentials:>24}  {share:>14}", self.products, self.tma_loads)
    }

    fn faults(&self, kernel: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if self.products == 0 {
            faults.push("no HGMMA".into());
        }
        if self.tma_loads == 0 && !kernel.contains(GATHERS) {
            faults.push("no UTMALDG, and its name does not say that it gathers".into());
        }
        if self.local_memory > 0 {
            faults.push(format!("{} accesses of local memory (LDL, STL)", self.local_memory));
        }
        match &self.hot_loop {
            None => faults.push("no loop with two groups of products and exponentials".into()),
            Some(hot) if hot.overlapped * 100 < hot.exponentials * LEAST_OVERLAP => {
                faults.push(format!("{} of {} exponentials run under products", hot.overlapped, hot.exponentials))
            }
            Some(_) => {}
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const OVERLAPPED: &str = include_str!("../fixtures/overlapped.sass");

    fn faults(kernel: &str, listing: &str) -> Vec<String> {
        let functions = sass::functions(listing);
        Measured::of(functions.values().next().expect("the listing has a function")).faults(kernel)
    }

    /// The listing without the lines that have `opcode`.
    fn without(opcode: &str) -> String {
        OVERLAPPED.lines().filter(|line| !line.contains(opcode)).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn the_hoisted_wait_is_refused() {
        assert_eq!(faults("sm90_forward", OVERLAPPED), [""; 0]);
        let hoisted = include_str!("../fixtures/hoisted.sass");
        assert_eq!(faults("sm90_forward", hoisted), ["0 of 66 exponentials run under products"]);
    }

    #[test]
    fn products_tma_and_registers_are_required() {
        assert_eq!(faults("sm90_forward", &without("HGMMA"))[0], "no HGMMA");
        assert!(faults("sm90_forward", &without("UTMALDG"))[0].starts_with("no UTMALDG"));
        assert_eq!(faults("sm90_forward_gather", &without("UTMALDG")), [""; 0]);
        let spilled = OVERLAPPED.replace("EXIT ;", "STL [R1], R4 ;");
        assert!(faults("sm90_forward", &spilled)[0].ends_with("accesses of local memory (LDL, STL)"));
    }

    fn report(object: &str, kernel: &str, arch: &str) -> Report {
        let usage = reports::Usage { registers: 168, ..Default::default() };
        Report {
            object: PathBuf::from(object),
            kernels: [((kernel.into(), arch.into()), usage)].into(),
            advisories: vec![],
        }
    }

    #[test]
    fn a_hopper_object_without_a_known_kernel_is_an_error() {
        let named = report("sm90_forward_d128_cu-0.o", "_ZN4sm9014forward_kernelE", ARCH);
        assert_eq!(concerned(&named), [("_ZN4sm9014forward_kernelE", 168)]);
        let other = report("sm90_forward_d128_cu-0.o", "_ZN4sm9014attend_kernelE", ARCH);
        assert!(concerned(&other).is_empty() && nothing_concerned(&[other]).is_err());
        let portable = report("sm80_forward_d128_cu-0.o", "_ZN4sm8014forward_kernelE", ARCH);
        assert!(concerned(&portable).is_empty() && nothing_concerned(&[portable]).is_ok());
    }
}
