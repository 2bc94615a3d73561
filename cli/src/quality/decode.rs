//! The quality table of decode gates: every token picks blocks for itself, as it would where it is decoded.

use super::Args;
use crate::demo::Reading;
use crate::failure::{Failure, Result, request};
use crate::gates::{DecodeGates, GateInputs, softmax};
use crate::model::{Attention, Exact, Heads, TokenBlocks, attend_token_blocks, rounded, token_maps};
use crate::{files, terminal};
use candle_core::Tensor;
use lacuna::{AttentionShape, DType, Device, Stream};

/// Tokens that a query attends beside its own block.
const BUDGETS: [usize; 4] = [1024, 512, 256, 128];

/// Who picks blocks.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Picker {
    /// Nobody: dense attention.
    Dense,
    /// The trained gate.
    Gate,
    /// The products of queries with mean keys.
    Pooled,
    /// The newest blocks.
    Window,
    /// The true map.
    Oracle,
}

/// A row of the table.
#[derive(serde::Serialize)]
struct Row {
    picker: Picker,
    budget: Option<usize>,
    density: f64,
    bits_per_byte: f64,
    windows: Vec<f64>,
}

/// The JSON.
#[derive(serde::Serialize)]
struct Table<'a> {
    text: &'a str,
    gates: &'a str,
    window: usize,
    block_size: usize,
    rows: &'a [Row],
}

/// Runs the command for decode gates.
pub fn run(args: &Args) -> Result<()> {
    if args.plot.is_some() || args.report.is_some() {
        return request!("--plot and --report are for prefill gates");
    }
    let reading = Reading::open(&args.reading, args.window, args.windows)?;
    let gates = DecodeGates::open(args.reading.gates.as_deref(), reading.model.config())?;
    let stream = Device::parse(&args.reading.device)?.new_stream()?;
    let pickers = [Picker::Gate, Picker::Pooled, Picker::Window, Picker::Oracle];
    let budgets = BUDGETS.into_iter().flat_map(|budget| pickers.map(|picker| (picker, Some(budget))));
    let runs: Vec<_> = std::iter::once((Picker::Dense, None)).chain(budgets).collect();
    let progress = terminal::progress(runs.len() * args.windows);
    let mut rows = Vec::new();
    for (picker, budget) in runs {
        let blocks = budget.map_or(usize::MAX, |budget: usize| (budget / gates.block_size).max(1));
        let mut attention = TokenAttention { gates: &gates, stream: &stream, picker, blocks, visited: 0.0, all: 0.0 };
        let mut windows = Vec::new();
        for number in 0..args.windows {
            let text = &reading.text[number * args.window..][..=args.window];
            windows.push(reading.model.bits_per_byte(text, &mut attention)?);
            progress.inc(1);
        }
        let bits_per_byte = windows.iter().sum::<f64>() / windows.len() as f64;
        rows.push(Row { picker, budget, density: attention.visited / attention.all, bits_per_byte, windows });
    }
    progress.finish_and_clear();
    terminal::print(&text(&rows, args, &reading.text_name, &gates));
    if let Some(path) = &args.json {
        let (window, block_size) = (args.window, gates.block_size);
        let table = Table { text: &reading.text_name, gates: &gates.name, window, block_size, rows: &rows };
        let json = serde_json::to_string_pretty(&table).map_err(|e| Failure::Failed(format!("json: {e}")))?;
        files::write_report(path, &json)?;
    }
    Ok(())
}

fn text(rows: &[Row], args: &Args, text_name: &str, gates: &DecodeGates) -> String {
    let mut table =
        vec![["blocks picked by", "tokens", "density", "bits/byte", "to dense"].map(str::to_owned).to_vec()];
    for row in rows {
        let picker = match row.picker {
            Picker::Dense => "dense",
            Picker::Gate => "trained gate",
            Picker::Pooled => "mean keys, untrained",
            Picker::Window => "newest blocks",
            Picker::Oracle => "oracle: the true map",
        };
        table.push(vec![
            picker.to_owned(),
            row.budget.map_or("all".to_owned(), |budget| budget.to_string()),
            format!("{:.1} %", 100.0 * row.density),
            format!("{:.4}", row.bits_per_byte),
            format!("{:+.4}", row.bits_per_byte - rows[0].bits_per_byte),
        ]);
    }
    let windows = if args.windows == 1 { "1 window".to_owned() } else { format!("{} windows", args.windows) };
    format!(
        "{windows} of {} bytes of {text_name}, each token with its own choice of blocks of {} for each KV head, attention in \
         f32, gates: {}\n\n{}",
        args.window,
        gates.block_size,
        gates.name,
        terminal::table(&table, 1)
    )
}

