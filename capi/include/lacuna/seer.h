// SeerAttention: learned gates that say which blocks attention visits. Included by lacuna.h, which says the rules.
#ifndef LACUNA_SEER_H
#define LACUNA_SEER_H

#include "lacuna/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

// Statistics of a block's tokens, joined in this order.
typedef enum lacuna_pool { LACUNA_POOL_MAX = 1, LACUNA_POOL_MIN = 2, LACUNA_POOL_AVG = 4 } lacuna_pool;

// The model that a gate is for, and its settings.
typedef struct lacuna_gate_config {
  uint32_t struct_size;
  int32_t dtype;    // of queries, keys and weights: LACUNA_DTYPE_F16 or LACUNA_DTYPE_BF16
  int64_t q_heads;  // a multiple of kv_heads
  int64_t kv_heads;
  int64_t head_dim;                // a multiple of 8, at most 256
  int64_t max_len;                 // keys that a sequence may have
  int64_t block_size;              // 16, 32, 64 (default) or 128 tokens
  int32_t q_pool;                  // prefill gates: bits of lacuna_pool; LACUNA_POOL_AVG
  int32_t k_pool;                  // bits of lacuna_pool; all three
  double rope_theta;               // base of the rotation of gate vectors, 10000; 0: no rotation
  const double* rope_frequencies;  // instead of theta: gate_dim / 2 radians a token, host memory; or null
  int64_t rope_frequencies_len;
  double rope_factor;  // with frequencies: multiplies cosines and sines, 1
  float norm_eps;      // decode gates: added to the mean square under the root of the norms, 1e-6
  int32_t compat;      // decode gates: 1 does as the published code where it departs from its training
} lacuna_gate_config;

lacuna_status lacuna_gate_config_init(lacuna_gate_config* config, size_t size);

// The gate of prompts. For query block i and key block j of query head h:
//   logit[i, j] = rope(pools(Q in block i) * w_q[h]) . rope(pools(K in block j) * w_k[h]) / sqrt(gate_dim)
//   w_k  [1, q_heads or kv_heads, head_dim * pools of k, gate_dim], packed
//   w_q  [1, q_heads, head_dim * pools of q, gate_dim], packed; null: the pooled queries as they are
// Weights lie in device memory, stay the caller's and must outlive the gate. _SHAPE, _VALUE, _DEVICE, _OUT_OF_MEMORY.
lacuna_status lacuna_gate_create(lacuna_stream* stream, const lacuna_gate_config* config, const lacuna_tensor* w_k,
                                 const lacuna_tensor* w_q, lacuna_gate** gate);

// The gate of decoding (SeerAttention-R), one selection for the query heads of a KV head.
//   w_q     [1, kv_heads, q_heads / kv_heads * head_dim, gate_dim], packed
//   w_k     [1, kv_heads, head_dim * pools of k, gate_dim], packed
//   q_norm  f32 [1, 1, 1, gate_dim]: weight of an RMS norm before the rotation; or null. k_norm likewise
// Otherwise as lacuna_gate_create.
lacuna_status lacuna_decode_gate_create(lacuna_stream* stream, const lacuna_gate_config* config,
                                        const lacuna_tensor* w_q, const lacuna_tensor* w_k, const lacuna_tensor* q_norm,
                                        const lacuna_tensor* k_norm, lacuna_gate** gate);

lacuna_status lacuna_gate_destroy(lacuna_gate* gate);

// Which blocks of a row are kept, P being the softmax of its logits. Ties go to the lower block.
typedef enum lacuna_rule {
  LACUNA_RULE_THRESHOLD = 1,    // P > value
  LACUNA_RULE_DENSITY = 2,      // the max(1, floor((1 - sqrt(1 - value)) * blocks)) best
  LACUNA_RULE_BLOCKS = 3,       // the `count` best
  LACUNA_RULE_TOP_P = 4,        // the fewest best whose P add up to `value`
  LACUNA_RULE_TOKEN_BUDGET = 5  // the max(1, count / block_size) best
} lacuna_rule;

