// Tiles in shared memory and fragments in registers, by plain arithmetic on rows, columns and threads: what the
// kernels' descriptors, swizzles and layouts are compared with.
#pragma once

#include "harness/finding.h"
#include "harness/integers.h"
#include "ptx/fence_proxy.h"
#include "ptx/thread.h"

namespace facts {

// Element offset in panels of 64 columns, [columns / 64][rows][64]: in row r the chunk c of 8 elements lies at c ^ (r &
// 7).
__host__ __device__ inline int panel_offset(int row, int column, int rows) {
  const int chunk = (column % 64 / 8) ^ (row & 7);
  return column / 64 * rows * 64 + row * 64 + chunk * 8 + column % 8;
}

// Threads 0 to `threads` - 1 lay out a row-major [rows][columns] matrix, or its transpose, and show it to wgmma and
// TMA.
template <class T>
__device__ inline void lay_out(const T* from, int rows, int columns, bool transposed, T* to, int threads) {
  for (int i = thread_index(); i < rows * columns; i += threads) {
    const int row = i / columns;
    const int column = i % columns;
    const int at = transposed ? panel_offset(column, row, columns) : panel_offset(row, column, rows);
    store_shared(to + at, from[i]);
  }
  fence_async_shared();
}

// Row and column of accumulator register `i` of a thread of a warpgroup.
__host__ __device__ inline int accumulator_row(int thread, int i) {
  return 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
}
__host__ __device__ inline int accumulator_column(int thread, int i) { return 8 * (i / 4) + 2 * (thread % 4) + i % 2; }

// Registers as a kernel stored them, [threads][count], against a matrix whose first 64 rows are warpgroup 0's.
inline void compare_accumulators(Finding& finding, const char* what, const std::vector<float>& got, int threads,
                                 const Matrix& expected) {
  const int count = expected.columns / 2;
  for (int thread = 0; thread < threads; ++thread) {
    for (int i = 0; i < count; ++i) {
      const int row = thread / 128 * 64 + accumulator_row(thread % 128, i);
      const int column = accumulator_column(thread % 128, i);
      const float value = got[static_cast<size_t>(thread) * count + i];
      const int wanted = expected.at(row, column);
      if (value == static_cast<float>(wanted)) continue;
      finding.differs("%s: thread %d, register %d (row %d, column %d) is %g, expected %d", what, thread, i, row, column,
                      static_cast<double>(value), wanted);
      return;
    }
  }
}

// a b^T, from zero.
inline Matrix product_transposed(const Matrix& a, const Matrix& b) {
  Matrix product(a.rows, b.rows);
  for (int row = 0; row < a.rows; ++row) {
    for (int column = 0; column < b.rows; ++column) {
      int sum = 0;
      for (int k = 0; k < a.columns; ++k) sum += a.at(row, k) * b.at(column, k);
      product.at(row, column) = sum;
    }
  }
  return product;
}

// start + a b.
inline Matrix product_plus(const Matrix& start, const Matrix& a, const Matrix& b) {
  Matrix product = start;
  for (int row = 0; row < a.rows; ++row) {
    for (int column = 0; column < b.columns; ++column) {
      for (int k = 0; k < a.columns; ++k) product.at(row, column) += a.at(row, k) * b.at(k, column);
    }
  }
  return product;
}

}  // namespace facts
