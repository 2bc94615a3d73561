// Tensors, shapes, options. Included by lacuna.h, which says the rules.
#ifndef LACUNA_TENSOR_H
#define LACUNA_TENSOR_H

#include "lacuna/core.h"

#ifdef __cplusplus
extern "C" {
#endif

// Element types. Tensors of q, k, v and out are f16 or bf16; accumulation and LSE are f32.
typedef enum lacuna_dtype {
  LACUNA_DTYPE_F16 = 1,
  LACUNA_DTYPE_BF16 = 2,
  LACUNA_DTYPE_F32 = 3,
  LACUNA_DTYPE_I32 = 4,
  LACUNA_DTYPE_U8 = 5
} lacuna_dtype;

// Where a tensor lies, as far as the caller says it.
typedef enum lacuna_place {
  LACUNA_PLACE_UNSAID = 0,  // trusted to be memory of the stream's device
  LACUNA_PLACE_HOST = 1,    // host memory: for the SIMT host alone
  LACUNA_PLACE_CUDA = 2     // memory of the GPU `ordinal`
} lacuna_place;

// Kernels by the instructions they are made of. A family that cannot serve a call is an error.
typedef enum lacuna_family {
  LACUNA_FAMILY_AUTO = 0,
  LACUNA_FAMILY_PORTABLE = 80,  // Ampere and newer
  LACUNA_FAMILY_HOPPER = 90     // Hopper only
} lacuna_family;

// Bits of lacuna_options.flags. A field with a bit counts only when its bit is set.
typedef enum lacuna_option {
  LACUNA_CAUSAL = 1,
  LACUNA_WINDOW_LEFT = 2,
  LACUNA_WINDOW_RIGHT = 4,
  LACUNA_SCALE = 8,
  LACUNA_SOFTCAP = 16
} lacuna_option;

// A view of the caller's memory, [batch, heads, seq, dim]. A tensor with fewer axes has sizes of 1 in front.
typedef struct lacuna_tensor {
  uint32_t struct_size;
  int32_t dtype;  // lacuna_dtype
  void* data;     // the first element, aligned to the element; rows at multiples of 16 bytes load fastest
  int64_t shape[4];
  int64_t strides[4];  // in elements, at least 0; the last is 1. If the last is 0, elements are packed and the other
                       // strides do not matter
  int32_t place;       // lacuna_place
  int32_t ordinal;     // with LACUNA_PLACE_CUDA
} lacuna_tensor;

lacuna_status lacuna_tensor_init(lacuna_tensor* tensor, size_t size);

// Sizes of an attention problem. Query head h reads KV head h * kv_heads / q_heads. Query t of a sequence sits at key
// position t + kv_len - q_len: the last query is aligned with the last key.
typedef struct lacuna_shape {
  uint32_t struct_size;
  int32_t dtype;    // of q, k, v and out: LACUNA_DTYPE_F16 or LACUNA_DTYPE_BF16
  int64_t batch;    // sequences
  int64_t q_heads;  // a multiple of kv_heads
  int64_t kv_heads;
  int64_t q_len;     // queries of a sequence
  int64_t kv_len;    // keys of a sequence
  int64_t head_dim;  // 32, 64, 96, 128 or 256
} lacuna_shape;

lacuna_status lacuna_shape_init(lacuna_shape* shape, size_t size);

// How a call computes. Where a function takes options, null stands for the defaults: every key visible, a scale of
// 1 / sqrt(head_dim).
typedef struct lacuna_options {
  uint32_t struct_size;
  uint32_t flags;             // bits of lacuna_option
  int64_t window_left;        // LACUNA_WINDOW_LEFT: keys before the query's position that stay visible, at least 0
  int64_t window_right;       // LACUNA_WINDOW_RIGHT: keys after it
  float scale;                // LACUNA_SCALE: multiplies q . k
  float softcap;              // LACUNA_SOFTCAP: logits become softcap * tanh(logit / softcap)
  int32_t splits;             // parts that the keys are cut into and that run at once, at most 64; 0 is 1
  int32_t family;             // lacuna_family
  const lacuna_tensor* sink;  // f32 [1, 1, 1, q_heads], packed: a logit that joins the denominator; or null
  const lacuna_tensor* block_table;  // i32 [batch, kv_heads or 1, 1, ceil(kv_len / page_size)]: K and V are
                                     // [pages, kv_heads, page_size, head_dim], key t is row t % page_size of page
                                     // block_table[b, h, 0, t / page_size]; or null
  int64_t page_size;                 // with block_table: keys of a page, a multiple of 16
  // Lengths of the sequences where they differ, in device memory; the shape then has the longest. They are data: what
  // contradicts the sizes is cut. Query t of sequence b stands at key position t + its keys - its queries.
  const lacuna_tensor* cu_seqlens_q;  // i32 [1, 1, 1, batch + 1]: queries of sequence b are rows cu_seqlens_q[b] to
                                      // cu_seqlens_q[b + 1] - 1 of q, out and lse, which are [1, q_heads, rows, ..]; or
                                      // null. Rows of no sequence are not written
  const lacuna_tensor* cu_seqlens_k;  // the same for k and v [1, kv_heads, rows, head_dim]; not with kv_lens or pages
  const lacuna_tensor* kv_lens;       // i32 [1, 1, 1, batch]: keys of each sequence, at the start of its rows or pages
} lacuna_options;

lacuna_status lacuna_options_init(lacuna_options* options, size_t size);

#ifdef __cplusplus
}
#endif

#endif
