//! Sizes of the blocks that plans are made of.

use crate::error::{Error, Result};

/// Query rows and keys of a block, each 16, 32, 64 or 128. Independent of the tiles that kernels work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockSize {
    /// Query rows.
    pub q: usize,
    /// Keys.
    pub k: usize,
}

impl BlockSize {
    /// As many query rows as keys.
    pub const fn square(size: usize) -> Self {
        Self { q: size, k: size }
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Value`] names the side that is not 16, 32, 64 or 128.
    pub fn validate(&self) -> Result<()> {
        for (what, size) in [("block_q", self.q), ("block_k", self.k)] {
            if ![16, 32, 64, 128].contains(&size) {
                return Err(Error::Value { what, expected: "16, 32, 64 or 128".into(), got: size.to_string() });
            }
        }
        Ok(())
    }
}
