//! `lacuna info`: what was built, what the machine has, and what `auto` makes of it.

use crate::failure::Result;
use crate::terminal;
use lacuna::{AttentionShape, BlockPlan, DType, Device, ForwardOptions, KernelFamily, attention};
use std::fmt::Write;

/// Print what was built and what the machine has.
#[derive(clap::Args)]
pub struct Args {}

/// Head dims that are asked for; the kernels say which they serve.
const HEAD_DIMS: [usize; 8] = [16, 32, 64, 80, 96, 128, 192, 256];

/// Runs the command.
pub fn run(_: &Args) -> Result<()> {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<14}{value}").expect("writing to a string");
    };
    line("lacuna", format!("{} ({} {})", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH));
    let features = [("simt", cfg!(feature = "simt")), ("cuda", cfg!(feature = "cuda"))];
    line("built with", features.map(|(name, on)| format!("{name} {}", if on { "yes" } else { "no" })).join(", "));
    let threads = std::thread::available_parallelism().map_or("an unknown number of".to_owned(), |n| n.to_string());
    line("CPU", format!("{threads} threads"));
    let mut devices = Vec::new();
    match Device::simt() {
        Ok(device) => devices.push(device),
        Err(error) => line("simt", error.to_string()),
    }
    for ordinal in 0.. {
        match Device::cuda(ordinal) {
            Ok(device) => devices.push(device),
            Err(error) => {
                // Past the last device the error only says that there is no such device.
                if ordinal == 0 {
                    line("cuda", error.to_string());
                }
                break;
            }
        }
    }
    for device in &devices {
        line("device", format!("{}, kernels for {}", device.name(), device.architectures()));
        for kernel in kernels(device) {
            line("", kernel);
        }
    }
    match Device::auto() {
        Ok(device) => line("auto", format!("{}: {}", device.name(), device.choice())),
        Err(error) => line("auto", error.to_string()),
    }
    terminal::print(&text);
    Ok(())
}

/// One line for each forward kernel of each family: name, tile, threads, shared memory.
fn kernels(device: &Device) -> Vec<String> {
    let mut lines = Vec::new();
    for (head_dim, dtype) in HEAD_DIMS.iter().flat_map(|&d| [DType::BF16, DType::F16].map(|t| (d, t))) {
        let shape = AttentionShape { batch: 1, q_heads: 1, kv_heads: 1, q_len: 1024, kv_len: 1024, head_dim, dtype };
        for family in [KernelFamily::Portable, KernelFamily::Hopper] {
            let options = ForwardOptions { family, ..ForwardOptions::causal() };
            let Ok(k) = attention::kernel(device, &shape, &options, &BlockPlan::dense()) else { continue };
            lines.push(format!(
                "{:<34} {:<8} head_dim {head_dim:>3}, {:>4}, tile {} x {}, {} threads, {:.0} KB shared",
                k.name,
                k.family.to_string(),
                dtype.to_string(),
                k.tile_q,
                k.tile_k,
                k.threads,
                k.smem_bytes as f64 / 1024.0
            ));
        }
    }
    lines
}
