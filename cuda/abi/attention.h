// Attention: shapes, block plans, schedules, forward, decode, caches.
#ifndef LACUNA_ABI_ATTENTION_H
#define LACUNA_ABI_ATTENTION_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LACUNA_MAX_SPLITS 64

typedef enum lacuna_status {
  LACUNA_OK = 0,
  LACUNA_INVALID_ARGUMENT = 1,  // a parameter breaks its stated range
  LACUNA_UNSUPPORTED = 2,       // a valid request that no kernel of this family serves yet
  LACUNA_NO_KERNEL = 3,         // nothing was built for this device
  LACUNA_LAUNCH_FAILED = 4,     // the CUDA runtime refused
  LACUNA_SIMT_ERROR = 5         // the SIMT host found an error in a kernel (race, fault, deadlock, limit)
} lacuna_status;

typedef enum lacuna_dtype { LACUNA_F16 = 0, LACUNA_BF16 = 1 } lacuna_dtype;

// A family of kernels: the machine instructions they are made of.
typedef enum lacuna_family {
  LACUNA_FAMILY_AUTO = 0,       // the fastest that serves the request on the device
  LACUNA_FAMILY_PORTABLE = 80,  // mma.sync and cp.async: Ampere and newer
  LACUNA_FAMILY_HOPPER = 90     // wgmma and TMA: Hopper only
} lacuna_family;

typedef enum lacuna_plan_kind { LACUNA_PLAN_FORMULA = 0, LACUNA_PLAN_LISTS = 1 } lacuna_plan_kind;

// Strides in elements.
typedef struct lacuna_strides {
  int64_t batch;
  int64_t head;
  int64_t seq;
} lacuna_strides;

typedef struct lacuna_shape {
  int32_t batch;
  int32_t q_heads;  // a multiple of kv_heads
  int32_t kv_heads;
  int32_t q_len;   // queries a sequence; the longest one when cu_seqlens_q is given
  int32_t kv_len;  // keys a sequence; the longest one when cu_seqlens_k is given
  int32_t head_dim;
  int32_t dtype;                // lacuna_dtype of q, k, v, out
  int32_t q_rows;               // rows of q, out and lse where cu_seqlens_q is given
  const int32_t* cu_seqlens_q;  // [batch + 1] or null. Queries are packed: those of sequence b are the rows
                                // [cu_seqlens_q[b], cu_seqlens_q[b + 1]), and strides of the batch do not matter. What
                                // contradicts q_rows and q_len is cut
  const int32_t* cu_seqlens_k;  // [batch + 1] or null: the same for k and v (not with block_table or kv_lens)
  const int32_t* block_table;   // [batch, kv_heads or 1, ceil(kv_len / page_size)] paged K and V, or null
  int64_t block_table_batch_stride;
  int64_t block_table_head_stride;  // 0: one table for all heads
  int32_t page_size;                // tokens, a multiple of 16
  int32_t pages;                    // pages of k and v; keys of a page id outside [0, pages) are attended by nobody
  const int32_t* kv_lens;           // [batch] keys of each sequence, cut to [0, kv_len], or null: kv_len for all.
                                    // Queries stand at the end of their own sequence's keys
  int32_t k_rows;                   // rows of k and v where cu_seqlens_k is given
  int32_t padding;
} lacuna_shape;

// Which (query, key) pairs are visible, token-exact. Query t sits at position p = t + kv_len - q_len.
typedef struct lacuna_mask {
  int32_t causal;        // 1: key <= p (needs q_len <= kv_len)
  int32_t window_left;   // keys >= p - window_left; -1: no bound
  int32_t window_right;  // keys <= p + window_right; -1: no bound
} lacuna_mask;

// Block (i, j) of plan head h is attended iff j < sink_blocks, or it lies in the window (j <= i and i - j <
// local_blocks, or j > i and j - i <= local_after), or (x + h / heads_per_step * head_step + head_offset) %
// vertical_stride == 0, or h >= dense_from; in any case only blocks that hold a key the token mask shows to a row of i.
// x is j, or with `relative` the distance from the window: max(0, i - j - local_blocks + 1) + max(0, j - i -
// local_after).
typedef struct lacuna_block_formula {
  int32_t local_blocks;     // >= 0, counts the diagonal block
  int32_t vertical_stride;  // >= 1; 1: every block
  int32_t head_step;        // in [0, vertical_stride)
  int32_t head_offset;      // in [0, vertical_stride)
  int32_t heads_per_step;   // >= 1: plan heads that share one shift (h / heads_per_step slides)
  int32_t dense_from;       // plan heads from this one on attend to every block
  int32_t sink_blocks;      // >= 0
  int32_t local_after;      // blocks of the window after the diagonal one; -1, with local_blocks 0: the diagonal block
                            // is at distance 2, the others one further than with 0
  int32_t relative;         // 0: columns at multiples of the stride; 1: at such distances from the window
} lacuna_block_formula;

