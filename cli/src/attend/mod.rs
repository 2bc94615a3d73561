//! `lacuna attend`: attention on the tensors of a file. Always runs the kernels, never the reference.

mod check;
mod hyper;
mod input;
mod pattern;

use crate::attention_call::{Answer, Inputs, Work, attend};
use crate::config::{self, ComputeType, Method, MethodKeys};
use crate::failure::{Failure, Result, request};
use crate::files::{Contents, OutputFile, TensorFile};
use crate::terminal;
pub use hyper::Hyper;
use input::Request;
use lacuna::{AttentionShape, Device, ForwardOptions, Half, Mask, Stream, bf16, f16};
pub use pattern::{s2_blocks, s2_config};
use std::path::PathBuf;

/// Compute attention on the tensors of a file.
///
/// Reads q [B,Hq,Nq,D], k and v [B,Hkv,Nk,D] (f16, bf16 or f32) from a safetensors file, and for `blocks` block_mask
/// (u8, [B or 1, 1 or Hkv or Hq, nq, nk]), for `hyper` optionally projections
/// [D,r] and samples (i64, [B,Hkv,m]). Writes out [B,Hq,Nq,D] and lse [B,Hq,Nq] as f32, and block_mask for block
/// methods.
#[derive(clap::Args)]
pub struct Args {
    /// Which keys each query looks at
    #[arg(long)]
    method: Method,
    /// Tensors to read (safetensors)
    #[arg(long, value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write (safetensors); left alone if anything fails
    #[arg(long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Settings of the method (JSON); every key has a default
    #[arg(long, value_name = "CFG.json")]
    config: Option<PathBuf>,
    /// auto, simt or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Compare with the f64 reference and print the errors; exit code 1 if they are too large
    #[arg(long)]
    check: bool,
    /// Gradients (not built yet)
    #[arg(long)]
    grad: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.grad {
        return request!("--grad is not built yet: this build has no backward kernels");
    }
    let keys = config::read(args.method, args.config.as_deref())?;
    let read = [Some(args.input.as_path()), args.config.as_deref()];
    let output = OutputFile::check(&args.output, &read.into_iter().flatten().collect::<Vec<_>>())?;
    let file = TensorFile::open(&args.input)?;
    match keys.options().dtype {
        ComputeType::Bf16 => run_as::<bf16>(args, &keys, &file, &output),
        ComputeType::F16 => run_as::<f16>(args, &keys, &file, &output),
    }
}

fn run_as<T: Half + Into<f64>>(args: &Args, keys: &MethodKeys, file: &TensorFile, output: &OutputFile) -> Result<()> {
    let request = Request::<T>::read(file, keys)?;
    let options = forward_options(keys);
    options.validate(&request.shape)?;
    // The request must be right before a device is looked for: which error comes first should not depend on the machine.
    if let MethodKeys::Hyper(keys) = keys {
        let hyper = Hyper::read(file, keys, &request.shape, &options.mask)?;
        return run_hyper(args, &hyper, &request, &options, output);
    }
    let pattern = pattern::Pattern::new(keys, &request, &options.mask)?;
    let stream = Device::parse(&args.device)?.new_stream()?;
    let plan = pattern.plan(&stream, &request.shape)?;
    let inputs = Inputs { q: &request.q, k: &request.k, v: &request.v };
    let answer = attend(&stream, &request.shape, &options, &plan, inputs)?;
    if args.check {
        say(&check::check(&request, &options, &pattern, &answer)?)?;
    }
    output.write(&contents(args.method, &stream, &request, &options, &answer))
}

fn run_hyper<T: Half + Into<f64>>(
    args: &Args,
    hyper: &Hyper,
    request: &Request<T>,
    options: &ForwardOptions<'_>,
    output: &OutputFile,
) -> Result<()> {
    let stream = Device::parse(&args.device)?.new_stream()?;
    let shape = &request.shape;
    let inputs = Inputs { q: &request.q, k: &request.k, v: &request.v };
    let answer = hyper.attend(&stream, shape, options, inputs)?;
    if args.check {
        say(&hyper.check(shape, options, inputs, &answer)?)?;
    }
    let mut contents = common_contents(args.method, &stream, shape, &answer.out, &answer.lse, &answer.work);
    let (pairs, density) = answer.visited(shape, &options.mask);
    contents.note("visited_pairs", pairs);
    contents.note("density", density);
    output.write(&contents)
}

/// Prints what a check found, and fails if it is wrong.
fn say(report: &check::Report) -> Result<()> {
    terminal::print(&report.text);
    if report.passed {
        return Ok(());
    }
    Err(Failure::Failed("check: the output is not what the reference says; nothing was written".into()))
}

/// What the common keys ask of the kernels.
pub fn forward_options(keys: &MethodKeys) -> ForwardOptions<'static> {
    let common = keys.options();
    ForwardOptions {
        mask: if common.causal { Mask::CAUSAL } else { Mask::FULL },
        scale: common.scale,
        ..ForwardOptions::default()
    }
}

fn contents<T: Half>(
    method: Method,
    stream: &Stream,
    request: &Request<T>,
    options: &ForwardOptions<'_>,
    answer: &Answer,
) -> Contents {
    let shape = &request.shape;
    let mut contents = common_contents(method, stream, shape, &answer.out, &answer.lse, &answer.work);
    if method.has_blocks() {
        let blocks = &answer.blocks;
        // A pattern that all sequences share is written once for each of them.
        let copies = if blocks.batch == shape.batch { 1 } else { shape.batch };
        let dims = [shape.batch, blocks.heads, blocks.q_blocks, blocks.kv_blocks];
        contents.add_u8("block_mask", &dims, blocks.data.repeat(copies));
    }
    contents.note("visited_pairs", answer.blocks.visited_pairs(shape, &options.mask));
    contents.note("density", answer.blocks.density(shape, &options.mask));
    contents
}

/// What every method writes.
fn common_contents(
    method: Method,
    stream: &Stream,
    shape: &AttentionShape,
    out: &[f32],
    lse: &[f32],
    work: &Work,
) -> Contents {
    let mut contents = Contents::default();
    contents.add_f32("out", &[shape.batch, shape.q_heads, shape.q_len, shape.head_dim], out);
    contents.add_f32("lse", &[shape.batch, shape.q_heads, shape.q_len], lse);
    contents.note("lacuna", env!("CARGO_PKG_VERSION"));
    contents.note("method", method.name());
    contents.note("dtype", shape.dtype);
    contents.note("device", stream.device().name());
    contents.note("device_choice", stream.device().choice());
    contents.note("kernels", work.kernels.join(","));
    if let Some(counters) = &work.counters {
        contents.note("launches", counters.launches);
        contents.note("mma_macs", counters.mma_macs);
        contents.note("copy_bytes", counters.copy_bytes);
    }
    contents
}
