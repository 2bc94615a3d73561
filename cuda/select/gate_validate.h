// Host-side checks that the gate kernels share.
#pragma once

#include "common/validate.h"
#include "select/gate_span.h"

namespace LACUNA_NS {

constexpr int kMaxGateDim = 256;

inline int32_t check_gate_span(const lacuna_gate_span& s) {
  LACUNA_REQUIRE(s.batch >= 1 && s.batch <= kMaxPosition, "batch must be in 1..2^30, got %d", s.batch);
  LACUNA_REQUIRE(s.len >= 0 && s.len <= kMaxPosition, "len must be in 0..2^30, got %d", s.len);
  LACUNA_REQUIRE(s.block == 1 || is_block_size(s.block), "block must be 1, 16, 32, 64 or 128 tokens, got %d", s.block);
  LACUNA_REQUIRE(s.starts == nullptr || s.ends == nullptr, "starts and ends are both given");
  LACUNA_REQUIRE(s.start >= 0 && s.start <= kMaxPosition, "start must be in 0..2^30, got %d", s.start);
  return LACUNA_OK;
}

inline int32_t check_gate_dim(int32_t gate_dim) {
  LACUNA_REQUIRE(gate_dim >= 2 && gate_dim <= kMaxGateDim && gate_dim % 2 == 0,
                 "gate_dim must be even and in 2..=256, got %d", gate_dim);
  return LACUNA_OK;
}

// Whether 16-byte copies may start at `pointer` and after any multiple of `stride` bytes.
inline bool allows_vectors(const void* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 16 == 0;
}

}  // namespace LACUNA_NS