// For each plan row (sequence b, plan head p, query block i) the KV blocks to attend. Query head h uses plan head
// h * heads / q_heads. Row number: (plan_batch == 1 ? 0 : b) * heads * q_blocks + p * q_blocks + i.
typedef struct lacuna_block_plan {
  int32_t kind;        // lacuna_plan_kind
  int32_t plan_batch;  // 1 (shared by the batch) or shape.batch
  int32_t heads;       // 1, kv_heads or q_heads
  int32_t block_q;     // 16, 32, 64 or 128 query rows
  int32_t block_k;     // 16, 32, 64 or 128 keys
  int32_t row_shift;   // query block 0 starts row_shift rows before the first query: 0, or
                       // (kv_len - q_len) % block_q when rows count absolute positions
  int32_t first_row;   // absolute index of query block 0 (a formula's i = first_row + row); may be negative
  int32_t capacity;    // lists: elements of indices
  int32_t absolute;    // 1: query blocks count absolute positions. With lengths on the device, row_shift and first_row
                       // of a formula then follow from those of each sequence, and those here do not matter
  int32_t reserved;
  const int32_t* row_offsets;  // lists: [rows + 1]
  const int32_t* indices;      // lists: [capacity] KV block ids, ascending in a row; out-of-range ids are skipped
  lacuna_block_formula formula;
} lacuna_block_plan;

// A plan arranged for one kernel tile, made on the device by schedule_build. One schedule row serves tile_q query
// rows; an entry is `unit index << 8 | row-group mask`, bit g of the mask for rows [g, g + 1) * tile_q / groups.
typedef struct lacuna_schedule {
  int32_t tile_q;     // query rows of a schedule row: at least the schedule_q of the kernel's config, and block_q
  int32_t unit;       // keys of an entry: block_k
  int32_t rows;       // plan_batch * heads * ceil((q_len + row_shift) / tile_q)
  int32_t capacity;   // elements of entries
  int32_t* offsets;   // [rows + 1]
  uint32_t* entries;  // [capacity]
  int32_t* order;     // [rows] schedule rows, longest first
  int32_t* counts;    // [rows] scratch
  int32_t* overflow;  // [1] entries that did not fit
} lacuna_schedule;

typedef struct lacuna_forward_params {
  lacuna_shape shape;
  lacuna_mask mask;
  lacuna_block_plan plan;
  lacuna_schedule schedule;  // lists only
  const void* q;             // [batch, q_heads, q_len, head_dim]
  const void* k;             // [batch, kv_heads, kv_len, head_dim]; paged: [pages, kv_heads, page_size, head_dim]
  const void* v;             // as k
  void* out;                 // [batch, q_heads, q_len, head_dim]
  float* lse;                // [batch, q_heads, q_len] natural log, or null
  const float* sink;         // [q_heads] logit that joins every row's denominator, or null
  lacuna_strides q_stride;
  lacuna_strides k_stride;
  lacuna_strides v_stride;
  lacuna_strides out_stride;
  lacuna_strides lse_stride;
  float scale;         // multiplies q . k
  float softcap;       // logits become softcap * tanh(logit / softcap); 0: off
  int32_t splits;      // 1: final rows to out and lse; > 1: partial rows to the two buffers below
  int32_t split_keys;  // decode: keys of visited blocks that a split has at least, a multiple of 16
  int32_t family;      // lacuna_family
  int32_t reserved;
  float* partial_out;  // [splits, batch, q_heads, q_len, head_dim] contiguous
  float* partial_lse;  // [splits, batch, q_heads, q_len] contiguous
  int32_t* counter;    // [1] scratch of persistent kernels, any contents, not shared with a call that may run at the
                       // same time; null: one block a tile
} lacuna_forward_params;

// out = sum_s softmax_s(lse_s) * out_s, lse = logsumexp_s(lse_s), in the order s = 0, 1, ...
typedef struct lacuna_merge_params {
  int32_t splits;
  int32_t batch;
  int32_t heads;
  int32_t len;
  int32_t head_dim;
  int32_t out_dtype;         // lacuna_dtype
  const float* partial_out;  // [splits, batch, heads, len, head_dim] contiguous
  const float* partial_lse;  // [splits, batch, heads, len] contiguous
  void* out;                 // [batch, heads, len, head_dim]
  float* lse;                // [batch, heads, len], or null
  lacuna_strides out_stride;
  lacuna_strides lse_stride;
} lacuna_merge_params;

typedef struct lacuna_schedule_params {
  lacuna_shape shape;
  lacuna_mask mask;
  lacuna_block_plan plan;    // kind LISTS
  lacuna_schedule schedule;  // outputs
  int32_t ragged;            // 1: for calls with lengths on the device, which see other keys than the shape says
  int32_t reserved;
} lacuna_schedule_params;

