//! `lacuna train`: trains a model with S2-Attention, and beside it with dense attention, on the same batches.

mod attention;
mod course;
mod curve;
mod plot;

use crate::attend::{s2_blocks, s2_config};
use crate::config::{self, Method, MethodKeys, PatternKeys};
use crate::failure::{Failure, Result, request};
use crate::files::{self, Contents, OutputFile};
use crate::model::{Files, Model};
use crate::terminal;
use attention::Trained;
use course::Course;
use curve::Results;
use lacuna::{AttentionShape, DType, Mask};
use std::path::{Path, PathBuf};

/// Train the reference model, or one of its architecture, with S2-Attention through candle.
///
/// Forward and backward of attention are lacuna's kernels on the CPU (the SIMT host); everything else is candle in f32.
/// The first layers may stay dense (a hybrid). The same training with dense attention follows, on the same batches, and
/// a table and a plot show both curves of bits per byte on the validation text.
#[derive(clap::Args)]
pub struct Args {
    /// Text to learn from
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// A directory with config.json, model.safetensors and valid.txt, instead of the built-in model
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Start from random weights instead of the model's
    #[arg(long)]
    scratch: bool,
    /// Settings of S2 (JSON), as of `attend --method s2`
    #[arg(long, value_name = "CFG.json")]
    config: Option<PathBuf>,
    /// First layers that attend to everything
    #[arg(long, default_value_t = 1)]
    dense_layers: usize,
    /// Leave out the training with dense attention
    #[arg(long)]
    no_dense: bool,
    /// Bytes that the model reads at once
    #[arg(long, default_value_t = 1024)]
    window: usize,
    /// Windows of a step
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Steps of the optimizer (AdamW without weight decay, gradients cut to a norm of 1)
    #[arg(long, default_value_t = 60)]
    steps: usize,
    /// First steps, in which the learning rate rises
    #[arg(long, default_value_t = 5)]
    warm_up: usize,
    /// Highest learning rate
    #[arg(long, default_value_t = 1e-3)]
    lr: f64,
    /// Learning rate of the last step
    #[arg(long, default_value_t = 1e-4)]
    min_lr: f64,
    /// Of the order of windows and of random weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps between looks at the validation text
    #[arg(long, default_value_t = 10)]
    valid_every: usize,
    /// Windows of the validation text
    #[arg(long, default_value_t = 8)]
    valid_windows: usize,
    /// Write the weights trained with S2 (safetensors, as the model's)
    #[arg(long, value_name = "MODEL.safetensors")]
    output: Option<PathBuf>,
    /// Write settings and curves as JSON
    #[arg(long, value_name = "OUT.json")]
    json: Option<PathBuf>,
    /// Write the curves as a picture
    #[arg(long, value_name = "OUT.svg")]
    plot: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let read: Vec<&Path> =
        [Some(&args.text), args.config.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
    let output = args.output.as_ref().map(|path| OutputFile::check(path, &read)).transpose()?;
    for path in [&args.json, &args.plot].into_iter().flatten() {
        files::check_writable(path)?;
    }
    let files = args.model.as_deref().map_or_else(|| Ok(Files::built_in()), Files::open)?;
    let text = files::read_regular(&args.text);
    let text = text.map_err(|e| Failure::Request(format!("{}: {e}", args.text.display())))?;
    let model = Model::load(&files)?;
    let course = course(args, &model, text, files.text.clone())?;
    let (s2, density) = s2(args, &model)?;

    let mut kinds = vec![Trained::s2(s2.clone(), args.dense_layers)];
    kinds.extend((!args.no_dense).then(Trained::dense));
    let mut curves = Vec::new();
    for kind in &kinds {
        let mut model = Model::load(&files)?;
        if args.scratch {
            model.randomize(args.seed)?;
        }
        let (curve, weights) = course.run(model, kind)?;
        if let (true, Some(output)) = (curves.is_empty(), &output) {
            output.write(&contents(&weights)?)?;
        }
        curves.push(curve);
    }
    let results = Results::new(args, &course, &s2, density, curves);
    terminal::print(&results.table());
    if let Some(path) = &args.json {
        files::write_report(path, &results.json()?)?;
    }
    if let Some(path) = &args.plot {
        files::write_report(path, &plot::curves(&results)?)?;
    }
    Ok(())
}

/// The pattern, checked against the model, and its density.
fn s2(args: &Args, model: &Model) -> Result<(lacuna::S2Config, f64)> {
    let MethodKeys::Pattern(PatternKeys::S2(keys)) = config::read(Method::S2, args.config.as_deref())? else {
        return request!("config: expected settings of s2");
    };
    let c = model.config();
    let shape = AttentionShape {
        batch: 1,
        q_heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        q_len: args.window,
        kv_len: args.window,
        head_dim: c.head_dim,
        dtype: DType::BF16,
    };
    let s2 = s2_config(&keys);
    if args.dense_layers > c.num_layers {
        return request!(
            "--dense-layers must be at most {}, the model's layers, got {}",
            c.num_layers,
            args.dense_layers
        );
    }
    let density = s2_blocks(&s2, &shape, &Mask::CAUSAL)?.density(&shape, &Mask::CAUSAL);
    Ok((s2, density))
}

fn course(args: &Args, model: &Model, text: Vec<u8>, valid: Vec<u8>) -> Result<Course> {
    let longest = model.config().max_position_embeddings;
    if !(1..=longest).contains(&args.window) {
        return request!("--window must be in 1..={longest}, what the model is made for, got {}", args.window);
    }
    for (option, value) in [("--steps", args.steps), ("--batch", args.batch), ("--valid-every", args.valid_every)] {
        if !(1..=1 << 30).contains(&value) {
            return request!("{option} must be in 1..=2^30, got {value}");
        }
    }
    for (option, value) in [("--lr", args.lr), ("--min-lr", args.min_lr)] {
        if !(value >= 0.0 && value.is_finite()) {
            return request!("{option} must be at least 0 and finite, got {value}");
        }
    }
    let windows = |text: &[u8]| text.len().saturating_sub(1) / args.window;
    if windows(&text) == 0 {
        return request!("{}: {} bytes are too few for a window of {}", args.text.display(), text.len(), args.window);
    }
    if !(1..=windows(&valid)).contains(&args.valid_windows) {
        return request!(
            "--valid-windows must be in 1..={} for this text, got {}",
            windows(&valid),
            args.valid_windows
        );
    }
    Ok(Course {
        text,
        valid,
        window: args.window,
        batch: args.batch,
        rates: crate::training::Rates {
            highest: args.lr,
            last: args.min_lr,
            warm_up: args.warm_up.min(args.steps),
            steps: args.steps,
        },
        seed: args.seed,
        valid_every: args.valid_every,
        valid_windows: args.valid_windows,
    })
}

fn contents(weights: &course::Weights) -> Result<Contents> {
    let mut contents = Contents::default();
    for (name, parameter) in weights {
        let values = parameter.value.flatten_all()?.to_vec1::<f32>()?;
        contents.add_bf16(name.as_str(), parameter.value.dims(), &values);
    }
    Ok(contents)
}
