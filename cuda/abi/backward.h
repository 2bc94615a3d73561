// Gradients of attention over a block plan.
#ifndef LACUNA_ABI_BACKWARD_H
#define LACUNA_ABI_BACKWARD_H

#include "attention.h"

#ifdef __cplusplus
extern "C" {
#endif

// With P = exp(logit - lse): dv = P^T dout, dP = dout v^T, delta = rowsum(dout * out) - dlse, dS = P * (dP - delta)
// (times the slope of the softcap), dq = scale * dS k, dk = scale * dS^T q. Sums are f32, in an order that the
// sequence's own sizes and blocks alone decide. Rows whose lse is -inf give nothing, KV blocks that nobody visits get
// zeros.
typedef struct lacuna_backward_params {
  lacuna_forward_params forward;  // the call whose gradients are asked for. out and lse hold its results and are read;
                                  // schedule, for lists, has rows of a multiple of 64 queries; splits is 1
  const void* dout;               // [batch, q_heads, q_len, head_dim]
  const float* dlse;              // [batch, q_heads, q_len], or null: zeros
  void* dq;                       // [batch, q_heads, q_len, head_dim]
  void* dk;                       // [batch, kv_heads, kv_len, head_dim]
  void* dv;                       // as dk
  float* dsink;                   // [q_heads], summed over the batch, or null
  lacuna_strides dout_stride;
  lacuna_strides dlse_stride;
  lacuna_strides dq_stride;
  lacuna_strides dk_stride;
  lacuna_strides dv_stride;
  void* schedule;  // backward_config says how many bytes; aligned to 16. backward_schedule writes it from shape, mask
                   // and plan, and backward reads it: who attends each KV tile, and the order of the tiles
  uint64_t schedule_bytes;
  void* workspace;  // as many bytes as backward_config says, aligned to 16; any contents, free once the work is done
  uint64_t workspace_bytes;
} lacuna_backward_params;

// What serves a request: it depends on shape, plan and family of the forward call. Reads no tensor.
typedef struct lacuna_backward_config {
  char query_kernel[64];  // of dq, e.g. "sm80_backward_query_d64_bf16"
  char key_kernel[64];    // of dk and dv
  int32_t family;         // lacuna_family
  int32_t tile_q;         // query rows of a tile of the query kernel; a schedule row holds a multiple
  int32_t tile_k;         // keys of a tile of the key kernel
  int32_t query_threads;
  int32_t query_smem_bytes;
  int32_t key_threads;
  int32_t key_smem_bytes;
  int32_t pieces;  // parts that the long KV tiles of a sequence are cut into, all together, at most
  uint64_t schedule_bytes;
  uint64_t workspace_bytes;
} lacuna_backward_config;

#ifdef __cplusplus
}
#endif

#endif  // LACUNA_ABI_BACKWARD_H