// Lists from a dense mask: count, scan, fill. Rows that do not fit the capacity are cut and counted in overflow.
typedef struct lacuna_mask_to_lists_params {
  int32_t rows;  // plan_batch * heads * q_blocks
  int32_t kv_blocks;
  const uint8_t* mask;  // [rows, kv_blocks] contiguous, non-zero: attend
  int32_t capacity;
  int32_t reserved;
  int32_t* row_offsets;  // [rows + 1]
  int32_t* indices;      // [capacity]
  int32_t* counts;       // [rows] scratch
  int32_t* overflow;     // [1]
} lacuna_mask_to_lists_params;

// The blocks a plan attends, as the forward kernel sees them (a causal call: only blocks with a visible pair).
typedef struct lacuna_plan_to_mask_params {
  lacuna_shape shape;
  lacuna_mask mask;
  lacuna_block_plan plan;
  uint8_t* block_mask;  // [plan_batch, heads, q_blocks, kv_blocks] contiguous, 0 or 1
} lacuna_plan_to_mask_params;

// Page lists of sequences of different lengths (FlashInfer's paged KV: kv_indptr, kv_indices, kv_last_page_len) to a
// block table with one row for each sequence, and to lengths. What contradicts indices_len, max_pages or kv_len is cut.
typedef struct lacuna_page_table_params {
  int32_t batch;
  int32_t page_size;    // tokens of a page
  int32_t max_pages;    // entries of a row of block_table
  int32_t kv_len;       // the longest that a sequence may be; at most max_pages * page_size
  int32_t indices_len;  // page ids in indices
  int32_t reserved;
  const int32_t* indptr;         // [batch + 1] the pages of sequence b are indices[indptr[b] .. indptr[b + 1])
  const int32_t* indices;        // [indices_len] page ids
  const int32_t* last_page_len;  // [batch] keys in the last page of each sequence, cut to [0, page_size]
  int32_t* block_table;          // [batch, max_pages]; -1 behind a sequence's pages
  int64_t block_table_batch_stride;
  int32_t* kv_lens;  // [batch]
} lacuna_page_table_params;

// New keys and values into a paged cache that keeps, of each KV head, only the blocks that its pattern still reaches.
// Which page a block of a head gets, and which query block reaches it last, is known in advance; no two blocks that are
// needed at one time share a page. Token t of sequence b goes to position kv_lens[b] - added[b] + t; those before 0 or
// beyond the last block are dropped. Afterwards the table holds the page of every block that a query from position
// kv_lens[b] - queries on can reach, and -1 for the others up to kv_lens[b].
typedef struct lacuna_cache_append_params {
  int32_t batch;
  int32_t kv_heads;
  int32_t head_dim;        // a multiple of 8
  int32_t len;             // new tokens of a sequence; the most of them when added is given
  int32_t block;           // keys of a block, which is a page: 16, 32, 64 or 128
  int32_t blocks;          // that a sequence can have
  int32_t queries;         // of the new tokens, the last ones that attend over the cache after this call
  int32_t reach;           // blocks this far before the first new one may be dropped; older ones do not change
  int32_t sequence_pages;  // pages of a sequence: b has those from b * sequence_pages on
  int32_t reserved;
  const int32_t* kv_lens;    // [batch] keys of each sequence after the call
  const int32_t* added;      // [batch] new tokens of each sequence, cut to [0, len], or null: len for all
  const int32_t* homes;      // [kv_heads, blocks] page of each block among those of its sequence
  const int32_t* last_rows;  // [kv_heads, blocks] last query block that reaches it; -1: none does
  int32_t* block_table;      // [batch, kv_heads, blocks] contiguous
  const void* k;             // [batch, kv_heads, len, head_dim], 16-bit elements
  const void* v;             // as k
  void* k_pages;             // [batch * sequence_pages, block, head_dim] contiguous: a page is of one head
  void* v_pages;             // as k_pages
  lacuna_strides k_stride;
  lacuna_strides v_stride;
} lacuna_cache_append_params;

// What serves a request: it depends on shape, plan, family, scale, softcap, splits, and on where the rows of q, k, v
// and out start. Reads no tensor.
typedef struct lacuna_forward_config {
  char kernel[64];     // name, e.g. "sm80_forward_d64_bf16"
  int32_t family;      // lacuna_family
  int32_t tile_q;      // query rows of a kernel tile: rows that share a load of K and V
  int32_t tile_k;      // keys of a kernel tile
  int32_t heads;       // query heads in a tile, of tile_q / heads rows each
  int32_t schedule_q;  // query rows that a schedule row must have at least
  int32_t threads;
  int32_t smem_bytes;
} lacuna_forward_config;

#ifdef __cplusplus
}
#endif

#endif  // LACUNA_ABI_ATTENTION_H
