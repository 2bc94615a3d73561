// Gathered attention (HyperAttention): rows sorted by hash bucket -> blocks of the sorted order and sampled keys.
#ifndef LACUNA_ABI_GATHER_H
#define LACUNA_ABI_GATHER_H

#include "attention.h"

#ifdef __cplusplus
extern "C" {
#endif

// A pair of query rows and key rows in sorted order. Key block j holds places [j * block_size, (j + 1) * block_size) of
// the sorted keys; with B such blocks, query block j holds places [j * s, (j + 1) * s) of the sorted queries,
// s = ceil(queries / B). A query attends the keys of its own number's block, or those of its block's window if the plan
// has windows, and each sample that lies elsewhere, with the log-weight ln(keys / (samples - exact)), or its own if the
// plan has them. The first `exact` samples stand for themselves alone: their log-weight is 0, and they are keys of rows
// [0, exact), each listed once at most and not among the other samples.
//
// There may be several rounds of hashing, each with orders and windows of its own. A query then attends the keys of its
// blocks or windows of all rounds, each key once. Samples are places in the keys as the first round sorts them; a query
// leaves out those that lie in its block or window of any round.
//
// causal == 0: one pair, of all queries and all keys; levels is 1.
// causal == 1 (needs q_len == kv_len): the tokens [0, q_len) are node 1 of a binary tree. A node of n tokens with
// n / 2 >= min_seq_len (integer division) has two halves, nodes 2 i and 2 i + 1, of ceil(n / 2) and floor(n / 2)
// tokens, and is the pair of its second half's queries and its first half's keys. A node without halves is a leaf: its
// queries attend its keys causally, and the `local` keys before it; the pairs leave those (query, key) out. Level l
// holds nodes [2^l, 2^(l + 1)); there are `levels` levels with pairs, at least 1, as many as hyper_sizes says.
typedef struct lacuna_gather_plan {
  int32_t causal;
  int32_t levels;
  int32_t block_size;       // keys of a block, >= 1
  int32_t samples;          // of a pair and KV head, >= 0
  int32_t min_seq_len;      // causal: >= 1
  int32_t exact;            // a multiple of 64 in 0..=samples
  int32_t local;            // 0..=min_seq_len; 0 unless causal
  int32_t windows_of_head;  // hyper_sizes; 0 without windows
  int32_t rounds;           // 1..=8
  int32_t* q_order;         // [rounds, levels, batch, q_heads, q_len] query rows; a pair's at the places of its tokens
  int32_t* k_order;         // [rounds, levels, batch, kv_heads, kv_len] key rows; a pair's at the places of its tokens
  int32_t*
      sample_places;      // [nodes, batch, kv_heads, samples] places in the pair's sorted keys, counted from its first;
                          // nodes = 2^levels - 1, of pair i at index i - 1. Places outside are attended by nobody
  int32_t* sample_rows;   // as sample_places: the key rows there
  float* sample_weights;  // null, or as sample_places: log-weights; those of exact samples are not read
  int32_t* windows;   // null, or [rounds, levels, batch, q_heads, windows_of_head]: the place in the pair's sorted keys
                      // where the block_size keys of a query block begin, ascending. A level's pair of node 2^level + i
                      // begins at i * ceil(keys of the longest pair / block_size). Fewer keys where they end
  int32_t* k_places;  // null for one round; [rounds - 1, levels, batch, kv_heads, kv_len] of rounds 1 and on: where a
                      // key row stands in the sorted keys of its pair, counted from the pair's first
  int32_t* q_starts;  // as k_places, [rounds - 1, levels, batch, q_heads, q_len]: where the block or window of a query
                      // row begins, counted so, too
} lacuna_gather_plan;

typedef enum lacuna_bucket_order {
  LACUNA_BUCKETS_GRAY = 0,   // by the rank of the code in the reflected Gray sequence
  LACUNA_BUCKETS_COMPAT = 1  // by code ^ code >> 1, as published
} lacuna_bucket_order;

// How the samples of a pair are drawn. x0(i) is the first word of Philox4x32-10 of the counter (i, KV head, node,
// "samp") under the key `seed`, low word first; the node is 0 when not causal. But for the last way every place has
// samples / keys of them on average, for any number of samples, so that all have one weight.
typedef enum lacuna_sampling {
  LACUNA_SAMPLING_UNIFORM = 0,     // sample i at floor(x0(i) * keys / 2^32)
  LACUNA_SAMPLING_DISTINCT = 1,    // at (p(i mod keys) + floor(x0(0) * keys / 2^32)) mod keys, p being the permutation
                                   // that docs/hyper-attention.md defines: no place twice before every place once
  LACUNA_SAMPLING_STRATIFIED = 2,  // at floor((i + x0(i) / 2^32) * keys / samples): one in each of equal parts
  LACUNA_SAMPLING_VALUES = 3  // by the squared norms of the rows of v. With n_max the largest of the KV head, in f32,
                              // key j has the share 1 + floor(4095 * n_j / n_max), or 1 where that is no number;
                              // samples are stratified over the shares of the pair's keys, in the order of their rows,
                              // and have the log-weight ln(all those shares / (samples * share))
} lacuna_sampling;

// Fills a gather plan: bit j of a row's code is x . P_j > 0, rows are sorted by bucket, stably. The keys [0, sinks) are
// exact samples of the pairs that have them; samples drawn there are left out, so that none counts twice. Windows are
// centred on the keys in the buckets of a block's queries: with the sorted keys [low, high) being those from the bucket
// of its first query to that of its last, they begin at (low + high - block_size) / 2, moved to where they fit.
typedef struct lacuna_hyper_plan_params {
  lacuna_shape shape;  // kv_lens, cu_seqlens and block_table absent
  lacuna_gather_plan plan;
  int32_t projections;   // r in 1..=16
  int32_t bucket_order;  // lacuna_bucket_order
  int32_t center;        // 1: x minus the mean of its head is hashed
  int32_t draw;          // 1: sample_places are drawn; 0: they are given, and sample_rows alone is written
  int32_t sampling;      // lacuna_sampling, of places that are drawn; plan.sample_weights are those of _VALUES
  int32_t sinks;         // 0..=plan.exact; 0 where places are given
  uint64_t seed;
  const void* q;  // [batch, q_heads, q_len, head_dim]
  const void* k;  // [batch, kv_heads, kv_len, head_dim]
  const void* v;  // as k; read where samples are drawn by values
  lacuna_strides q_stride;
  lacuna_strides k_stride;
  lacuna_strides v_stride;
  const float* directions;  // [rounds, head_dim, projections] contiguous: P
  uint16_t* q_ranks;        // [rounds, batch, q_heads, q_len] places of the rows' buckets
  uint16_t* k_ranks;        // [rounds, batch, kv_heads, kv_len]
  uint16_t* v_shares;       // [batch, kv_heads, kv_len], written where samples are drawn by values
  void* scratch;            // hyper_sizes, aligned to 16 bytes; any contents, free once the work is done
  uint64_t scratch_bytes;
} lacuna_hyper_plan_params;

typedef struct lacuna_hyper_sizes {
  int32_t levels;
  int32_t windows_of_head;  // of plans with windows
  int64_t nodes;            // of sample_places and sample_rows
  uint64_t scratch_bytes;
} lacuna_hyper_sizes;

// Attention over a gather plan. Causal: the pairs leave f32 partials, which the leaves merge, level after level. With
// several rounds each leaves partials; where the call is not causal they are then merged by themselves.
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
  float scale;         // multiplies q . k
  int32_t family;      // lacuna_family; 0: of those that serve the request, the one that should be fastest
  float* partial_out;  // causal: [rounds, levels, batch, q_heads, q_len / 2, head_dim] contiguous, scratch; otherwise
                       // for several rounds: [rounds, batch, q_heads, q_len, head_dim]
  float* partial_lse;  // as partial_out, without head_dim
} lacuna_gather_forward_params;

// The gradients of that call, the rows and samples of its plan taken as given. With P = weight * exp(scale * q . k -
// lse) over all keys that a row attends, wherever in the plan: as lacuna_backward_params says. Sums are f32, level
// after level, in an order that the sizes of the call alone decide.
typedef struct lacuna_gather_backward_params {
  lacuna_gather_forward_params forward;  // out and lse hold its results and are read; partials are not
  const void* dout;                      // [batch, q_heads, q_len, head_dim]
  const float* dlse;                     // [batch, q_heads, q_len], or null: zeros
  void* dq;                              // [batch, q_heads, q_len, head_dim]
  void* dk;                              // [batch, kv_heads, kv_len, head_dim]
  void* dv;                              // as dk
  lacuna_strides dout_stride;
  lacuna_strides dlse_stride;
  lacuna_strides dq_stride;
  lacuna_strides dk_stride;
  lacuna_strides dv_stride;
  void* workspace;  // as many bytes as gather_backward_config says, aligned to 16; any contents, free once the work is
                    // done
  uint64_t workspace_bytes;
} lacuna_gather_backward_params;

#ifdef __cplusplus
}
#endif

#endif  // LACUNA_ABI_GATHER_H
