//! Rotary embedding of gate vectors, as tables.

use crate::device::Stream;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The rotary embedding of a gate (rotate-half over all of its dimensions): dimensions `i` and `i + gate_dim / 2` turn
/// by `position * frequencies[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    frequencies: Vec<f64>,
    factor: f64,
}

impl Rope {
    /// `theta^(-2i / gate_dim)`, the usual frequencies.
    pub fn new(theta: f64, gate_dim: usize) -> Self {
        let frequency = |i: usize| theta.powf(-2.0 * i as f64 / gate_dim as f64);
        Self { frequencies: (0..gate_dim / 2).map(frequency).collect(), factor: 1.0 }
    }

    /// Frequencies of a base model with scaling (Llama 3, YaRN), in radians a token; `factor` multiplies cosines and
    /// sines (the attention factor of YaRN, else 1).
    pub fn from_frequencies(frequencies: Vec<f64>, factor: f64) -> Self {
        Self { frequencies, factor }
    }

    pub(super) fn check(&self, gate_dim: usize) -> Result<()> {
        if 2 * self.frequencies.len() != gate_dim {
            return Err(Error::Shape {
                what: "rope",
                expected: format!("{} frequencies, one for each pair of gate dimensions", gate_dim / 2),
                got: self.frequencies.len().to_string(),
            });
        }
        match self.frequencies.iter().chain([&self.factor]).find(|x| !x.is_finite()) {
            Some(x) => Err(Error::Value { what: "rope", expected: "finite".into(), got: x.to_string() }),
            None => Ok(()),
        }
    }

    /// Cosines, then sines, at positions `0, step, 2 * step, ..`, computed in f64: a row for each of `rows` positions.
    fn rows(&self, rows: usize, step: usize, factor: f64) -> Vec<f32> {
        let row = |r: usize| {
            let angle = move |frequency: &f64| (r * step) as f64 * frequency;
            let cosines = self.frequencies.iter().map(move |f| (factor * angle(f).cos()) as f32);
            cosines.chain(self.frequencies.iter().map(move |f| (factor * angle(f).sin()) as f32))
        };
        (0..rows).flat_map(row).collect()
    }
}

/// The tables of a rotation on a device: a position is a block's start and an offset in the block, and the kernel adds
/// the two angles.
#[derive(Debug)]
pub(super) struct RopeTables {
    /// `[blocks, gate_dim]`
    pub(super) starts: Tensor<f32>,
    /// `[block_size, gate_dim]`
    pub(super) offsets: Tensor<f32>,
}

impl RopeTables {
    pub(super) fn new(stream: &Stream, rope: &Rope, block_size: usize, blocks: usize) -> Result<Self> {
        let table = |rows, step, factor| {
            let values = rope.rows(rows, step, factor);
            Tensor::from_slice(stream, &values, [1, 1, rows, 2 * rope.frequencies.len()])
        };
        Ok(Self { starts: table(blocks, block_size, rope.factor)?, offsets: table(block_size, 1, 1.0)? })
    }
}
