//! `lacuna attend`: attention on the tensors of a file. Always runs the kernels, never the reference.

mod check;
mod gate;
mod grad;
mod hyper;
mod input;
mod pattern;

use crate::attention_call::{Answer, Work, attend};
use crate::config::{self, ComputeType, HyperKeys, Method, MethodKeys, Options};
use crate::failure::{Failure, Result};
use crate::files::{Contents, OutputFile, TensorFile};
use crate::{gates, terminal};
pub use check::Report;
pub use gate::check_gate_dim;
use grad::Upstream;
pub use hyper::Hyper;
pub use input::Qkv;
use input::{Planner, Request};
use lacuna::{AttentionShape, BlockPlan, Counters, Device, ForwardOptions, Half, Mask, Stream, bf16, f16};
pub use pattern::{Pattern, s2_blocks, s2_config};
use std::path::PathBuf;

/// Compute attention on the tensors of a file.
///
/// Reads q [B,Hq,Nq,D], k and v [B,Hkv,Nk,D] (f16, bf16 or f32) from a safetensors file; for `blocks` block_mask (u8,
/// [B or 1, 1 or Hkv or Hq, nq, nk]); for `seer` gate_q and gate_k, as q and k but before RoPE, w_k and maybe w_q; for
/// `hyper` maybe projections [D,r] and samples (i64, [B,Hkv,m]). Writes out [B,Hq,Nq,D] and lse [B,Hq,Nq] as f32, and
/// block_mask for block methods.
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
    /// Read dout [B,Hq,Nq,D] and maybe dlse [B,Hq,Nq] too, and write the gradients dq, dk and dv as f32
    #[arg(long)]
    grad: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
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
    // The request must be right before a device is looked for: which error comes first should not depend on the
    // machine.
    if let MethodKeys::Hyper(keys) = keys {
        return run_hyper::<T>(args, keys, file, output);
    }
    let request = Request::<T>::read(file, keys)?;
    let shape = &request.qkv.shape;
    let options = method_options(keys.options());
    options.validate(shape)?;
    let upstream = args.grad.then(|| Upstream::<T>::read(file, shape)).transpose()?;
    let stream = Device::parse(&args.device)?.new_stream()?;
    let (plan, planning) = Planning::run(&stream, &request)?;
    let answer = attend(&stream, shape, &options, &plan, request.qkv.inputs())?;
    let gradients = upstream
        .as_ref()
        .map(|upstream| upstream.gradients(&stream, shape, &options, &plan, request.qkv.inputs(), &answer))
        .transpose()?;
    if args.check {
        say(&check::check(&request, &options, &answer, upstream.as_ref().zip(gradients.as_ref()))?)?;
    }
    let mut contents = contents(args.method, &stream, &request, &options, &planning, &answer);
    if let Some(gradients) = &gradients {
        gradients.add_to(&mut contents, shape);
    }
    output.write(&contents)
}

fn run_hyper<T: Half + Into<f64>>(args: &Args, keys: &HyperKeys, file: &TensorFile, output: &OutputFile) -> Result<()> {
    let qkv = Qkv::<T>::read(file)?;
    let (shape, inputs) = (&qkv.shape, qkv.inputs());
    let options = method_options(keys.options());
    options.validate(shape)?;
    let hyper = Hyper::read(file, keys, shape, &options.mask)?;
    let upstream = args.grad.then(|| Upstream::<T>::read(file, shape)).transpose()?;
    let stream = Device::parse(&args.device)?.new_stream()?;
    let answer = hyper.attend_and_differentiate(&stream, shape, &options, inputs, upstream.as_ref())?;
    if args.check {
        say(&hyper.check(shape, &options, inputs, &answer, upstream.as_ref())?)?;
    }
    let mut contents = common_contents(args.method, &stream, shape, (&answer.out, &answer.lse), &[], &answer.work);
    let (pairs, density) = answer.visited(shape, &options.mask);
    contents.note("visited_pairs", pairs);
    contents.note("density", density);
    if let Some(gradients) = &answer.gradients {
        gradients.add_to(&mut contents, shape);
    }
    output.write(&contents)
}

/// Prints what a check found, and fails if it is wrong.
pub fn say(report: &Report) -> Result<()> {
    terminal::print(&report.text);
    if report.passed {
        return Ok(());
    }
    Err(Failure::Failed("check: the output is not what the reference says; nothing was written".into()))
}

/// What making the plan took.
struct Planning {
    kernels: Vec<&'static str>,
    /// Work of a gate; patterns are not worth counting.
    gate: Option<Counters>,
}

impl Planning {
    /// Makes the plan.
    fn run<T: Half>(stream: &Stream, request: &Request<T>) -> Result<(BlockPlan, Self)> {
        let shape = &request.qkv.shape;
        Ok(match &request.planner {
            Planner::Pattern(pattern) => {
                (pattern.plan(stream, shape)?, Self { kernels: pattern.kernels().to_vec(), gate: None })
            }
            Planner::Gate(gate) => {
                let plan = gate.plan(stream, shape)?;
                let counters = stream.counters();
                stream.reset_counters();
                (plan, Self { kernels: gates::KERNELS.to_vec(), gate: counters })
            }
        })
    }
}

/// What the keys that every method has ask of the kernels.
pub fn method_options(keys: Options) -> ForwardOptions<'static> {
    ForwardOptions {
        mask: if keys.causal { Mask::CAUSAL } else { Mask::FULL },
        scale: keys.scale,
        ..ForwardOptions::default()
    }
}

fn contents<T: Half>(
    method: Method,
    stream: &Stream,
    request: &Request<T>,
    options: &ForwardOptions<'_>,
    planning: &Planning,
    answer: &Answer,
) -> Contents {
    let shape = &request.qkv.shape;
    let outputs = (answer.out.as_slice(), answer.lse.as_slice());
    let mut contents = common_contents(method, stream, shape, outputs, &planning.kernels, &answer.work);
    if method.has_blocks() {
        contents.add_blocks(&answer.blocks, shape.batch);
    }
    contents.note("visited_pairs", answer.blocks.visited_pairs(shape, &options.mask));
    contents.note("density", answer.blocks.density(shape, &options.mask));
    if let Some(counters) = &planning.gate {
        contents.note("gate_launches", counters.launches);
        contents.note("gate_mma_macs", counters.mma_macs);
        contents.note("gate_copy_bytes", counters.copy_bytes);
    }
    contents
}

/// What every method writes; `planning` are the kernels that made the plan.
pub fn common_contents(
    method: Method,
    stream: &Stream,
    shape: &AttentionShape,
    (out, lse): (&[f32], &[f32]),
    planning: &[&str],
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
    let kernels: Vec<&str> = planning.iter().copied().chain(work.kernels.iter().map(String::as_str)).collect();
    contents.note("kernels", kernels.join(","));
    if let Some(counters) = &work.counters {
        contents.note("launches", counters.launches);
        contents.note("mma_macs", counters.mma_macs);
        contents.note("copy_bytes", counters.copy_bytes);
    }
    contents
}
