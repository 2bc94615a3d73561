// Learned gates (SeerAttention): tokens -> pooled features -> gate vectors -> block lists. All arithmetic is f32.
//
// Positions are absolute: token 0 of a call's sequence stands at its start, and blocks start at multiples of `block`.
// Row r of a call is the r-th block that its tokens touch: block start / block + r. A call of `len` tokens touches at
// most (len + 2 * block - 2) / block blocks; rows that a sequence does not touch are left alone.
#ifndef LACUNA_ABI_GATE_H
#define LACUNA_ABI_GATE_H

#include "attention.h"

#ifdef __cplusplus
extern "C" {
#endif

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
// rows_per_list rows; where it serves several (head, row) members, its P is the maximum over them, and for top-p that
// maximum over the sum of all. Ties go to the lower block. Forced blocks are added to what the rule selects.
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

#ifdef __cplusplus
}
#endif

#endif  // LACUNA_ABI_GATE_H
