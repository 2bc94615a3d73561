//! The cache of gate vectors of K, for sequences that grow: chunks of a prompt, and decoding.
//!
//! SeerAttention-R keeps one gate vector a block and the raw keys of the open block. Here the open block is the running
//! maximum, minimum and sum of its tokens, which gives the same bits as pooling the block whole: sums run in token
//! order either way.

use super::config::Pools;
use super::gate::{check_dims, check_workspace};
use super::scratch::Scratch;
use super::stages::{Projection, pool};
use crate::device::{Buffer, Stream, ordered};
use crate::error::{Error, Result};
use crate::kernels::bindings as abi;
use crate::profile::range;
use crate::tensor::{Half, Tensor, TensorView};

/// What a gate says about its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Of the vectors.
    pub(super) heads: usize,
    pub(super) gate_dim: usize,
    pub(super) block_size: usize,
    pub(super) pools: Pools,
    pub(super) max_len: usize,
}

/// Which positions the tokens of an [`append`](super::SeerGate::append) have.
#[derive(Debug, Clone, Copy)]
pub enum Span<'a> {
    /// Every sequence goes on at this position with all tokens of the tensor.
    From(usize),
    /// Sequence `b` goes on at position `starts[b]` with its first `lens[b]` tokens (`[1, 1, 1, batch]` each). Both are
    /// data: lengths are cut to the tensor's, and what does not fit the cache is left out.
    Ragged {
        /// Tokens of each sequence before the call.
        starts: &'a Tensor<i32>,
        /// Tokens of each sequence in the call.
        lens: &'a Tensor<i32>,
    },
}

/// Gate vectors of the key blocks of a batch of sequences, and the state of each sequence's open block.
///
/// The vector of a block that is not complete covers the tokens appended so far. Appending the tokens of a sequence in
/// any pieces, in order, gives the bits of appending them at once.
#[derive(Debug)]
pub struct GateCache {
    sizes: Sizes,
    batch: usize,
    blocks: usize,
    /// `[batch, heads, blocks, gate_dim]`
    vectors: Tensor<f32>,
    /// `[batch, kv_heads, 3, head_dim]`: maximum, minimum, sum.
    open: Tensor<f32>,
}

impl GateCache {
    pub(super) fn with_sizes(stream: &Stream, sizes: Sizes, batch: usize, max_len: usize) -> Result<Self> {
        if max_len > sizes.max_len {
            let expected = format!("at most max_len of the gate ({})", sizes.max_len);
            return Err(Error::Value { what: "max_len", expected, got: max_len.to_string() });
        }
        if batch > 1 << 30 {
            return Err(Error::Value { what: "batch", expected: "at most 2^30".into(), got: batch.to_string() });
        }
        let blocks = max_len.div_ceil(sizes.block_size);
        // Zeros: blocks that were never appended are data of a kernel that is told of more keys than there are.
        let vectors = Tensor::zeros(stream, [batch, sizes.heads, blocks, sizes.gate_dim])?;
        let open = Tensor::zeros(stream, [batch, sizes.kv_heads, 3, sizes.head_dim])?;
        Ok(Self { sizes, batch, blocks, vectors, open })
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Tokens that a sequence may have.
    pub fn max_len(&self) -> usize {
        self.blocks * self.sizes.block_size
    }

    /// Device memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        4 * (self.vectors.layout().len() + self.open.layout().len())
    }

    /// Bytes of workspace that appending up to `tokens` a sequence needs.
    pub fn workspace_bytes(&self, tokens: usize) -> usize {
        self.scratch(tokens).1.bytes()
    }

    /// Rows of a call with `tokens`, wherever it starts, and the room for their features.
    fn scratch(&self, tokens: usize) -> (usize, Scratch) {
        let rows = if tokens == 0 { 0 } else { (tokens + 2 * self.sizes.block_size - 2) / self.sizes.block_size };
        let mut scratch = Scratch::default();
        scratch.take(&[self.batch, self.sizes.kv_heads, rows, self.sizes.head_dim * self.sizes.pools.count()]);
        (rows, scratch)
    }

