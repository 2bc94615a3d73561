//! `lacuna decode`: token by token over a growing cache, on the tensors of a file.

mod cache;
mod check;
mod gate;
mod marks;
mod planner;
mod reachable;
mod request;
mod run;
mod seer;

use crate::attend::{common_contents, method_options, say};
use crate::attention_call;
use crate::config::{self, ComputeType, DecodeKeys, DecodeMethod, Method};
use crate::failure::Result;
use crate::files::{Contents, OutputFile, TensorFile};
use lacuna::{Counters, Device, Half, Stream, bf16, f16};
use marks::Seen;
use request::{Planner, Request};
use run::Outcome;
use std::path::PathBuf;

/// Prefill a prompt and decode the tokens after it, on the tensors of a file.
///
/// Reads what `attend` reads, q with a row for each token, and optionally kv_lens (i32 or i64, [B]). The first `prompt`
/// tokens of each sequence are prefilled in one call; the others come one by one, each over the keys up to its own.
/// For `seer` reads gate_q, gate_k, w_q [Hkv,g*D,Dg], w_k and maybe q_norm and k_norm [Dg]. Writes out and lse of all
/// tokens, and block_mask for block methods; that of `seer` has a row for each decoded token.
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
        say(&check::check(&request, &options, &outcome)?)?;
    }
    output.write(&contents(args.method, &stream, &request, outcome))
}

fn contents<T: Half>(method: Method, stream: &Stream, request: &Request<T>, outcome: Outcome) -> Contents {
    let Counters { launches, mma_macs, copy_bytes, .. } = outcome.work.decode;
    let mut all = outcome.work.prefill;
    all.launches += launches;
    all.mma_macs += mma_macs;
    all.copy_bytes += copy_bytes;
    let counted = stream.counters().is_some();
    let work = attention_call::Work { kernels: outcome.kernels, counters: counted.then_some(all) };
    let outputs = (outcome.out.as_slice(), outcome.lse.as_slice());
    let mut contents = common_contents(method, stream, &request.qkv.shape, outputs, &[], &work);
    let seen = Seen::new(request, outcome.picked.as_ref());
    if let Some((dims, data)) = seen.block_mask() {
        contents.add_u8("block_mask", &dims, data);
    }
    let pairs = seen.pairs();
    contents.note("visited_pairs", pairs);
    contents.note("density", seen.density(pairs));
    contents.note("steps", outcome.steps.len());
    if let Some((bytes, full)) = outcome.cache_bytes {
        contents.note("cache_bytes", bytes);
        contents.note("cache_full_bytes", full);
    }
    if counted {
        contents.note("decode_launches", launches);
        contents.note("decode_mma_macs", mma_macs);
        contents.note("decode_copy_bytes", copy_bytes);
    }
    if let (Planner::Gate(_), true) = (&request.planner, counted) {
        let gate = outcome.work.gate;
        contents.note("gate_launches", gate.launches);
        contents.note("gate_mma_macs", gate.mma_macs);
        contents.note("gate_copy_bytes", gate.copy_bytes);
    }
    contents
}
