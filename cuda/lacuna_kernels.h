// The launcher ABI: plain structs and one function per kernel family. It is the single source of truth for the
// CUDA build, the SIMT build and the Rust bindings (src/kernels/bindings.rs, generated from this file).
//
// Units: strides and offsets in elements, sizes named *_bytes in bytes, LSE in natural log. Every stride is for
// [batch, head, seq]; the last dimension (head_dim) is contiguous. A null pointer means "absent".
#ifndef LACUNA_KERNELS_H
#define LACUNA_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LACUNA_KERNELS_ABI 3
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
  int32_t dtype;  // lacuna_dtype of q, k, v, out
  int32_t reserved;
  const int32_t* cu_seqlens_q;  // [batch + 1] ragged queries, or null
  const int32_t* cu_seqlens_k;  // [batch + 1] ragged keys, or null
  const int32_t* block_table;   // [batch, kv_heads or 1, ceil(kv_len / page_size)] paged K and V, or null
  int64_t block_table_batch_stride;
  int64_t block_table_head_stride;  // 0: one table for all heads
  int32_t page_size;                // tokens, a multiple of 16
  int32_t pages;                    // pages of k and v; keys of a page id outside [0, pages) are attended by nobody
  const int32_t* kv_lens;           // [batch] keys of each sequence, cut to [0, kv_len], or null: kv_len for all.
                                    // Queries stand at the end of their own sequence's keys
} lacuna_shape;

// Which (query, key) pairs are visible, token-exact. Query t sits at position p = t + kv_len - q_len.
typedef struct lacuna_mask {
  int32_t causal;        // 1: key <= p (needs q_len <= kv_len)
  int32_t window_left;   // keys >= p - window_left; -1: no bound
  int32_t window_right;  // keys <= p + window_right; -1: no bound
} lacuna_mask;

