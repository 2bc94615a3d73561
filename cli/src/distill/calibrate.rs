//! Thresholds for the trained gates: one for all layers and heads, for each density.

use super::checkpoint::State;
use super::examples::{Batch, Window};
use super::recipe::{Kind, Recipe};
use crate::failure::Result;
use crate::gates::{DENSITIES, Shares, softmax};

/// For each density the threshold that gives it on the rows that were learned from, with dense attention before.
pub fn thresholds(recipe: &Recipe, state: &State, windows: &[Window]) -> Result<Vec<(f64, f64)>> {
    let (block, prefill) = (recipe.block_size, recipe.kind == Kind::Prefill);
    let mut shares = Shares::default();
    for (layer, gate) in state.gates.iter().enumerate() {
        for window in windows {
            let logits = gate.logits(recipe, &Batch::new(recipe, &[window], layer)?)?;
            let mut logits = logits.flatten_all()?.to_vec1::<f32>()?;
            for (index, row) in logits.chunks_exact_mut(recipe.blocks()).enumerate() {
                let start = window.rows[index % window.rows.len()];
                let own = start / block;
                // A prompt's own block is in the softmax; that of a token which is decoded stands apart.
                softmax(&mut row[..own + usize::from(prefill)]);
                let (queries, own_pairs) = if prefill {
                    let queries = block.min(recipe.window - start);
                    (queries, queries * (queries + 1) / 2)
                } else {
                    (1, start % block + 1)
                };
                shares.add_row(&row[..own], queries * block, own_pairs);
            }
        }
    }
    Ok(DENSITIES.into_iter().zip(shares.thresholds(DENSITIES)).collect())
}
