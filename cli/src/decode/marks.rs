//! Which keys each token read: for the mask in the output, the counts, and the reference.

use super::request::{Planner, Request};
use lacuna::reference::Visibility;
use lacuna::{AttentionShape, BlockMask, Half};
use std::ops::Range;

/// The blocks that a gate picked for each decoded token, one selection a KV head.
pub struct GateMask {
    /// Keys of a block.
    pub block: usize,
    /// Sequences, KV heads, the most tokens that a sequence decodes, blocks.
    dims: [usize; 4],
    data: Vec<u8>,
}

impl GateMask {
    /// No block is marked.
    pub fn new<T: Half>(request: &Request<T>, block: usize) -> Self {
        let shape = &request.qkv.shape;
        let dims = [shape.batch, shape.kv_heads, request.most_decoded(), shape.kv_len.div_ceil(block)];
        Self { block, dims, data: vec![0; dims.iter().product()] }
    }

    /// The marks of the `r`-th decoded token.
    pub fn row_mut(&mut self, b: usize, h: usize, r: usize) -> &mut [u8] {
        let at = self.at(b, h, r);
        &mut self.data[at]
    }

    /// As [`row_mut`](Self::row_mut).
    pub fn row(&self, b: usize, h: usize, r: usize) -> &[u8] {
        &self.data[self.at(b, h, r)]
    }

    fn at(&self, b: usize, h: usize, r: usize) -> Range<usize> {
        let [_, heads, rows, blocks] = self.dims;
        let start = ((b * heads + h) * rows + r) * blocks;
        start..start + blocks
    }
}

/// The keys that each query of a request sees.
pub struct Seen<'a> {
    shape: AttentionShape,
    lens: &'a [usize],
    prompts: &'a [usize],
    blocks: Option<&'a BlockMask>,
    picked: Option<&'a GateMask>,
}

impl<'a> Seen<'a> {
    /// By the request's pattern, or by what a gate picked.
    pub fn new<T>(request: &'a Request<T>, picked: Option<&'a GateMask>) -> Self {
        let blocks = match &request.planner {
            Planner::Pattern(pattern) => pattern.blocks(),
            Planner::Gate(_) => None,
        };
        Self { shape: request.qkv.shape, lens: &request.lens, prompts: &request.prompts, blocks, picked }
    }

    /// (query, key) pairs, summed over sequences and query heads.
    pub fn pairs(&self) -> u64 {
        let shape = &self.shape;
        let mut pairs = 0;
        for b in 0..self.lens.len() {
            for h in 0..shape.q_heads {
                (0..shape.q_len).for_each(|t| self.runs(b, h, t, &mut |keys, _| pairs += keys.len() as u64));
            }
        }
        pairs
    }

    /// So many pairs as a part of those of dense attention; 0 where there are none.
    pub fn density(&self, pairs: u64) -> f64 {
        let rows = self.lens.iter().flat_map(|&len| (self.past()..len).map(|token| token as u64 + 1));
        match rows.sum::<u64>() * self.shape.q_heads as u64 {
            0 => 0.0,
            all => pairs as f64 / all as f64,
        }
    }

    /// The mask of the output with its sizes: of a pattern a row for each query block, of a gate one for each decoded
    /// token; a block is marked if a token reads keys of it.
    pub fn block_mask(&self) -> Option<([usize; 4], Vec<u8>)> {
        if let Some(picked) = self.picked {
            return Some((picked.dims, picked.data.clone()));
        }
        let blocks = self.blocks?;
        let dims = [self.shape.batch, blocks.heads, blocks.q_blocks, blocks.kv_blocks];
        let mut data = Vec::with_capacity(dims.iter().product());
        for (b, p) in (0..self.lens.len()).flat_map(|b| (0..dims[1]).map(move |p| (b, p))) {
            for r in 0..dims[2] {
                let queries = blocks.queries(&self.shape, r);
                let end = (queries.end + self.past()).min(self.lens[b]);
                let keys = if queries.start + self.past() < end { end } else { 0 };
                let reads = |j: usize| blocks.get(b, p, r, j) != 0 && j * blocks.block_k < keys;
                data.extend((0..dims[3]).map(|j| u8::from(reads(j))));
            }
        }
        Some((dims, data))
    }

    fn past(&self) -> usize {
        self.shape.kv_len - self.shape.q_len
    }
}

impl Visibility for Seen<'_> {
    fn runs(&self, b: usize, h: usize, t: usize, visit: &mut dyn FnMut(Range<usize>, f64)) {
        let shape = &self.shape;
        let token = t + self.past();
        if token >= self.lens[b] {
            return;
        }
        let mut in_blocks = |block: usize, marked: &dyn Fn(usize) -> bool| {
            for j in (0..=token / block).filter(|&j| marked(j)) {
                visit(j * block..((j + 1) * block).min(token + 1), 0.0);
            }
        };
        if let Some(picked) = self.picked.filter(|_| token >= self.prompts[b]) {
            let row = picked.row(b, h / shape.group(), token - self.prompts[b]);
            in_blocks(picked.block, &|j| row[j] != 0);
        } else if let Some(blocks) = self.blocks {
            let (p, r) = (h * blocks.heads / shape.q_heads, (t + blocks.row_shift) / blocks.block_q);
            in_blocks(blocks.block_k, &|j| blocks.get(b, p, r, j) != 0);
        } else {
            visit(0..token + 1, 0.0);
        }
    }
}
