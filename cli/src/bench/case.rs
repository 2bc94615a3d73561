//! The grid: which calls are measured.

use crate::config::Method;
use crate::failure::{Result, request};
use lacuna::{AttentionShape, DType};
use std::fmt;

/// What a call computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pass {
    /// Attention of a prompt.
    Forward,
    /// Its gradients.
    Backward,
    /// Attention of one new token a sequence.
    Decode,
}

impl Pass {
    /// In the order of the table.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Backward, Self::Decode];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Decode => "decode",
        }
    }

    /// Useful operations for each visited pair and element of a head: two matrix products forward, five backward.
    pub fn operations(self) -> f64 {
        match self {
            Self::Forward | Self::Decode => 4.0,
            Self::Backward => 10.0,
        }
    }
}

/// Lists of values, each with each.
pub struct Grid {
    pub methods: Vec<Method>,
    pub passes: Vec<Pass>,
    pub head_dims: Vec<usize>,
    pub lens: Vec<usize>,
    /// Of the methods that can be asked for one.
    pub densities: Vec<f64>,
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Settings of the methods for short sequences.
    pub small: bool,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub method: Method,
    pub pass: Pass,
    pub shape: AttentionShape,
    /// What was asked for, where the method can be asked.
    pub density: Option<f64>,
    /// Settings for short sequences.
    pub small: bool,
}

impl Grid {
    /// Every case that there is, forward first.
    pub fn cases(&self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for &pass in &self.passes {
            for (head_dim, len) in self.head_dims.iter().flat_map(|&d| self.lens.iter().map(move |&n| (d, n))) {
                let shape = AttentionShape {
                    batch: self.batch,
                    q_heads: self.heads,
                    kv_heads: self.kv_heads,
                    q_len: if pass == Pass::Decode { 1 } else { len },
                    kv_len: len,
                    head_dim,
                    dtype: DType::BF16,
                };
                shape.validate()?;
                if shape.batch == 0 || len == 0 {
                    return request!("bench: --batch and --len must be at least 1");
                }
                for &method in self.methods.iter().filter(|&&method| has(method, pass)) {
                    let case = Case { method, pass, shape, density: None, small: self.small };
                    match method {
                        Method::Blocks | Method::Seer => {
                            cases.extend(self.densities.iter().map(|&d| Case { density: Some(d), ..case }));
                        }
                        Method::Dense | Method::S2 | Method::Hyper => cases.push(case),
                    }
                }
            }
        }
        if cases.is_empty() {
            return request!("bench: nothing to measure: hyper has no decode");
        }
        Ok(cases)
    }
}

/// Whether a method has a pass that is measured.
fn has(method: Method, pass: Pass) -> bool {
    method != Method::Hyper || pass != Pass::Decode
}

impl Case {
    /// Tokens of a sequence.
    pub fn len(&self) -> usize {
        self.shape.kv_len
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, pass) = (self.method.name(), self.pass.name());
        write!(f, "{method} {pass}, head_dim {}, {} tokens", self.shape.head_dim, self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        Grid {
            methods: vec![Method::Dense, Method::Blocks, Method::Hyper],
            passes: Pass::ALL.to_vec(),
            head_dims: vec![64, 128],
            lens: vec![256],
            densities: vec![0.5, 0.1],
            batch: 1,
            heads: 4,
            kv_heads: 2,
            small: true,
        }
    }

    #[test]
    fn every_combination_that_there_is() {
        let cases = grid().cases().unwrap();
        // Dense and two densities of blocks in each pass, hyper in two; each for two head dims.
        assert_eq!(cases.len(), 2 * (3 * 3 + 2));
        assert!(cases.iter().all(|case| (case.shape.q_len == 1) == (case.pass == Pass::Decode)));
    }

    #[test]
    fn grids_without_a_case_are_refused() {
        let only = Grid { methods: vec![Method::Hyper], passes: vec![Pass::Decode], ..grid() };
        assert!(only.cases().is_err());
        assert!(Grid { lens: vec![0], ..grid() }.cases().is_err());
        assert!(Grid { kv_heads: 3, ..grid() }.cases().is_err());
    }
}
