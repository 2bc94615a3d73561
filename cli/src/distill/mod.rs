//! `lacuna distill`: trains the gates of SeerAttention on what a model attends.

mod calibrate;
mod capture;
mod checkpoint;
mod examples;
mod gate;
mod recipe;

use crate::failure::{Failure, Result, request};
use crate::files::{self, OutputFile, TensorFile};
use crate::model::{Files, Model};
use crate::terminal;
use checkpoint::State;
use examples::{Batch, Window};
use lacuna::{Device, Stream};
pub use recipe::Kind;
use recipe::{Init, Pool, Recipe};
use std::path::{Path, PathBuf};

/// Train the gates of SeerAttention on the attention of a model.
///
/// A gate learns, from the pooled queries and keys of a layer, the largest attention probability of each block: the
/// loss is the KL divergence of its softmax from that map, row by row. The data is a text that a model reads (the
/// built-in one, or --model), or a file of captured tensors: layers.{i}.gate_q [B,Hq,N,D] and gate_k [B,Hkv,N,D] before
/// the rotary embedding, layers.{i}.q and k after it (without layers.{i}. for one layer).
///
/// Writes layers.{i}.w_k and, where the gate has them, w_q, q_norm and k_norm. A checkpoint beside the output is
/// written now and then, and goes away at the end; --resume goes on from it, to the same weights.
#[derive(clap::Args)]
pub struct Args {
    /// Text for the model to read
    #[arg(long, value_name = "FILE", required_unless_present = "input")]
    text: Option<PathBuf>,
    /// A directory with config.json, model.safetensors and valid.txt, instead of the built-in model
    #[arg(long, value_name = "DIR", conflicts_with = "input")]
    model: Option<PathBuf>,
    /// Captured tensors (safetensors), instead of a model and a text
    #[arg(long, value_name = "IN.safetensors", conflicts_with_all = ["text", "window"])]
    input: Option<PathBuf>,
    /// File to write (safetensors)
    #[arg(long, value_name = "GATES.safetensors")]
    output: PathBuf,
    /// What the gates select for
    #[arg(long, value_enum, default_value = "prefill")]
    kind: Kind,
    /// Tokens of a block: 16, 32, 64 or 128
    #[arg(long, default_value_t = 64)]
    block_size: usize,
    /// Pools of the queries (prefill)
    #[arg(long, value_delimiter = ',', default_value = "avg")]
    q_pool: Vec<Pool>,
    /// Pools of the keys
    #[arg(long, value_delimiter = ',', default_value = "max,min,avg")]
    k_pool: Vec<Pool>,
    /// Learn a projection of the pooled queries as well (prefill)
    #[arg(long)]
    project_q: bool,
    /// One projection of the keys for each KV head instead of each query head (prefill)
    #[arg(long)]
    per_kv_head: bool,
    /// RMS norms before the rotary embedding (decode)
    #[arg(long)]
    norm: bool,
    /// Elements of a gate vector; default: the head's
    #[arg(long)]
    gate_dim: Option<usize>,
    /// Base of the gate's rotary frequencies; default: the model's, 10000 for captured tensors
    #[arg(long)]
    rope_theta: Option<f64>,
    /// Tokens that the model reads at once; default: all that it was trained for
    #[arg(long)]
    window: Option<usize>,
    /// Windows to learn from; default: all of the file, at most 64 of a text
    #[arg(long)]
    windows: Option<usize>,
    /// Queries of each window to learn from (decode)
    #[arg(long, default_value_t = 256)]
    rows: usize,
    /// Leading share of each window whose queries are left out
    #[arg(long, default_value_t = 0.0)]
    skip: f64,
    /// Leave each row's own block, which attention keeps anyway, out of target and softmax (prefill)
    #[arg(long)]
    drop_current: bool,
    /// Exponent of the largest probabilities before each row is normalised; below 1 small ones weigh more
    #[arg(long, default_value_t = 1.0)]
    power: f64,
    /// Weigh each block by its distance from the row's own, in blocks, to this power: far blocks are harder to replace
    #[arg(long, default_value_t = 0.0)]
    distance: f64,
    /// Weights to start from
    #[arg(long, value_enum, default_value = "mean")]
    init: Init,
    /// Steps of the optimizer (AdamW without weight decay)
    #[arg(long, default_value_t = 200)]
    steps: usize,
    /// First steps, in which the learning rate rises
    #[arg(long, default_value_t = 20)]
    warm_up: usize,
    /// Windows of a step
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Highest learning rate
    #[arg(long, default_value_t = 4e-3)]
    lr: f64,
    /// Learning rate of the last step
    #[arg(long, default_value_t = 0.0)]
    min_lr: f64,
    /// Of the order of windows and of random weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 100)]
    save_every: usize,
    /// Stop after this step with a checkpoint, without an output
    #[arg(long)]
    until: Option<usize>,
    /// Go on from the checkpoint beside the output
    #[arg(long)]
    resume: bool,
    /// auto, simt or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

/// Where windows come from.
enum Source {
    Text { model: Box<Model>, text: Vec<u8> },
    File(TensorFile),
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let checkpoint_path = checkpoint::checkpoint_path(&args.output);
    let read: Vec<&Path> = [&args.text, &args.input].into_iter().flatten().map(PathBuf::as_path).collect();
    let output = OutputFile::check(&args.output, &read)?;
    let checkpoint = OutputFile::check(&checkpoint_path, &read)?;
    if args.save_every == 0 || args.until == Some(0) {
        return request!("--save-every and --until must be at least 1");
    }
    let (source, recipe) = source_and_recipe(args)?;
    recipe.validate()?;
    let mut state = if args.resume { State::load(&recipe, &checkpoint_path)? } else { State::new(&recipe)? };
    let stream = Device::parse(&args.device)?.new_stream()?;
    let windows = windows(&stream, &recipe, &source)?;

