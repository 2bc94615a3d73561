// Starting the portable decode kernel: one function a head dim, each in a compilation of its own.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {
namespace sm80 {

// Query heads of a tile: those that share a KV head and a plan head.
inline int decode_pack(const lacuna_forward_params& p) {
  return p.shape.q_heads / (p.plan.heads > p.shape.kv_heads ? p.plan.heads : p.shape.kv_heads);
}

// Rows of a tile.
inline int decode_rows(const lacuna_forward_params& p) {
  const int64_t rows = static_cast<int64_t>(decode_pack(p)) * p.shape.q_len;
  return rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
}

int32_t decode_d32(const lacuna_forward_params& params, const char* name, void* stream);
int32_t decode_d64(const lacuna_forward_params& params, const char* name, void* stream);
int32_t decode_d96(const lacuna_forward_params& params, const char* name, void* stream);
int32_t decode_d128(const lacuna_forward_params& params, const char* name, void* stream);
int32_t decode_d256(const lacuna_forward_params& params, const char* name, void* stream);

}  // namespace sm80
}  // namespace LACUNA_NS
