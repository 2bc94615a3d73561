// The tokens of a gate call and the blocks they touch (lacuna_gate_span).
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

// Starts and lengths are at most this, so that positions fit 31 bits. Starts on the device are data and are cut to it.
constexpr int32_t kMaxPosition = (1 << 30) - 1;

// Blocks that `len` tokens touch at most, wherever they start.
inline int64_t span_max_rows(const lacuna_gate_span& span) {
  return (static_cast<int64_t>(span.len) + 2 * span.block - 2) / span.block;
}

// The tokens of one sequence.
struct Span {
  int32_t start;  // position of the first
  int32_t len;
  int32_t first_block;  // that the tokens touch
  int32_t rows;         // blocks touched
};

__device__ __forceinline__ Span sequence_span(const lacuna_gate_span& span, int sequence) {
  int32_t start = span.starts != nullptr ? span.starts[sequence] : span.start;
  start = start < 0 ? 0 : start > kMaxPosition ? kMaxPosition : start;
  int32_t len = span.lens != nullptr ? span.lens[sequence] : span.len;
  len = len < 0 ? 0 : len > span.len ? span.len : len;
  const int32_t first_block = start / span.block;
  return Span{start, len, first_block, len == 0 ? 0 : (start + len - 1) / span.block - first_block + 1};
}

}  // namespace LACUNA_NS