// Forced blocks are added to what the rule keeps; they replace nothing and are not counted.
typedef struct lacuna_select {
  uint32_t struct_size;
  int32_t rule;             // lacuna_rule; there is no default
  double value;             // for THRESHOLD, DENSITY and TOP_P
  int64_t count;            // for BLOCKS and TOKEN_BUDGET
  int64_t last_rows_dense;  // prefill: 2, the last query blocks of a sequence that attend everything
  int64_t sink_blocks;      // 0: first blocks that every row attends
  int32_t force_diagonal;   // prefill: 1, a row's own block
  int32_t share_heads;      // prefill: 0; 1: one list for the query heads of a KV head, by the largest P
} lacuna_select;

lacuna_status lacuna_select_init(lacuna_select* select, size_t size);

// Empty lists for the calls of a gate, with room for `capacity` blocks; 0: for the most that the rule can keep. Of the
// options only the mask counts. _SHAPE, _VALUE, _UNSUPPORTED for windows, _OUT_OF_MEMORY.
lacuna_status lacuna_gate_plan_create(lacuna_stream* stream, lacuna_gate* gate, const lacuna_shape* shape,
                                      const lacuna_options* options, const lacuna_select* select, int64_t capacity,
                                      lacuna_plan** plan);

// Bytes of workspace that lacuna_gate_select needs; cached: 1 when it is given a cache.
lacuna_status lacuna_gate_workspace(lacuna_gate* gate, const lacuna_shape* shape, const lacuna_select* select,
                                    int32_t cached, size_t* bytes);

// Scores blocks and fills the lists of a plan of lacuna_gate_plan_create (same shape and select). Where they do not
// fit, all lists are cut to one length and keep their best; lacuna_plan_overflow counts what went.
//   gate_q   [batch, q_heads, q_len, head_dim]: queries before the model's rotation
//   gate_k   [batch, kv_heads, kv_len, head_dim]: keys before it; or null with a cache
//   cache    holds all kv_len keys, the newest too; or null. Decode gates need it
//   kv_lens  decode gates: i32 [1, 1, 1, batch], keys of each sequence, in device memory; or null
// Decode gates take 1 to 16 queries a sequence, and always keep the queries' own block. _SHAPE, _VALUE, _DEVICE,
// _UNSUPPORTED for rows of more blocks than a selection holds, _CUDA, _SIMT.
lacuna_status lacuna_gate_select(lacuna_stream* stream, lacuna_gate* gate, const lacuna_shape* shape,
                                 const lacuna_options* options, const lacuna_select* select,
                                 const lacuna_tensor* gate_q, const lacuna_tensor* gate_k, lacuna_gate_cache* cache,
                                 const lacuna_tensor* kv_lens, lacuna_plan* plan, void* workspace,
                                 size_t workspace_bytes);

// Gate vectors of the keys of `batch` sequences of up to max_len tokens, for sequences that grow.
// _VALUE, _OUT_OF_MEMORY.
lacuna_status lacuna_gate_cache_create(lacuna_stream* stream, lacuna_gate* gate, int64_t batch, int64_t max_len,
                                       lacuna_gate_cache** cache);

// Bytes of workspace that appending up to `tokens` a sequence needs.
lacuna_status lacuna_gate_cache_workspace(lacuna_gate_cache* cache, int64_t tokens, size_t* bytes);

// Appends gate_k [batch, kv_heads, tokens, head_dim], keys before the model's rotation. Every sequence goes on at
// position `start`; or, with starts and lens (i32 [1, 1, 1, batch] in device memory), sequence b goes on at starts[b]
// with its first lens[b] tokens. decoding: 1 for generated tokens, which matters to `compat` alone.
// _SHAPE, _VALUE, _DEVICE, _CUDA, _SIMT.
lacuna_status lacuna_gate_cache_append(lacuna_stream* stream, lacuna_gate* gate, lacuna_gate_cache* cache,
                                       const lacuna_tensor* gate_k, int64_t start, const lacuna_tensor* starts,
                                       const lacuna_tensor* lens, int32_t decoding, void* workspace,
                                       size_t workspace_bytes);

lacuna_status lacuna_gate_cache_destroy(lacuna_gate_cache* cache);

#ifdef __cplusplus
}
#endif

#endif
