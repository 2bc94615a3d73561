//! Which keys each token read: for the mask in the output, the counts, and the reference.

use super::request::{Planner, Request};
use lacuna::reference::Visibility;
use lacuna::{AttentionShape, BlockMask};
use std::ops::Range;

/// The blocks of decoded tokens, one selection a KV head: `[batch, kv_heads, most decoded, blocks]`.
pub struct DecodeMask {
    /// Keys of a block.
    pub block: usize,
    /// Sizes.
    pub dims: [usize; 4],
    /// 0 or 1.
    pub data: Vec<u8>,
}

impl DecodeMask {
    /// No block is marked.
    pub fn new<T: lacuna::Half>(request: &Request<T>, block: usize) -> Self {
        let shape = &request.qkv.shape;
        let dims = [shape.batch, shape.kv_heads, request.most_decoded(), shape.kv_len.div_ceil(block)];
        Self { block, dims, data: vec![0; dims.iter().product()] }
    }

    /// The marks of the `r`-th decoded token.
    pub fn row_mut(&mut self, b: usize, h: usize, r: usize) -> &mut [u8] {
        let [_, heads, rows, blocks] = self.dims;
        &mut self.data[((b * heads + h) * rows + r) * blocks..][..blocks]
    }

    /// As [`row_mut`](Self::row_mut).
    pub fn row(&self, b: usize, h: usize, r: usize) -> &[u8] {
        let [_, heads, rows, blocks] = self.dims;
        &self.data[((b * heads + h) * rows + r) * blocks..][..blocks]
    }
}

/// The keys that each query of a request sees.
pub struct Seen<'a> {
    shape: AttentionShape,
    lens: &'a [usize],
    prompts: &'a [usize],
    blocks: Option<&'a BlockMask>,
    mask: Option<&'a DecodeMask>,
}

impl<'a> Seen<'a> {
    /// By the request's pattern, or by what a gate picked.
    pub fn new<T>(request: &'a Request<T>, mask: Option<&'a DecodeMask>) -> Self {
        let blocks = match &request.planner {
            Planner::Pattern(pattern) => pattern.blocks(),
            Planner::Seer(_) => None,
        };
        Self { shape: request.qkv.shape, lens: &request.lens, prompts: &request.prompts, blocks, mask }
    }

    /// (query, key) pairs, summed over sequences and query heads.
    pub fn pairs(&self) -> u64 {
        let shape = &self.shape;
        let mut pairs = 0;
        for b in 0..shape.batch {
            for h in 0..shape.q_heads {
                (0..shape.q_len).for_each(|t| self.runs(b, h, t, &mut |keys, _| pairs += keys.len() as u64));
            }
        }
        pairs
    }

    /// The pairs of dense attention.
    pub fn dense_pairs(&self) -> u64 {
        let past = self.shape.kv_len - self.shape.q_len;
        let rows = self.lens.iter().flat_map(|&len| (past..len).map(|token| token as u64 + 1));
        rows.sum::<u64>() * self.shape.q_heads as u64
    }
}

impl Visibility for Seen<'_> {
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64)) {
        let shape = &self.shape;
        let token = t + shape.kv_len - shape.q_len;
        if token >= self.lens[b] {
            return;
        }
        let mut in_blocks = |block: usize, marked: &dyn Fn(usize) -> bool| {
            for j in (0..=token / block).filter(|&j| marked(j)) {
                visit(j * block..((j + 1) * block).min(token + 1), 0.0);
            }
        };
        if let Some(mask) = self.mask.filter(|_| token >= self.prompts[b]) {
            let row = mask.row(b, h / shape.group(), token - self.prompts[b]);
            in_blocks(mask.block, &|j| row[j] != 0);
        } else if let Some(blocks) = self.blocks {
            let (p, r) = (h * blocks.heads / shape.q_heads, (t + blocks.row_shift) / blocks.block_q);
            in_blocks(blocks.block_k, &|j| blocks.get(b, p, r, j) != 0);
        } else {
            visit(0..token + 1, 0.0);
        }
    }
}
