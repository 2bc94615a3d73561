//! Where a cache keeps the blocks of each KV head: known before anything is allocated.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::config::S2Config;
use crate::error::{Error, Result};
use crate::plan::BlockFormula;
use crate::shape::AttentionShape;

/// The last row of a block that every later query block reaches.
const FOREVER: i32 = i32::MAX;

/// Which page each block of each KV head gets, and which query block reaches it last.
///
/// A KV head keeps what some query head of its group can still reach: its strided columns and sinks for good, the
/// others as long as they are in the local window. Blocks that are never needed at one time share a page, so a KV head
/// has as many pages as it needs at most at once, and which ones does not depend on the data. All sequences are laid
/// out alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheLayout {
    config: S2Config,
    shape: AttentionShape,
    /// Blocks of a sequence.
    blocks: usize,
    /// `[kv_heads, blocks]`: page among those of the sequence; -1: none.
    homes: Vec<i32>,
    /// `[kv_heads, blocks]`: last query block that reaches a block; -1: none does.
    last_rows: Vec<i32>,
    /// Pages of a sequence.
    pages: usize,
}

impl CacheLayout {
    /// The layout for sequences of up to `shape.kv_len` keys. `shape.q_len` is the most queries of a call that attends
    /// over the cache: 1 for decoding token by token, the chunk for chunked prefill. More queries keep more of the
    /// window, `ceil((q_len - 1) / block_size)` blocks.
    ///
    /// # Errors
    /// [`Error::Value`] names a size or a setting outside its range; [`Error::Unsupported`] for a pattern that is not
    /// causal or not cache-efficient ([`S2Config::column_return`]); [`Error::OutOfMemory`].
    pub fn new(config: &S2Config, shape: &AttentionShape) -> Result<Self> {
        let unsupported = |what: String, hint: &str| Err(Error::Unsupported { what, hint: hint.into() });
        if !config.causal {
            return unsupported(
                "a cache for a pattern that is not causal".into(),
                "later keys are never dropped there",
            );
        }
        config.validate(shape, &config.mask())?;
        if let Some(back) = config.column_return(shape)? {
            return unsupported(format!("a cache for a pattern where {back}"), "absolute columns stay where they are");
        }
        if !shape.head_dim.is_multiple_of(8) {
            let (expected, got) = ("a multiple of 8".into(), shape.head_dim.to_string());
            return Err(Error::Value { what: "head_dim", expected, got });
        }
        let (formula, plan_heads) = config.formula(shape, None)?;
        let blocks = shape.kv_len.div_ceil(config.block_size);
        let slack = shape.q_len.saturating_sub(1).div_ceil(config.block_size);
        let (mut last_rows, mut homes) = (table(shape.kv_heads, blocks)?, table(shape.kv_heads, blocks)?);
        let mut pages = 0;
        for head in 0..shape.kv_heads {
            let group = head * shape.group()..(head + 1) * shape.group();
            let mut plans: Vec<usize> = group.map(|q_head| q_head * plan_heads / shape.q_heads).collect();
            plans.dedup();
            last_rows.extend((0..blocks).map(|block| last_row(&formula, &plans, block)));
            pages += assign(&last_rows[head * blocks..], slack, pages, &mut homes)?;
        }
        let all = shape.batch.saturating_mul(pages);
        if all > 1 << 30 {
            return Err(too_many_pages(all));
        }
        Ok(Self { config: config.clone(), shape: *shape, blocks, homes, last_rows, pages })
    }

    /// The pattern that the cache is for.
    pub fn config(&self) -> &S2Config {
        &self.config
    }

    /// What the layout was made for: `kv_len` is the most keys of a sequence, `q_len` the most queries of a call.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// Pages of a sequence, over all its KV heads; a page holds `block_size` keys and values of one KV head.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of a page: keys and values.
    pub fn page_bytes(&self) -> usize {
        4 * self.config.block_size * self.shape.head_dim
    }

    /// Bytes of a cache with this layout: the pages of all sequences, and [`CacheLayout::table_bytes`].
    pub fn bytes(&self) -> usize {
        (self.shape.batch * self.pages).saturating_mul(self.page_bytes()).saturating_add(self.table_bytes())
    }

