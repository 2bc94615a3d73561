//! The model's attention as an operation with a gradient.

use crate::failure::Result;
use crate::model::{Attention, Heads};
use candle_core::{DType, Tensor};
use lacuna::S2Config;

/// What attention a model is trained with.
pub struct Trained {
    /// For tables and pictures.
    pub name: &'static str,
    /// Of the first layers.
    dense: lacuna_candle::Attention,
    /// Of the others.
    rest: lacuna_candle::Attention,
    dense_layers: usize,
}

impl Trained {
    /// S2 behind some dense layers.
    pub fn s2(config: S2Config, dense_layers: usize) -> Self {
        let (dense, rest) = (lacuna_candle::Attention::causal(), lacuna_candle::Attention::s2(config));
        Self { name: "S2-Attention", dense, rest, dense_layers }
    }

    /// Dense in every layer.
    pub fn dense() -> Self {
        let dense = lacuna_candle::Attention::causal;
        Self { name: "dense", dense: dense(), rest: dense(), dense_layers: 0 }
    }
}

impl Attention for &Trained {
    fn attend(&mut self, heads: &Heads<'_>) -> Result<Tensor> {
        // `[heads, n, dim]` to `[1, n, heads, dim]`: the rounding to bf16 is the only copy.
        let given = |x: &Tensor| x.to_dtype(DType::BF16)?.transpose(0, 1)?.unsqueeze(0);
        let attention = if heads.layer < self.dense_layers { &self.dense } else { &self.rest };
        let out = attention.apply(&given(heads.q)?, &given(heads.k)?, &given(heads.v)?)?;
        Ok(out.squeeze(0)?.transpose(0, 1)?.to_dtype(DType::F32)?)
    }
}
