//! One hash of the queries and keys of a part: orders, and where the keys of each query begin.

use crate::methods::HyperConfig;
use crate::shape::AttentionShape;
use std::ops::Range;

/// A round of hashing.
#[derive(Debug, Clone)]
pub struct Round {
    queries: Range<usize>,
    keys: Range<usize>,
    /// Keys of a block or window.
    block_size: usize,
    /// Queries of a block.
    query_block: usize,
    /// `[batch * q_heads][query blocks]`: where the keys of each block begin in the sorted order.
    starts: Vec<Vec<usize>>,
    /// `[batch * q_heads][queries]`: where each query, counted from the part's first, stands in the sorted order.
    query_places: Vec<Vec<usize>>,
    /// `[batch * kv_heads][keys]`: the keys of the part in sorted order.
    order: Vec<Vec<usize>>,
    /// `[batch * kv_heads][keys]`: as `query_places`.
    key_places: Vec<Vec<usize>>,
}

impl Round {
    /// `ranks`: of the round, of all queries and all keys.
    pub fn new(
        config: &HyperConfig,
        shape: &AttentionShape,
        [q_ranks, k_ranks]: [&[u16]; 2],
        queries: &Range<usize>,
        keys: &Range<usize>,
    ) -> Self {
        let order: Vec<Vec<usize>> = k_ranks.chunks(shape.kv_len).map(|ranks| sorted(ranks, keys)).collect();
        let query_block = queries.len().div_ceil(keys.len().div_ceil(config.block_size));
        let starts = |(head, of_queries): (usize, &[u16])| -> Vec<usize> {
            let key_head = head / shape.q_heads * shape.kv_heads + head % shape.q_heads / shape.group();
            let of_keys = &k_ranks[key_head * shape.kv_len..][..shape.kv_len];
            let aligned = |block: &[usize]| {
                let [first, last] = [block[0], block[block.len() - 1]].map(|row| of_queries[row]);
                let low = order[key_head].partition_point(|&row| of_keys[row] < first);
                let high = order[key_head].partition_point(|&row| of_keys[row] <= last);
                (low + high).saturating_sub(config.block_size) / 2
            };
            let most = keys.len().saturating_sub(config.block_size);
            let order = sorted(of_queries, queries);
            let query_blocks = order.chunks(query_block);
            if config.align_windows {
                query_blocks.map(|block| aligned(block).min(most)).collect()
            } else {
                (0..query_blocks.len()).map(|number| number * config.block_size).collect()
            }
        };
        Self {
            queries: queries.clone(),
            keys: keys.clone(),
            block_size: config.block_size,
            query_block,
            starts: q_ranks.chunks(shape.q_len).enumerate().map(starts).collect(),
            query_places: q_ranks.chunks(shape.q_len).map(|ranks| places(&sorted(ranks, queries), queries)).collect(),
            key_places: order.iter().map(|order| places(order, keys)).collect(),
            order,
        }
    }

    /// The places of the keys that a query has.
    pub fn window(&self, head: usize, query: usize) -> Range<usize> {
        let block = self.query_places[head][query - self.queries.start] / self.query_block;
        let first = self.starts[head][block];
        first..self.keys.len().min(first + self.block_size)
    }

    /// The key at a place.
    pub fn key_at(&self, key_head: usize, place: usize) -> usize {
        self.order[key_head][place]
    }

    /// Its place.
    pub fn place_of(&self, key_head: usize, key: usize) -> usize {
        self.key_places[key_head][key - self.keys.start]
    }
}

fn sorted(ranks: &[u16], range: &Range<usize>) -> Vec<usize> {
    let mut rows: Vec<usize> = range.clone().collect();
    rows.sort_by_key(|&row| ranks[row]); // stable
    rows
}

fn places(order: &[usize], range: &Range<usize>) -> Vec<usize> {
    let mut places = vec![0; range.len()];
    order.iter().enumerate().for_each(|(at, &row)| places[row - range.start] = at);
    places
}