    /// Bytes of what says where blocks are: the block table of all sequences, and what fills it.
    pub fn table_bytes(&self) -> usize {
        (self.shape.batch + 2).saturating_mul(self.homes.len()).saturating_mul(size_of::<i32>())
    }

    /// Bytes of K and V of all sequences at their longest, with every key kept.
    pub fn full_bytes(&self) -> usize {
        let AttentionShape { batch, kv_heads, kv_len, head_dim, .. } = self.shape;
        [batch, kv_heads, kv_len, head_dim].into_iter().fold(4, usize::saturating_mul)
    }

    /// Bytes of the blocks that the queries from position `len` on can reach in one sequence of `len` keys.
    ///
    /// # Errors
    /// [`Error::Value`] for more keys than the layout has.
    pub fn resident_bytes(&self, len: usize) -> Result<usize> {
        self.check_len(len)?;
        let row = (len / self.config.block_size) as i32;
        let filled = len.div_ceil(self.config.block_size);
        let heads = self.last_rows.chunks(self.blocks.max(1));
        let kept = heads.flat_map(|rows| &rows[..filled]).filter(|&&last| last >= row).count();
        Ok(kept * self.page_bytes())
    }

    pub(super) fn check_len(&self, len: usize) -> Result<()> {
        if len <= self.shape.kv_len {
            return Ok(());
        }
        let expected = format!("at most {}, what the cache was made for", self.shape.kv_len);
        Err(Error::Value { what: "kv_len", expected, got: len.to_string() })
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn homes(&self) -> &[i32] {
        &self.homes
    }

    pub(super) fn last_rows(&self) -> &[i32] {
        &self.last_rows
    }

    /// Blocks this far before the first new one of a call may be dropped by it; older ones were, or are kept for good.
    pub(super) fn reach(&self) -> usize {
        let calls = self.shape.q_len.div_ceil(self.config.block_size);
        self.config.local_blocks.saturating_add(calls).min(self.blocks)
    }
}

/// Room for a number for each block of each head.
fn table(heads: usize, blocks: usize) -> Result<Vec<i32>> {
    let out_of_memory = |bytes| Error::OutOfMemory { device: "the host".into(), bytes };
    let elements = heads.checked_mul(blocks).ok_or_else(|| out_of_memory(usize::MAX))?;
    let mut table = Vec::new();
    table.try_reserve_exact(elements).map_err(|_| out_of_memory(elements.saturating_mul(size_of::<i32>())))?;
    Ok(table)
}

/// The last query block that reaches a block from one of some plan heads of a cache-efficient causal formula.
fn last_row(formula: &BlockFormula, plan_heads: &[usize], block: usize) -> i32 {
    if plan_heads.iter().any(|&head| formula.keeps(head, block)) {
        return FOREVER;
    }
    match formula.local_blocks {
        0 => -1,
        local => (block + local - 1).min(FOREVER as usize - 1) as i32,
    }
}

/// Appends the pages of a head's blocks, from `first` on, and says how many there are. When block `i` comes, no query
/// before block `i - slack` is left to attend.
fn assign(last_rows: &[i32], slack: usize, first: usize, homes: &mut Vec<i32>) -> Result<usize> {
    let mut pages = 0;
    let mut free = BinaryHeap::new();
    // Blocks of the window leave in the order in which they came.
    let mut window: VecDeque<(usize, usize)> = VecDeque::new();
    for (block, &last) in last_rows.iter().enumerate() {
        while let Some(&(last, page)) = window.front()
            && last + slack < block
        {
            window.pop_front();
            free.push(Reverse(page));
        }
        if last < 0 {
            homes.push(-1);
            continue;
        }
        let page = free.pop().map_or(first + pages, |Reverse(page)| page);
        pages += usize::from(page == first + pages);
        if last != FOREVER {
            window.push_back((last as usize, page));
        }
        homes.push(i32::try_from(page).map_err(|_| too_many_pages(page))?);
    }
    Ok(pages)
}

fn too_many_pages(pages: usize) -> Error {
    Error::Value { what: "pages of the cache", expected: "at most 2^30".into(), got: pages.to_string() }
}