/// Attention of each token to the blocks that are picked for it.
struct TokenAttention<'a> {
    gates: &'a DecodeGates,
    stream: &'a Stream,
    picker: Picker,
    /// Beside a token's own block.
    blocks: usize,
    /// (query, key) pairs over all calls, and those of dense attention.
    visited: f64,
    all: f64,
}

impl Attention for TokenAttention<'_> {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        let (kv_heads, n, _) = heads.k.dims3()?;
        let block = self.gates.block_size;
        let Some(scores) = self.scores(heads)? else {
            (self.visited, self.all) = (1.0, 1.0);
            return Exact.attend(heads);
        };
        let blocks = n.div_ceil(block);
        let mut marks = vec![0; kv_heads * n * blocks];
        for (index, (scores, marks)) in scores.chunks_exact(blocks).zip(marks.chunks_exact_mut(blocks)).enumerate() {
            let token = index % n;
            pick(&scores[..token / block], self.blocks, marks);
            let kept = marks[..token / block].iter().filter(|&&mark| mark != 0).count();
            self.visited += (kept * block + token % block + 1) as f64;
            self.all += (token + 1) as f64;
        }
        attend_token_blocks(heads, &TokenBlocks { block, marks })
    }
}

impl TokenAttention<'_> {
    /// `[kv_heads, n, blocks]`; only blocks before a token's own count.
    fn scores(&self, heads: &Heads<'_>) -> Result<Option<Vec<f32>>> {
        let (q_heads, n, head_dim) = heads.q.dims3()?;
        let (kv_heads, block) = (heads.k.dim(0)?, self.gates.block_size);
        Ok(match self.picker {
            Picker::Dense => None,
            Picker::Gate => {
                let shape =
                    AttentionShape { batch: 1, q_heads, kv_heads, q_len: n, kv_len: n, head_dim, dtype: DType::BF16 };
                let (q, k) = (rounded(heads.gate_q)?, rounded(heads.gate_k)?);
                Some(self.gates.logits(heads.layer, self.stream, &shape, &GateInputs { q: &q, k: &k })?)
            }
            Picker::Pooled => Some(mean_key_shares(heads, block)?),
            Picker::Window => {
                let blocks = n.div_ceil(block);
                Some((0..kv_heads * n * blocks).map(|index| (index % blocks) as f32).collect())
            }
            Picker::Oracle => Some(token_maps(heads, block)?),
        })
    }
}

/// The softmax of each query's products with the mean keys of the blocks before its own, the largest of a group.
fn mean_key_shares(heads: &Heads<'_>, block: usize) -> Result<Vec<f32>> {
    let (q_heads, n, head_dim) = heads.q.dims3()?;
    let (kv_heads, blocks) = (heads.k.dim(0)?, n.div_ceil(block));
    let mut largest = vec![0f32; kv_heads * n * blocks];
    for h in 0..q_heads {
        let kv_head = h * kv_heads / q_heads;
        let keys = heads.k.get(kv_head)?;
        let mean = |b: usize| keys.narrow(0, b * block, block.min(n - b * block))?.mean_keepdim(0);
        let means = Tensor::cat(&(0..blocks).map(mean).collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let products = (heads.q.get(h)?.matmul(&means.t()?)? / (head_dim as f64).sqrt())?;
        let mut products = products.flatten_all()?.to_vec1::<f32>()?;
        let group = &mut largest[kv_head * n * blocks..][..n * blocks];
        for (token, (row, group)) in products.chunks_exact_mut(blocks).zip(group.chunks_exact_mut(blocks)).enumerate() {
            let seen = &mut row[..token / block];
            softmax(seen);
            group.iter_mut().zip(seen).for_each(|(most, share)| *most = most.max(*share));
        }
    }
    Ok(largest)
}

/// Marks the `count` best of the blocks before a token's own, ties to the lower one, and its own.
fn pick(scores: &[f32], count: usize, marks: &mut [u8]) {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.iter().take(count).for_each(|&block| marks[block] = 1);
    marks[scores.len()] = 1;
}

#[cfg(test)]
mod tests {
    use super::pick;

    #[test]
    fn the_best_before_the_own_block_and_itself() {
        let picked = |count| {
            let mut marks = [0; 6];
            pick(&[0.5, 0.7, 0.5, 0.1], count, &mut marks);
            marks
        };
        assert_eq!(picked(2), [1, 1, 0, 0, 1, 0]);
        assert_eq!(picked(9), [1, 1, 1, 1, 1, 0]);
        let mut marks = [0; 2];
        pick(&[], 3, &mut marks);
        assert_eq!(marks, [1, 0]);
    }
}
