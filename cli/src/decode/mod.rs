//! `lacuna decode`: token by token over a growing cache, on the tensors of a file.

mod cache;
mod check;
mod gate;
mod marks;
mod planner;
mod request;
mod run;
mod seer;

use crate::attend::method_options;
use crate::config::{self, ComputeType, DecodeKeys, DecodeMethod, Method};
use crate::failure::{Failure, Result};
use crate::files::{Contents, OutputFile, TensorFile};
use crate::terminal;
use lacuna::{Device, ForwardOptions, Half, Stream, bf16, f16};
use marks::Seen;
use request::{Planner, Request};
use run::Outcome;
use std::path::PathBuf;

/// Prefill a prompt and decode the tokens after it, on the tensors of a file.
///
/// Reads what `attend` reads, q with a row for each token, and optionally kv_lens (i32 or i64, [B]). The first `prompt`
/// tokens of each sequence are prefilled in one call; the others come one by one, each over the keys up to its own.
/// Writes out and lse of all tokens, block_mask for `blocks` and `s2`, and decode_mask for `seer`.
#[derive(clap::Args)]
pub struct Args {
    /// Which keys each token looks at
    #[arg(long)]
    method: Method,
    /// Tensors to read (safetensors)
    #[arg(long, value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write (safetensors); left alone if anything fails
    #[arg(long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Settings of the method, and prompt, cache, page_size, tokens_per_step (JSON); every key has a default
    #[arg(long, value_name = "CFG.json")]
    config: Option<PathBuf>,
    /// auto, simt or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Compare with the f64 reference and print the errors; exit code 1 if they are too large
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let (keys, method) = config::read_decode(args.method, args.config.as_deref())?;
    let read = [Some(args.input.as_path()), args.config.as_deref()];
    let output = OutputFile::check(&args.output, &read.into_iter().flatten().collect::<Vec<_>>())?;
    let file = TensorFile::open(&args.input)?;
    match method.options().dtype {
        ComputeType::Bf16 => run_as::<bf16>(args, &keys, &method, &file, &output),
        ComputeType::F16 => run_as::<f16>(args, &keys, &method, &file, &output),
    }
}

fn run_as<T: Half + Into<f64>>(
    args: &Args,
    keys: &DecodeKeys,
    method: &DecodeMethod,
    file: &TensorFile,
    output: &OutputFile,
) -> Result<()> {
    let request = Request::<T>::read(file, keys, method)?;
    let options = method_options(method.options());
    options.validate(&request.qkv.shape)?;
    let stream = Device::parse(&args.device)?.new_stream()?;
    let outcome = run::run(&stream, &request, keys, &options)?;
    if args.check {
        let report = check::check(&request, &options, &outcome)?;
        terminal::print(&report.text);
        if !report.passed {
            return Err(Failure::Failed(
                "check: the output is not what the reference says; nothing was written".into(),
            ));
        }
    }
    output.write(&contents(args.method, &stream, &request, &options, &outcome)?)
}

fn contents<T: Half>(
    method: Method,
    stream: &Stream,
    request: &Request<T>,
    options: &ForwardOptions<'_>,
    outcome: &Outcome,
) -> Result<Contents> {
    let shape = &request.qkv.shape;
    let mut contents = Contents::default();
    contents.add_f32("out", &[shape.batch, shape.q_heads, shape.q_len, shape.head_dim], &outcome.out);
    contents.add_f32("lse", &[shape.batch, shape.q_heads, shape.q_len], &outcome.lse);
    if let Planner::Pattern(pattern) = &request.planner
        && pattern.blocks().is_some()
    {
        let blocks = pattern.plan(stream, shape)?.block_mask(stream, shape, &options.mask)?;
        contents.add_blocks(&blocks, shape.batch);
    }
    if let Some(mask) = &outcome.mask {
        contents.add_u8("decode_mask", &mask.dims, mask.data.clone());
    }
    contents.note("lacuna", env!("CARGO_PKG_VERSION"));
    contents.note("method", method.name());
    contents.note("dtype", shape.dtype);
    contents.note("device", stream.device().name());
    contents.note("device_choice", stream.device().choice());
    contents.note("kernels", outcome.kernels.join(","));
    contents.note("steps", outcome.steps.len());
    let seen = Seen::new(request, outcome.mask.as_ref());
    let (pairs, dense) = (seen.pairs(), seen.dense_pairs());
    contents.note("visited_pairs", pairs);
    contents.note("density", if dense == 0 { 0.0 } else { pairs as f64 / dense as f64 });
    if stream.counters().is_some() {
        let [prefill, gate, decode] = outcome.work;
        contents.note("mma_macs", prefill.mma_macs + decode.mma_macs);
        contents.note("copy_bytes", prefill.copy_bytes + decode.copy_bytes);
        contents.note("decode_mma_macs", decode.mma_macs);
        contents.note("decode_copy_bytes", decode.copy_bytes);
        contents.note("gate_mma_macs", gate.mma_macs);
        contents.note("gate_copy_bytes", gate.copy_bytes);
    }
    Ok(contents)
}
