// The end of an online softmax: a row's factor and LSE, and where results go.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/math.h"

namespace LACUNA_NS {

struct RowResult {
  float factor;  // of the accumulated output
  float lse;     // natural log
};

// sum = sum of exp2(score - top) over all lanes of the row, scores and top in log2 units. `rescale` is that of the
// output.
__device__ __forceinline__ RowResult row_result(float top, float sum, float rescale = 1.0f) {
  if (sum == 0.0f) return RowResult{0.0f, minus_infinity()};
  return RowResult{rescale / sum, (top + lg2(sum)) * kLn2};
}

// sum = sum of exp2(scale * (score - maximum)) over all lanes of the row. A sink logit joins the first split.
__device__ __forceinline__ RowResult row_result(const lacuna_forward_params& p, int head, int split, float scale,
                                                float maximum, float sum) {
  float top = maximum * scale;
  float rescale = 1.0f;
  if (p.sink != nullptr && split == 0) {
    const float sink = p.sink[head] * kLog2E;
    const float all = max_float(top, sink);
    const float base = all == minus_infinity() ? 0.0f : all;
    rescale = ex2(top - base);
    sum = sum * rescale + ex2(sink - base);
    top = base;
  }
  return row_result(top, sum, rescale);
}

// Index of a row in partial_lse; times head_dim in partial_out.
__device__ __forceinline__ int64_t partial_row(const lacuna_forward_params& p, int split, int batch, int head,
                                               int row) {
  return ((static_cast<int64_t>(split) * p.shape.batch + batch) * p.shape.q_heads + head) * p.shape.q_len + row;
}

// Writes the LSE of a row: of its split, or the final one if it is wanted.
__device__ __forceinline__ void write_lse(const lacuna_forward_params& p, int split, int batch, int head, int row,
                                          float lse) {
  if (p.splits > 1) {
    p.partial_lse[partial_row(p, split, batch, head, row)] = lse;
  } else if (p.lse != nullptr) {
    p.lse[batch * p.lse_stride.batch + head * p.lse_stride.head + row * p.lse_stride.seq] = lse;
  }
}

}  // namespace LACUNA_NS
