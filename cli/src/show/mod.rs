//! `lacuna show`: draws a plan. Needs no device and no tensors.

mod drawing;

use crate::attend::{method_options, s2_blocks, s2_config};
use crate::config::{self, ComputeType, Method, MethodKeys, PatternKeys};
use crate::demo::results::BlockPicture;
use crate::failure::{Result, request};
use crate::files::{TensorFile, check_writable, write_report};
use crate::{report, terminal};
use lacuna::{AttentionShape, BlockFormula, BlockMask, DType, Mask};
use std::fmt::Write;
use std::path::PathBuf;

/// Draw which blocks a method reads.
#[derive(clap::Args)]
pub struct Args {
    /// Which keys each query looks at
    #[arg(long)]
    method: Method,
    /// Settings of the method (JSON); every key has a default
    #[arg(long, value_name = "CFG.json")]
    config: Option<PathBuf>,
    /// For `blocks`: a file with the tensor block_mask (safetensors)
    #[arg(long, value_name = "IN.safetensors")]
    input: Option<PathBuf>,
    /// Sequences
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Queries of a sequence
    #[arg(long, default_value_t = 4096)]
    q_len: usize,
    /// Keys of a sequence; without it, as many as queries
    #[arg(long)]
    kv_len: Option<usize>,
    /// Query heads
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// KV heads; without it, as many as query heads
    #[arg(long)]
    kv_heads: Option<usize>,
    /// Also write the picture as SVG
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
}

/// Cells of the finest picture: 65536 queries and keys with 16 heads.
const LARGEST: usize = 1 << 28;

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    args.svg.as_deref().map_or(Ok(()), check_writable)?;
    let keys = config::read(args.method, args.config.as_deref())?;
    let shape = AttentionShape {
        batch: args.batch,
        q_heads: args.heads,
        kv_heads: args.kv_heads.unwrap_or(args.heads),
        q_len: args.q_len,
        kv_len: args.kv_len.unwrap_or(args.q_len),
        // No pattern depends on it.
        head_dim: 64,
        dtype: match keys.options().dtype {
            ComputeType::Bf16 => DType::BF16,
            ComputeType::F16 => DType::F16,
        },
    };
    shape.validate()?;
    let mask = method_options(keys.options()).mask;
    mask.validate(&shape)?;
    let blocks_at_most =
        shape.q_len.div_ceil(16).saturating_mul(shape.kv_len.div_ceil(16)).saturating_mul(shape.q_heads);
    if shape.batch == 0 || shape.q_len == 0 || shape.kv_len == 0 || blocks_at_most > LARGEST {
        return request!(
            "show: {} sequences, {} heads, {} queries and {} keys can't be drawn: none may be 0, and heads × ⌈queries / 16⌉ × \
             ⌈keys / 16⌉ must be at most {LARGEST}",
            shape.batch,
            shape.q_heads,
            shape.q_len,
            shape.kv_len
        );
    }
    let blocks = blocks(args, &keys, &shape, &mask)?;
    terminal::print(&text(args.method, &blocks, &shape, &mask));
    if let Some(path) = &args.svg {
        write_report(path, &report::standalone_svg(&pictures(&blocks)))?;
        terminal::print(&format!("picture: {}\n", path.display()));
    }
    Ok(())
}

/// The blocks that the plan attends.
fn blocks(args: &Args, keys: &MethodKeys, shape: &AttentionShape, mask: &Mask) -> Result<BlockMask> {
    Ok(match (keys, &args.input) {
        (MethodKeys::Seer(_), _) => {
            return request!("show: method seer picks blocks by looking at q and k; `lacuna attend` returns them");
        }
        (MethodKeys::Pattern(PatternKeys::S2(keys)), None) => s2_blocks(&s2_config(keys), shape, mask)?,
        (MethodKeys::Pattern(PatternKeys::Dense(_)), None) => {
            // Causal formulas count query blocks in absolute positions.
            BlockMask::from_formula(shape, mask, &BlockFormula::dense(), 1, 64, 64, mask.causal)?
        }
        (MethodKeys::Pattern(PatternKeys::Blocks(keys)), Some(path)) => {
            let file = TensorFile::open(path)?;
            let (dims, data) = file.block_mask(shape, keys.block_q, keys.block_k)?;
            BlockMask::from_data(shape, keys.block_q, keys.block_k, dims[0], dims[1], false, data)?
        }
        (MethodKeys::Pattern(PatternKeys::Blocks(_)), None) => {
            return request!("show: method blocks needs --input with the tensor block_mask");
        }
        (MethodKeys::Hyper(_), _) => {
            return request!("show: method hyper has no blocks to draw; its keys depend on q and k");
        }
        _ => return request!("show: --input is for method blocks"),
    })
}

/// A picture for each sequence and plan head.
fn pictures(blocks: &BlockMask) -> Vec<BlockPicture> {
    let planes = blocks.data.chunks(blocks.q_blocks * blocks.kv_blocks);
    planes.map(|plane| BlockPicture::from_bytes(plane, blocks.q_blocks, blocks.kv_blocks)).collect()
}

fn text(method: Method, blocks: &BlockMask, shape: &AttentionShape, mask: &Mask) -> String {
    let mut text = String::new();
    let pictures = pictures(blocks);
    // Plan heads that look the same are drawn once.
    let mut drawn: Vec<(BlockPicture, Vec<String>)> = Vec::new();
    for (i, picture) in pictures.into_iter().enumerate() {
        let name = match blocks.batch {
            1 => format!("{}", i % blocks.heads),
            _ => format!("{} of sequence {}", i % blocks.heads, i / blocks.heads),
        };
        match drawn.iter_mut().find(|(other, _)| *other == picture) {
            Some((_, names)) => names.push(name),
            None => drawn.push((picture, vec![name])),
        }
    }
    for (picture, names) in &drawn {
        let heads = if names.len() == 1 { "head" } else { "heads" };
        writeln!(text, "plan {heads} {}", names.join(", ")).expect("writing to a string");
        text += &drawing::draw(picture);
        text += "\n";
    }
    let rows = [
        ("method", format!("{}, {}", method.name(), if mask.causal { "causal" } else { "not causal" })),
        ("queries × keys", format!("{} × {}", shape.q_len, shape.kv_len)),
        ("heads", format!("{} query, {} KV, {} plan", shape.q_heads, shape.kv_heads, blocks.heads)),
        ("blocks", format!("{} × {} tokens, {} attended", blocks.block_q, blocks.block_k, blocks.blocks())),
        ("visited pairs", blocks.visited_pairs(shape, mask).to_string()),
        ("density", format!("{:.2} % of what the mask lets through", 100.0 * blocks.density(shape, mask))),
        (
            "index memory",
            match method {
                Method::Blocks => format!("{} bytes of lists", blocks.list_bytes()),
                _ => format!("none: a formula (as lists {} bytes)", blocks.list_bytes()),
            },
        ),
    ];
    for (name, value) in rows {
        writeln!(text, "{name:<16}{value}").expect("writing to a string");
    }
    text
}
