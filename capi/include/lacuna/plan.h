// Plans: which blocks of keys each block of queries attends. Included by lacuna.h, which says the rules.
#ifndef LACUNA_PLAN_H
#define LACUNA_PLAN_H

#include "lacuna/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

// Every key, under whatever mask the options say.
lacuna_status lacuna_plan_dense(lacuna_plan** plan);

// The newest `local_blocks` blocks of keys (the query's own counts) and the first `sink_blocks`, in blocks of 16, 32,
// 64 or 128 that count key positions. For causal calls. _VALUE.
lacuna_status lacuna_plan_window(int64_t block_size, int64_t local_blocks, int64_t sink_blocks, lacuna_plan** plan);

// S2-Attention (DKernel), causal: a local window, and vertical stripes that slide from head to head.
typedef struct lacuna_s2_config {
  uint32_t struct_size;
  int32_t phi3;                 // 1: the stripes of Phi-3-small
  int64_t block_size;           // 16, 32, 64 (default) or 128
  int64_t local_blocks;         // 16: blocks of the window, the query's own included
  int64_t vertical_stride;      // 8: blocks between stripes; 1 is dense
  int64_t head_sliding_step;    // 0: max(1, vertical_stride / q_heads)
  int64_t head_sliding_offset;  // 0
  int64_t num_dense_kv_heads;   // 0: the last KV heads that attend every key
  int64_t sink_blocks;          // 0: first blocks that every query keeps
  int32_t homogeneous;          // 0; 1: all heads have the pattern of head 0
  int32_t reserved;
} lacuna_s2_config;

lacuna_status lacuna_s2_config_init(lacuna_s2_config* config, size_t size);

// A plan without index memory, for calls with these heads and lengths. config may be null: the defaults. _VALUE.
lacuna_status lacuna_plan_s2(const lacuna_shape* shape, const lacuna_s2_config* config, lacuna_plan** plan);

// What the rows of block lists stand for. Row (b * heads + p) * q_blocks + i is query block i of plan head p of
// sequence b; there are batch * heads * q_blocks of them, with q_blocks = ceil(q_len / block_q).
typedef struct lacuna_rows {
  uint32_t struct_size;
  int32_t absolute;  // 0: query block 0 starts at the first query. 1: blocks start at multiples of block_q in key
                     // positions, and there may be one more of them
  int64_t block_q;   // 16, 32, 64 (default) or 128 queries
  int64_t block_k;   // 16, 32, 64 (default) or 128 keys
  int64_t batch;     // 1 (default: all sequences share the rows) or the batch
  int64_t heads;     // plan heads: 1 (default), kv_heads or q_heads. Query head h uses plan head h * heads / q_heads
} lacuna_rows;

lacuna_status lacuna_rows_init(lacuna_rows* rows, size_t size);

// The blocks of a mask in host memory, u8 [rows.batch, rows.heads, q_blocks, ceil(kv_len / block_k)], packed; a byte
// that is not 0 is a block to attend. Copies, waits. rows may be null: the defaults.
// _SHAPE, _VALUE, _OUT_OF_MEMORY, _CUDA.
lacuna_status lacuna_plan_from_mask(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_rows* rows,
                                    const uint8_t* mask, size_t mask_bytes, lacuna_plan** plan);

// Lists in host memory: row r attends indices[row_offsets[r]] to indices[row_offsets[r + 1] - 1], ascending block ids.
// row_offsets has a number for each row and one more. A block named twice counts twice. Copies, waits.
// _LIST names the row that breaks a rule; _SHAPE, _VALUE, _OUT_OF_MEMORY, _CUDA.
lacuna_status lacuna_plan_from_lists(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_rows* rows,
                                     const int32_t* row_offsets, size_t row_offsets_len, const int32_t* indices,
                                     size_t indices_len, lacuna_plan** plan);

// Lists in device memory, i32 [1, 1, 1, n] each, packed, that stay the caller's and must outlive the plan. Contents are
// data: ids outside the keys are skipped, offsets are cut to the length of indices (below 2^28). _SHAPE, _VALUE,
// _DEVICE.
lacuna_status lacuna_plan_from_device_lists(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_rows* rows,
                                            const lacuna_tensor* row_offsets, const lacuna_tensor* indices,
                                            lacuna_plan** plan);

// Empty lists with room for `capacity` blocks, for lacuna_plan_set_mask. _VALUE, _OUT_OF_MEMORY.
lacuna_status lacuna_plan_create(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_rows* rows,
                                 int64_t capacity, lacuna_plan** plan);

// Refills the lists of lacuna_plan_create from a mask in device memory, u8 [batch, heads, q_blocks, kv_blocks], packed.
// Blocks beyond the capacity are left out; lacuna_plan_overflow counts them. Schedules of the plan must be rebuilt.
// _SHAPE, _DEVICE, _UNSUPPORTED for other plans.
lacuna_status lacuna_plan_set_mask(lacuna_stream* stream, lacuna_plan* plan, const lacuna_tensor* mask);

// Blocks that did not fit when the lists were filled last. Waits for the stream.
lacuna_status lacuna_plan_overflow(lacuna_stream* stream, lacuna_plan* plan, int64_t* blocks);

// The blocks that a call attends, u8 [sizes[0], .., sizes[3]] into host memory: how often each is attended. With mask
// null only the sizes are written. Waits for the stream. _SHAPE when mask_bytes is not their product.
lacuna_status lacuna_plan_block_mask(lacuna_stream* stream, lacuna_plan* plan, const lacuna_shape* shape,
                                     const lacuna_options* options, uint8_t* mask, size_t mask_bytes, int64_t sizes[4]);

// (query, key) pairs that pass plan and mask, summed over sequences and query heads. Waits for the stream.
lacuna_status lacuna_plan_visited_pairs(lacuna_stream* stream, lacuna_plan* plan, const lacuna_shape* shape,
                                        const lacuna_options* options, uint64_t* pairs);

lacuna_status lacuna_plan_destroy(lacuna_plan* plan);

#ifdef __cplusplus
}
#endif

#endif