    let end = args.until.map_or(recipe.steps, |until| until.min(recipe.steps));
    let bar = terminal::progress(recipe.steps);
    bar.set_position(state.step as u64);
    while state.step < end {
        let loss = step(&mut state, &recipe, &windows)?;
        if !loss.is_finite() {
            return Err(Failure::Failed(format!("distill: the loss of step {} is not finite", state.step)));
        }
        bar.inc(1);
        bar.set_message(format!("KL {loss:.4} nats a row"));
        if state.step % args.save_every == 0 && state.step < end {
            state.save(&recipe, &checkpoint)?;
        }
    }
    bar.finish_and_clear();
    if end < recipe.steps {
        state.save(&recipe, &checkpoint)?;
        terminal::print(&format!("checkpoint after step {end}: {}\n", checkpoint_path.display()));
        return Ok(());
    }
    let trained = state.rounded()?;
    let thresholds = calibrate::thresholds(&recipe, &trained, &windows)?;
    output.write(&trained.gates(&recipe, &text_name(args), &thresholds)?)?;
    let text = summary(&recipe, &trained, &windows, &thresholds)?;
    // It may not be there; then nothing is left to remove.
    let _ = std::fs::remove_file(&checkpoint_path);
    terminal::print(&format!("{text}gates: {}\n", args.output.display()));
    Ok(())
}

fn source_and_recipe(args: &Args) -> Result<(Source, Recipe)> {
    let (source, sizes, theta, data) = match (&args.input, &args.text) {
        (Some(path), _) => {
            let file = TensorFile::open(path)?;
            let (sizes, data) = (capture::sizes(&file)?, capture::fingerprint(&[file.bytes()]));
            (Source::File(file), sizes, 10000.0, data)
        }
        (None, Some(path)) => {
            let files = args.model.as_deref().map_or_else(|| Ok(Files::built_in()), Files::open)?;
            let text = files::read_regular(path);
            let text = text.map_err(|e| Failure::Request(format!("{}: {e}", path.display())))?;
            let data = capture::fingerprint(&[&text, &files.config, &files.weights]);
            let model = Model::load(&files)?;
            let c = model.config();
            let window = args.window.unwrap_or(c.max_position_embeddings);
            if !(1..=c.max_position_embeddings).contains(&window) {
                return request!(
                    "--window must be in 1..={}, what the model was trained for, got {window}",
                    c.max_position_embeddings
                );
            }
            let sizes = capture::Sizes {
                layers: c.num_layers,
                windows: text.len().saturating_sub(1) / window,
                q_heads: c.num_attention_heads,
                kv_heads: c.num_key_value_heads,
                window,
                head_dim: c.head_dim,
            };
            let theta = c.rope_theta;
            (Source::Text { model: Box::new(model), text }, sizes, theta, data)
        }
        (None, None) => return request!("--text or --input is missing"),
    };
    let most = if matches!(source, Source::File(_)) { sizes.windows } else { sizes.windows.min(64) };
    let windows = args.windows.unwrap_or(most);
    if !(1..=sizes.windows).contains(&windows) {
        return request!("--windows must be in 1..={} for this data, got {windows}", sizes.windows);
    }
    if args.kind == Kind::Decode && sizes.window <= args.block_size {
        return request!("a decode gate needs windows longer than a block ({}), got {}", args.block_size, sizes.window);
    }
    let sorted = |pools: &[Pool]| {
        let mut pools = pools.to_vec();
        pools.sort_unstable();
        pools.dedup();
        pools
    };
    let recipe = Recipe {
        kind: args.kind,
        block_size: args.block_size,
        q_pool: sorted(&args.q_pool),
        k_pool: sorted(&args.k_pool),
        project_q: args.project_q,
        per_kv_head: args.per_kv_head,
        norm: args.norm,
        gate_dim: args.gate_dim.unwrap_or(sizes.head_dim),
        rope_theta: args.rope_theta.unwrap_or(theta),
        layers: sizes.layers,
        q_heads: sizes.q_heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        window: sizes.window,
        windows,
        rows: args.rows,
        skip: args.skip,
        drop_current: args.drop_current,
        power: args.power,
        distance: args.distance,
        init: args.init,
        steps: args.steps,
        warm_up: args.warm_up,
        batch: args.batch,
        lr: args.lr,
        min_lr: args.min_lr,
        seed: args.seed,
        data,
    };
    Ok((source, recipe))
}

fn windows(stream: &Stream, recipe: &Recipe, source: &Source) -> Result<Vec<Window>> {
    let bar = terminal::progress(recipe.windows);
    bar.set_message("windows read");
    let windows = match source {
        Source::Text { model, text } => capture::from_model(stream, recipe, model, text, &bar),
        Source::File(file) => capture::from_file(stream, recipe, file, &bar),
    };
    bar.finish_and_clear();
    windows
}

/// One step of every layer; returns the mean loss over layers before it.
fn step(state: &mut State, recipe: &Recipe, windows: &[Window]) -> Result<f32> {
    state.step += 1;
    let chosen: Vec<&Window> = recipe.batch_of(state.step).into_iter().map(|window| &windows[window]).collect();
    let mut sum = 0.0;
    for (layer, gate) in state.gates.iter_mut().enumerate() {
        let loss = gate.loss(recipe, &Batch::new(recipe, &chosen, layer)?)?;
        sum += loss.to_scalar::<f32>()?;
        let gradients = loss.backward()?;
        for parameter in gate.parameters.iter_mut().flatten() {
            parameter.step(&gradients, recipe.rate(state.step), state.step)?;
        }
    }
    Ok(sum / recipe.layers as f32)
}

/// The name of what was learned from, without the folders of this machine.
fn text_name(args: &Args) -> String {
    let path = args.text.as_ref().or(args.input.as_ref());
    path.and_then(|path| path.file_name()).map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The loss of each layer over all windows, before and after, and the thresholds.
fn summary(recipe: &Recipe, state: &State, windows: &[Window], thresholds: &[(f64, f64)]) -> Result<String> {
    let before = State::new(recipe)?;
    let mean = |gates: &State, layer: usize| -> Result<f32> {
        let mut sum = 0.0;
        for window in windows {
            sum += gates.gates[layer].loss(recipe, &Batch::new(recipe, &[window], layer)?)?.to_scalar::<f32>()?;
        }
        Ok(sum / windows.len() as f32)
    };
    let mut rows = vec![["layer", "KL at first", "KL at the end"].map(str::to_owned).to_vec()];
    for layer in 0..recipe.layers {
        let numbers = [mean(&before, layer)?, mean(state, layer)?].map(|kl| format!("{kl:.4}"));
        rows.push([vec![layer.to_string()], numbers.to_vec()].concat());
    }
    let mut text = terminal::table(&rows, 1);
    for (density, threshold) in thresholds {
        text += &format!("threshold for a density of {:.0} %: {threshold:.4e}\n", 100.0 * density);
    }
    Ok(text)
}