// Block (i, j) of plan head h is attended iff j < sink_blocks, or i - j < local_blocks (and j <= i), or
// (j + h / heads_per_step * head_step + head_offset) % vertical_stride == 0, or h >= dense_from; in any case only
// blocks that hold a key the token mask shows to a row of i.
typedef struct lacuna_block_formula {
  int32_t local_blocks;     // >= 0, counts the diagonal block
  int32_t vertical_stride;  // >= 1; 1: every block
  int32_t head_step;        // in [0, vertical_stride)
  int32_t head_offset;      // in [0, vertical_stride)
  int32_t heads_per_step;   // >= 1: plan heads that share one shift (h / heads_per_step slides)
  int32_t dense_from;       // plan heads from this one on attend to every block
  int32_t sink_blocks;      // >= 0
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
  int32_t first_row;   // absolute index of query block 0 (a formula's i = first_row + row)
  int32_t capacity;    // lists: elements of indices
  int32_t absolute;    // 1: query blocks count absolute positions. With kv_lens, row_shift and first_row of a
                       // formula then follow from each sequence's length, and those here do not matter
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

// ---------------------------------------------------------------------------------------------------------------
// Learned gates (SeerAttention): tokens -> pooled features -> gate vectors -> block lists. All arithmetic is f32.
//
// Positions are absolute: token 0 of a call's sequence stands at its start, and blocks start at multiples of `block`.
// Row r of a call is the r-th block that its tokens touch: block start / block + r. A call of `len` tokens touches at
// most (len + 2 * block - 2) / block blocks; rows that a sequence does not touch are left alone.

typedef enum lacuna_pool { LACUNA_POOL_MAX = 1, LACUNA_POOL_MIN = 2, LACUNA_POOL_AVG = 4 } lacuna_pool;

// Which tokens each sequence of a call has.
typedef struct lacuna_gate_span {
  int32_t batch;
  int32_t len;            // tokens a sequence; the longest one when lens is given
  int32_t block;          // tokens of a block: 16, 32, 64 or 128; 1: every token is a row
  int32_t start;          // position of token 0
  const int32_t* starts;  // [batch] position of token 0 of each sequence (negative: 0), or null: start for all
  const int32_t* lens;    // [batch] tokens of each sequence, cut to [0, len], or null: len for all
  const int32_t* ends;    // [batch] position behind the last of len tokens, in place of starts, or null. Where it is
                          // below len, the first tokens would stand before position 0: they are not there, nor are
                          // their rows; the others keep their numbers
} lacuna_gate_span;

// features = the pools of each block over the tokens of the call that lie in it: maximum, minimum, average, those that
// `pools` names, joined in this order. One read of x. Sums run in token order, so that pieces give the bits of the
// whole.
typedef struct lacuna_gate_pool_params {
  lacuna_gate_span span;
  int32_t heads;
  int32_t dim;    // a multiple of 8, at most 256
  int32_t dtype;  // lacuna_dtype of x
  int32_t pools;  // lacuna_pool bits, at least one
  int32_t rows;   // of features; what does not fit is left out
  int32_t reserved;
  const void* x;  // [batch, heads, len, dim]
  lacuna_strides x_stride;
  float* features;  // [batch, heads, rows, pools * dim] contiguous
  float* open;      // [batch, heads, 3, dim] maximum, minimum and sum of the tokens before the call in the block that
                    // they left open (read where start % block > 0), then those of the block that the call leaves
                    // open (written where the end % block > 0); null: blocks hold the call's tokens alone
} lacuna_gate_pool_params;

// out = rope(norm(features * weight)).
typedef struct lacuna_gate_project_params {
  lacuna_gate_span span;
  int32_t in_heads;       // of features
  int32_t heads;          // of out: a multiple of in_heads, or (join) a divisor of it
  int32_t join;           // 1: the in_heads / heads features of a group are joined to one input; 0: head h reads the
                          // features of head h * in_heads / heads
  int32_t rows;           // of features
  int32_t width;          // elements of a feature row
  int32_t gate_dim;       // elements of a gate vector: even, at most 256
  int32_t dtype;          // lacuna_dtype of weight
  int32_t rope_rows;      // positions of rope, in blocks; rows behind them get zeros
  const float* features;  // [batch, in_heads, rows, width] contiguous
  const void* weight;     // [heads, inputs, gate_dim] contiguous, inputs = width, or joined width * in_heads / heads;
                          // null: the input itself, inputs = gate_dim
  const float* norm;      // [gate_dim] weight of an RMS norm over the gate vector, before rope; null: none
  const float* rope;      // [rope_rows, gate_dim] cosines, then sines, of the gate_dim / 2 angles at positions
                          // 0, rope_block, 2 * rope_block, ..; null: no rotation. Rotates halves (x1, x2) as
                          // (x1 cos - x2 sin, x2 cos + x1 sin)
  const float* rope_offset;  // [rope_block, gate_dim] the same at positions 0 .. rope_block - 1
  int32_t rope_block;        // tokens
  int32_t rotate_last;       // 0: a row is rotated at the first position of its block; 1: at the last one
  float norm_eps;
  int32_t absolute;  // 1: a row goes to out at its block's own index (a cache); 0: at r
  int32_t out_rows;  // of out; what does not fit is left out
  int32_t reserved;
  float* out;  // [batch, heads, out_rows, gate_dim] contiguous
} lacuna_gate_project_params;

typedef enum lacuna_gate_rule {
  LACUNA_GATE_THRESHOLD = 0,  // P > value
  LACUNA_GATE_COUNT = 1,      // the `count` best
  LACUNA_GATE_FRACTION = 2,   // the max(1, floor(value * KV blocks of the sequence)) best
  LACUNA_GATE_TOP_P = 3       // the fewest best whose P sum up to at least value
} lacuna_gate_rule;

typedef enum lacuna_gate_current {
  LACUNA_GATE_CURRENT_SCORED = 0,  // the block of the row's own position is scored like the others
  LACUNA_GATE_CURRENT_APART = 1,   // it takes no part in softmax and selection
  LACUNA_GATE_CURRENT_NEUTRAL = 2  // it takes part with a logit of 0 while it is open, with its own once complete
} lacuna_gate_current;

// P = softmax over the blocks a row may see of q_gate . k_gate / sqrt(gate_dim). A list serves one plan head and
// rows_per_list rows; where it serves several (head, row) members, its P is the maximum over them. Ties go to the lower
// block. Forced blocks are added to what the rule selects.
//
// Rows that do not fit the capacity keep their forced and then their best blocks: all lists are cut to one length (some
// to one more) so that they fit.
typedef struct lacuna_gate_select_params {
  int32_t batch;
  int32_t q_heads;     // of q_gate
  int32_t k_heads;     // of k_gate: divides q_heads
  int32_t plan_heads;  // of the lists: divides q_heads
  int32_t gate_dim;
  int32_t rows;            // of q_gate, a (sequence, head)
  int32_t rows_per_list;   // 1, or rows
  int32_t row_tokens;      // tokens from a row to the next: block, or 1
  int32_t block;           // tokens of a KV block
  int32_t kv_len;          // keys a sequence; the longest one when kv_lens is given
  int32_t q_len;           // queries of the call: query 0 stands at the sequence's length - q_len. Row r stands for the
                           // positions [start, start + row_tokens), start = (length - q_len) / row_tokens * row_tokens
                           // + r * row_tokens
  int32_t causal;          // 1: a row sees blocks up to that of its last position
  const int32_t* kv_lens;  // [batch] keys of each sequence, cut to [0, kv_len], or null
  int32_t rule;            // lacuna_gate_rule
  int32_t count;           // LACUNA_GATE_COUNT: at least 1
  double value;            // threshold, fraction or mass
  int32_t current;         // lacuna_gate_current
  int32_t last_rows_dense;  // the last so many rows of a sequence attend every block that they may see
  int32_t force_diagonal;   // 1: the block of a row's own positions is forced
  int32_t sink_blocks;      // the first blocks are forced
  int32_t k_rows;           // of k_gate: at least the KV blocks
  int32_t capacity;         // of indices
  const float* q_gate;      // [batch, q_heads, rows, gate_dim] contiguous
  const float* k_gate;      // [batch, k_heads, k_rows, gate_dim] contiguous
  float* logits;         // [batch, q_heads, rows, KV blocks] contiguous, -inf where a row sees nothing; null: unwanted
  int32_t* row_offsets;  // [lists + 1], lists = batch * plan_heads * rows / rows_per_list
  int32_t* indices;      // [capacity] ascending in a list
  int32_t* counts;       // [lists] scratch
  uint32_t* selected;    // [lists, (KV blocks + 31) / 32] scratch, a bit a block
  int32_t* overflow;     // [1] blocks that did not fit
} lacuna_gate_select_params;

// What a gate shall predict: the largest attention probability in each block of queries and keys, given the rows' LSE.
typedef struct lacuna_block_max_params {
  lacuna_shape shape;  // kv_lens, cu_seqlens and block_table absent
  lacuna_mask mask;
  int32_t block_q;    // 1, 16, 32, 64 or 128 query rows
  int32_t block_k;    // 16, 32, 64 or 128 keys
  int32_t heads;      // of the map: q_heads, or kv_heads (the maximum over the query heads of a group)
  int32_t row_shift;  // query block 0 starts row_shift rows before the first query
  const void* q;      // [batch, q_heads, q_len, head_dim]
  const void* k;      // [batch, kv_heads, kv_len, head_dim]
  const float* lse;   // [batch, q_heads, q_len] natural log
  lacuna_strides q_stride;
  lacuna_strides k_stride;
  lacuna_strides lse_stride;
  float scale;  // multiplies q . k
  int32_t reserved;
  float* map;  // [batch, heads, (q_len + row_shift + block_q - 1) / block_q, KV blocks] contiguous; 0 where no pair is
               // visible
} lacuna_block_max_params;

// ---------------------------------------------------------------------------------------------------------------
// Gathered attention (HyperAttention): rows sorted by hash bucket -> blocks of the sorted order and sampled keys.

// A pair of query rows and key rows in sorted order. Key block j holds places [j * block_size, (j + 1) * block_size) of
// the sorted keys; with B such blocks, query block j holds places [j * s, (j + 1) * s) of the sorted queries,
// s = ceil(queries / B). A query attends the keys of its own number's block, and each sample that lies in another block
// with the log-weight ln(keys / samples).
//
// causal == 0: one pair, of all queries and all keys; levels is 1.
// causal == 1 (needs q_len == kv_len): the tokens [0, q_len) are node 1 of a binary tree. A node of n tokens with
// n / 2 >= min_seq_len (integer division) has two halves, nodes 2 i and 2 i + 1, of ceil(n / 2) and floor(n / 2)
// tokens, and is the pair of its second half's queries and its first half's keys. A node without halves is a leaf: its
// queries attend its keys causally. Level l holds nodes [2^l, 2^(l + 1)); there are `levels` levels with pairs, at
// least 1, as many as hyper_sizes says.
typedef struct lacuna_gather_plan {
  int32_t causal;
  int32_t levels;
  int32_t block_size;   // keys of a block, >= 1
  int32_t samples;      // of a pair and KV head, >= 0
  int32_t min_seq_len;  // causal: >= 1
  int32_t reserved;
  int32_t* q_order;  // [levels, batch, q_heads, q_len] query rows; a pair's at the places of its tokens
  int32_t* k_order;  // [levels, batch, kv_heads, kv_len] key rows; a pair's at the places of its tokens
  int32_t*
      sample_places;     // [nodes, batch, kv_heads, samples] places in the pair's sorted keys, counted from its first;
                         // nodes = 2^levels - 1, of pair i at index i - 1. Places outside are attended by nobody
  int32_t* sample_rows;  // as sample_places: the key rows there
} lacuna_gather_plan;

typedef enum lacuna_bucket_order {
  LACUNA_BUCKETS_GRAY = 0,   // by the rank of the code in the reflected Gray sequence
  LACUNA_BUCKETS_COMPAT = 1  // by code ^ code >> 1, as published
} lacuna_bucket_order;

// Fills a gather plan: bit j of a row's code is x . P_j > 0, rows are sorted by bucket, stably. Sample i of a pair is
// floor(x0 * keys / 2^32), x0 being the first word of Philox4x32-10 of the counter (i, KV head, node, "samp") under the
// key `seed`, low word first; the node is 0 when not causal.
typedef struct lacuna_hyper_plan_params {
  lacuna_shape shape;  // kv_lens, cu_seqlens and block_table absent
  lacuna_gather_plan plan;
  int32_t projections;   // r in 1..=16
  int32_t bucket_order;  // lacuna_bucket_order
  int32_t center;        // 1: x minus the mean of its head is hashed
  int32_t draw;          // 1: sample_places are drawn; 0: they are given, and sample_rows alone is written
  uint64_t seed;
  const void* q;  // [batch, q_heads, q_len, head_dim]
  const void* k;  // [batch, kv_heads, kv_len, head_dim]
  lacuna_strides q_stride;
  lacuna_strides k_stride;
  const float* directions;  // [head_dim, projections] contiguous: P
  uint16_t* q_ranks;        // [batch, q_heads, q_len] places of the rows' buckets
  uint16_t* k_ranks;        // [batch, kv_heads, kv_len]
  void* scratch;            // hyper_sizes, aligned to 16 bytes; any contents, free once the work is done
  uint64_t scratch_bytes;
} lacuna_hyper_plan_params;

typedef struct lacuna_hyper_sizes {
  int32_t levels;
  int32_t reserved;
  int64_t nodes;  // of sample_places and sample_rows
  uint64_t scratch_bytes;
} lacuna_hyper_sizes;

// Attention over a gather plan. Causal: the pairs leave f32 partials, which the leaves merge, level after level.
typedef struct lacuna_gather_forward_params {
  lacuna_shape shape;
  lacuna_gather_plan plan;
  const void* q;  // [batch, q_heads, q_len, head_dim]
  const void* k;  // [batch, kv_heads, kv_len, head_dim]
  const void* v;  // as k
  void* out;      // [batch, q_heads, q_len, head_dim]
  float* lse;     // [batch, q_heads, q_len] natural log, or null
  lacuna_strides q_stride;
  lacuna_strides k_stride;
  lacuna_strides v_stride;
  lacuna_strides out_stride;
  lacuna_strides lse_stride;
  float scale;  // multiplies q . k
  int32_t reserved;
  float* partial_out;  // causal: [levels, batch, q_heads, q_len / 2, head_dim] contiguous, scratch
  float* partial_lse;  // causal: [levels, batch, q_heads, q_len / 2] contiguous, scratch
} lacuna_gather_forward_params;

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

// `stream`: a CUstream for the CUDA build, a lacuna_simt_stream for the SIMT build (null: that machine's default).
typedef struct lacuna_kernel_table {
  int32_t abi;  // LACUNA_KERNELS_ABI
  int32_t reserved;
  const char* machine;        // "simt" or "cuda"
  const char* architectures;  // what was built, e.g. "80;90a;80+PTX"
  int32_t (*forward_config)(const lacuna_forward_params* params, lacuna_forward_config* config);
  int32_t (*forward)(const lacuna_forward_params* params, void* stream);
  int32_t (*merge)(const lacuna_merge_params* params, void* stream);
  int32_t (*schedule_build)(const lacuna_schedule_params* params, void* stream);
  int32_t (*mask_to_lists)(const lacuna_mask_to_lists_params* params, void* stream);
  int32_t (*plan_to_mask)(const lacuna_plan_to_mask_params* params, void* stream);
  // Attention of 1 to 16 queries a sequence. Lists are walked as they are: params->schedule is not read.
  int32_t (*decode_config)(const lacuna_forward_params* params, lacuna_forward_config* config);
  int32_t (*decode)(const lacuna_forward_params* params, void* stream);
  int32_t (*gate_pool)(const lacuna_gate_pool_params* params, void* stream);
  int32_t (*gate_project)(const lacuna_gate_project_params* params, void* stream);
  int32_t (*gate_select)(const lacuna_gate_select_params* params, void* stream);
  int32_t (*block_max)(const lacuna_block_max_params* params, void* stream);
  // Reads no pointer; of the plan only causal, samples and min_seq_len.
  int32_t (*hyper_sizes)(const lacuna_hyper_plan_params* params, lacuna_hyper_sizes* sizes);
  int32_t (*hyper_plan)(const lacuna_hyper_plan_params* params, void* stream);
  int32_t (*gather_config)(const lacuna_gather_forward_params* params, lacuna_forward_config* config);
  int32_t (*gather_forward)(const lacuna_gather_forward_params* params, void* stream);
  const char* (*last_error)(void);  // text of this thread's last failure, "" if none
} lacuna_kernel_table;

const lacuna_kernel_table* lacuna_simt_kernels(void);
const lacuna_kernel_table* lacuna_cuda_kernels(void);

// ---------------------------------------------------------------------------------------------------------------
// The SIMT host: a machine made of fibers. All functions are thread-safe; a stream is used by one thread at a time.

typedef enum lacuna_simt_policy {
  LACUNA_SIMT_ROUND_ROBIN = 0,  // fast
  LACUNA_SIMT_RANDOM_LANE = 1,
  LACUNA_SIMT_WARP_FIRST = 2,  // one warp runs as far as it can
  LACUNA_SIMT_PRIORITY = 3     // random priorities, redrawn at seeded intervals
} lacuna_simt_policy;

typedef enum lacuna_simt_async {
  LACUNA_SIMT_LATE = 0,   // asynchronous work completes only when nothing else can run
  LACUNA_SIMT_EARLY = 1,  // at issue
  LACUNA_SIMT_MIXED = 2   // at seeded moments between
} lacuna_simt_async;

typedef struct lacuna_simt_config {
  uint64_t seed;
  int32_t policy;            // lacuna_simt_policy
  int32_t async_mode;        // lacuna_simt_async
  int32_t threads;           // CPU threads; 0: all
  int32_t resident;          // blocks interleaved on one CPU thread, >= 1
  int32_t checks;            // 1: poison shared memory and async destinations, guard stacks, catch faults (test mode)
  int32_t random_blocks;     // 1: blocks start in a seeded order
  int32_t sm_count;          // multiprocessors reported to persistent kernels
  int32_t smem_limit_bytes;  // shared memory a block may have
} lacuna_simt_config;

// Work done since the stream was made or its counters were reset. Independent of schedule and seed.
typedef struct lacuna_simt_counters {
  uint64_t launches;
  uint64_t mma_macs;        // multiply-adds of matrix instructions
  uint64_t copy_bytes;      // bytes moved by cp.async and bulk copies, zero-fill excluded
  uint64_t bank_conflicts;  // extra shared-memory cycles of ldmatrix and stmatrix
  uint64_t barriers;        // block barriers passed
  uint64_t collectives;     // warp collectives
} lacuna_simt_counters;

typedef struct lacuna_simt_stream lacuna_simt_stream;

void lacuna_simt_default_config(lacuna_simt_config* config);
lacuna_simt_stream* lacuna_simt_stream_create(const lacuna_simt_config* config);  // null: invalid config
void lacuna_simt_stream_destroy(lacuna_simt_stream* stream);
void lacuna_simt_stream_counters(const lacuna_simt_stream* stream, lacuna_simt_counters* counters);
void lacuna_simt_stream_reset_counters(lacuna_simt_stream* stream);

// Memory of `bytes` bytes, 16-byte aligned. guard 0: plain; 1: its end touches a guard page (rounded down to 16 bytes,
// the slack is filled with NaN); 2: its start touches one. Contents start as 0xFF bytes. Null: out of memory.
void* lacuna_simt_alloc(uint64_t bytes, int32_t guard);
void lacuna_simt_free(void* pointer);

#ifdef __cplusplus
}
#endif

#endif  // LACUNA_KERNELS_H
