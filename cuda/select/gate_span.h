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

// The tokens of one sequence. Where a sequence is shorter than the call (ends), the first ones stand before position 0:
// they and their rows are not there, the others keep their numbers.
struct Span {
  int32_t start;  // position of token 0, negative only so
  int32_t len;
  int32_t first_block;  // that the tokens touch: block of row 0
  int32_t rows;

  // Whether row `row`, below rows, is there.
  __device__ __forceinline__ bool has(int32_t row) const { return first_block + row >= 0; }
};

__device__ __forceinline__ int32_t clamp_position(int32_t position) {
  return position < 0 ? 0 : position > kMaxPosition ? kMaxPosition : position;
}

__device__ __forceinline__ Span sequence_span(const lacuna_gate_span& span, int sequence) {
  int32_t start = span.start;
  if (span.starts != nullptr) start = clamp_position(span.starts[sequence]);
  if (span.ends != nullptr) start = clamp_position(span.ends[sequence]) - span.len;
  int32_t len = span.lens != nullptr ? span.lens[sequence] : span.len;
  len = len < 0 ? 0 : len > span.len ? span.len : len;
  // Blocks are powers of two: the mask rounds down.
  const int32_t first_block = (start & -span.block) / span.block;
  const int32_t last_block = ((start + len - 1) & -span.block) / span.block;
  return Span{start, len, first_block, len == 0 ? 0 : last_block - first_block + 1};
}

}  // namespace LACUNA_NS
