// The real forward kernel on made-up inputs, with a scalar reference. Shared by the Rust tests and aarch64/main.cpp.
#pragma once

#include <stdint.h>

#include "lacuna_kernels.h"

extern "C" {

// Mirrored by simt-tests/src/forward.rs. One sequence, dense plan.
typedef struct simt_forward_case {
  int32_t q_heads;
  int32_t kv_heads;
  int32_t q_len;
  int32_t kv_len;
  int32_t head_dim;
  int32_t dtype;  // lacuna_dtype
  int32_t causal;
  int32_t guard;   // of lacuna_simt_alloc
  int32_t family;  // lacuna_family
} simt_forward_case;

// Runs the kernel. out: [q_heads, q_len, head_dim] 16-bit patterns, lse: [q_heads, q_len]. Returns a lacuna_status.
int32_t simt_forward_run(const simt_forward_case* problem, lacuna_simt_stream* stream, uint16_t* out, float* lse);

// Distance to a scalar f64 computation: relative error of out in the Frobenius norm, largest error of lse.
void simt_forward_compare(const simt_forward_case* problem, const uint16_t* out, const float* lse, double* out_error,
                          double* lse_error);

// FNV-1a over the bits of both.
uint64_t simt_forward_hash(const simt_forward_case* problem, const uint16_t* out, const float* lse);

}  // extern "C"
