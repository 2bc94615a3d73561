// Operands of the wgmma tests in shared memory, laid out by rows and chunks rather than by address bits, so that the
// descriptors of the SIMT host are compared with something else.
#pragma once

#include "harness.h"
#include "ptx/fence_proxy.h"
#include "ptx/shared.h"
#include "ptx/wgmma.h"

namespace LACUNA_NS {

// Bytes of one row of a swizzle's pattern.
__device__ __forceinline__ int span_bytes(Swizzle swizzle) {
  return swizzle == Swizzle::kSwizzle128 ? 128 : swizzle == Swizzle::kSwizzle64 ? 64 : 32;
}

// A matrix of `rows` rows, cut into panels as wide as a swizzle span: byte offset of an element.
__device__ __forceinline__ int panel_offset(int row, int column, int rows, Swizzle swizzle) {
  const int span = span_bytes(swizzle);
  const int panel = 2 * column / span;
  const int chunk = 2 * column % span / 16;
  const int turn = swizzle == Swizzle::kSwizzle128  ? row & 7
                   : swizzle == Swizzle::kSwizzle64 ? row >> 1 & 3
                                                    : row >> 2 & 1;
  return panel * rows * span + row * span + ((chunk ^ turn) * 16) + 2 * (column % 8);
}

// All threads of the block lay out a row-major matrix (or its transpose) of 16-bit elements at `to`.
__device__ __forceinline__ void lay_out(const TestParams& p, const uint16_t* from, int rows, int columns,
                                        bool transposed, Swizzle swizzle, unsigned char* to) {
  for (int i = thread_index(); i < rows * columns; i += static_cast<int>(p.threads)) {
    const int row = i / columns;
    const int column = i % columns;
    const int at = transposed ? panel_offset(column, row, columns, swizzle) : panel_offset(row, column, rows, swizzle);
    store_shared(reinterpret_cast<uint16_t*>(to + at), from[i]);
  }
}

// Where accumulator `i` of the current thread lies in [64][n].
__device__ __forceinline__ int accumulator_at(int i, int n) {
  const int thread = thread_index() % 128;
  const int row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
  return row * n + 8 * (i / 4) + 2 * (thread % 4) + i % 2;
}

// The four registers of A for one k16 step, from a row-major [64][stride].
__device__ __forceinline__ void load_a_registers(uint32_t (&a)[4], const uint16_t* from, int stride, int k) {
  const int thread = thread_index() % 128;
  const int row = 16 * (thread / 32) + thread % 32 / 4;
  for (int i = 0; i < 4; ++i) {
    const uint16_t* const pair = from + (row + 8 * (i % 2)) * stride + k + 2 * (thread % 4) + 8 * (i / 2);
    a[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}

}  // namespace LACUNA_NS
