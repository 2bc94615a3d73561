//! The thresholds of the quality table: for each way to pick blocks those that give the densities.

use crate::demo::settings::Thresholds;
use crate::demo::{Reading, map_shares, pooled_shares};
use crate::failure::Result;
use crate::gates::{DENSITIES, GateInputs, Gates, Shares};
use crate::model::{Attention, Exact, Heads, rounded};
use crate::terminal;
use candle_core::Tensor;
use lacuna::{AttentionShape, DType, Device, Stream};

/// Reads the windows once with dense attention and looks at nothing but shares: what the model predicts plays no part.
/// The rule is the same for all: one threshold for all layers, heads and windows.
pub fn thresholds(
    reading: &Reading,
    gates: &Gates,
    window: usize,
    windows: usize,
    device: &Device,
) -> Result<Vec<Thresholds>> {
    let stream = device.new_stream()?;
    let progress = terminal::progress(windows);
    progress.set_message("windows read for thresholds");
    let mut looker = Looker { gates, stream: &stream, shares: Default::default() };
    for start in (0..windows).map(|number| number * window) {
        reading.model.bits_per_byte(&reading.text[start..=start + window], &mut looker)?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    let [gate, pooled, oracle] = looker.shares.map(|shares| shares.thresholds(DENSITIES));
    let at = |i: usize| Thresholds { density: DENSITIES[i], gate: gate[i], pooled: pooled[i], oracle: oracle[i] };
    Ok((0..DENSITIES.len()).map(at).collect())
}

/// Dense attention that keeps the shares of all blocks.
struct Looker<'a> {
    gates: &'a Gates,
    stream: &'a Stream,
    /// Of the gate, of mean-pooled scores, of the true block map.
    shares: [Shares; 3],
}

impl Attention for Looker<'_> {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        let (q_heads, len, head_dim) = heads.q.dims3()?;
        let kv_heads = heads.k.dim(0)?;
        let shape =
            AttentionShape { batch: 1, q_heads, kv_heads, q_len: len, kv_len: len, head_dim, dtype: DType::BF16 };
        let block = self.gates.block_size;
        let (q, k) = (rounded(heads.gate_q)?, rounded(heads.gate_k)?);
        let gate = self.gates.shares(heads.layer, self.stream, &shape, &GateInputs { q: &q, k: &k })?;
        let maps = [gate, pooled_shares(heads, block)?.concat(), map_shares(heads, block)?.concat()];
        let blocks = len.div_ceil(block);
        for (shares, map) in self.shares.iter_mut().zip(&maps) {
            for (index, row) in map.chunks_exact(blocks).enumerate() {
                let own = index % blocks;
                let queries = block.min(len - own * block);
                shares.add_row(&row[..own], queries * block, queries * (queries + 1) / 2);
            }
        }
        Exact.attend(heads)
    }
}