    /// Pools and projects the tokens `gate_k [batch, kv_heads, tokens, head_dim]`.
    pub(super) fn append_with<T: Half>(
        &mut self,
        stream: &Stream,
        projection: &Projection<'_, T>,
        gate_k: TensorView<'_, T>,
        span: Span<'_>,
        workspace: &mut Buffer,
    ) -> Result<()> {
        let _range = range!("seer.append", tokens = gate_k.dims()[2]);
        let sizes = self.sizes;
        let [_, _, tokens, _] = gate_k.dims();
        check_dims("gate_k", gate_k.dims(), [self.batch, sizes.kv_heads, tokens, sizes.head_dim])?;
        let (rows, scratch) = self.scratch(tokens);
        check_workspace(workspace, scratch.bytes())?;
        let mut to = abi::lacuna_gate_span {
            batch: self.batch as i32,
            len: tokens as i32,
            block: sizes.block_size as i32,
            ..Default::default()
        };
        let mut lists = [stream; 2];
        match span {
            Span::From(start) => {
                if start.saturating_add(tokens) > self.max_len() {
                    let expected = format!("start + tokens at most max_len of the cache ({})", self.max_len());
                    return Err(Error::Value { what: "span", expected, got: format!("{start} + {tokens}") });
                }
                to.start = start as i32;
            }
            Span::Ragged { starts, lens } => {
                if tokens > self.max_len() {
                    let expected = format!("at most max_len of the cache ({})", self.max_len());
                    return Err(Error::Value { what: "tokens", expected, got: tokens.to_string() });
                }
                check_dims("starts", starts.dims(), [1, 1, 1, self.batch])?;
                check_dims("lens", lens.dims(), [1, 1, 1, self.batch])?;
                lists = [starts.stream(), lens.stream()];
                (to.starts, to.lens) = (starts.view().as_ptr(), lens.view().as_ptr());
            }
        }
        let features: *mut f32 = workspace.as_mut_ptr().cast();
        let open = self.open.view_mut().as_mut_ptr();
        let vectors = self.vectors.view_mut().as_mut_ptr();
        let [weight, norm, rope] = projection.owners(stream);
        let owners =
            [gate_k.stream(), lists[0], lists[1], self.vectors.stream(), workspace.stream(), weight, norm, rope];
        let names = ["gate_k", "starts", "lens", "gate cache", "workspace", "w_k", "k_norm", "rope"];
        for (what, owner) in names.into_iter().zip(owners) {
            stream.device().check_memory(what, owner.device())?;
        }
        if tokens == 0 || self.batch == 0 {
            return Ok(());
        }
        ordered(stream, &owners, || {
            // SAFETY: the workspace holds the features of `rows` blocks, cache and workspace are borrowed exclusively,
            // and all sizes are those that the cache was made with.
            unsafe {
                pool(stream, to, gate_k, sizes.pools.bits(), rows, features, open)?;
                projection.run(stream, to, rows, features, (vectors, self.blocks, true))
            }
        })
    }

    /// Checks that the cache was made for a gate with these sizes, and for sequences like those of a call.
    pub(super) fn check(&self, gate: Sizes, batch: usize, kv_len: usize) -> Result<()> {
        // Positions that the gate knows do not matter: without tables there is no rotation behind them.
        let got = Sizes { max_len: gate.max_len, ..self.sizes };
        if got != gate {
            let (expected, got) = (format!("made for {gate:?}"), format!("one for {got:?}"));
            return Err(Error::Shape { what: "gate cache", expected, got });
        }
        if self.batch != batch {
            let (expected, got) = (format!("{batch} sequences"), self.batch.to_string());
            return Err(Error::Shape { what: "gate cache", expected, got });
        }
        if kv_len > self.max_len() {
            let expected = format!("at most max_len of the cache ({})", self.max_len());
            return Err(Error::Value { what: "kv_len", expected, got: kv_len.to_string() });
        }
        Ok(())
    }

    /// The gate vectors `[batch, heads, blocks, gate_dim]`, of query or KV heads as the gate's keys have them; zeros
    /// where no token came.
    pub fn vectors(&self) -> &Tensor<f32> {
        &self.vectors
    }

    /// Blocks that a sequence may have.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn stream(&self) -> &Stream {
        self.vectors.stream()
    }
}
