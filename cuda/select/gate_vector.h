// What follows a gate vector's projection: RMS norm, rotation, and the place where it goes.
#pragma once

#include "ptx/math.h"
#include "ptx/shuffle.h"
#include "select/gate_span.h"

namespace LACUNA_NS {

// A row of features and where its vector goes, without the head.
struct GateVectorRow {
  int32_t sequence;
  int32_t row;       // of features
  int32_t out_row;   // -1: the row is not there, or does not fit
  int32_t position;  // that it is rotated at
};

// Row `index` of batch * max_rows.
__device__ __forceinline__ GateVectorRow gate_vector_row(const lacuna_gate_project_params& p, int64_t index,
                                                         int32_t max_rows) {
  GateVectorRow row = {};
  row.out_row = -1;
  if (index >= static_cast<int64_t>(p.span.batch) * max_rows) return row;
  row.sequence = static_cast<int32_t>(index / max_rows);
  row.row = static_cast<int32_t>(index % max_rows);
  const Span span = sequence_span(p.span, row.sequence);
  if (row.row >= span.rows || !span.has(row.row)) return row;
  const int32_t block = span.first_block + row.row;
  row.position = block * p.span.block + (p.rotate_last != 0 ? p.span.block - 1 : 0);
  const int32_t out_row = p.absolute != 0 ? block : row.row;
  row.out_row = out_row < p.out_rows ? out_row : -1;
  return row;
}

// Cosine and sine of angle k at a position: tables hold both at the starts of blocks and at offsets in a block, and
// angles add.
__device__ __forceinline__ void rotation(const lacuna_gate_project_params& p, int32_t position, int k, float& cosine,
                                         float& sine) {
  const int half = p.gate_dim / 2;
  const float* at = p.rope + static_cast<int64_t>(position / p.rope_block) * p.gate_dim;
  cosine = at[k];
  sine = at[half + k];
  const int32_t offset = position % p.rope_block;
  if (offset == 0) return;
  const float* more = p.rope_offset + static_cast<int64_t>(offset) * p.gate_dim;
  const float cosine_start = cosine;
  cosine = cosine_start * more[k] - sine * more[half + k];
  sine = sine * more[k] + cosine_start * more[half + k];
}

// A warp writes the vector of `head`; `value(k)` is element k of the projection.
template <class Value>
__device__ __forceinline__ void write_gate_vector(const lacuna_gate_project_params& p, const GateVectorRow& row,
                                                  int head, const Value& value) {
  constexpr int kPairs = 4;  // gate_dim is at most 256
  const int lane = thread_index() % kWarpThreads;
  const int half = p.gate_dim / 2;
  float low[kPairs];
  float high[kPairs];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int k = lane + i * kWarpThreads;
    low[i] = k < half ? value(k) : 0.0f;
    high[i] = k < half ? value(half + k) : 0.0f;
    squares += low[i] * low[i] + high[i] * high[i];
  }
  float inverse = 1.0f;
  if (p.norm != nullptr) {
    inverse = 1.0f / square_root(warp_sum(squares) / static_cast<float>(p.gate_dim) + p.norm_eps);
  }
  float* const out =
      p.out + ((static_cast<int64_t>(row.sequence) * p.heads + head) * p.out_rows + row.out_row) * p.gate_dim;
  const bool known = p.rope == nullptr || row.position / p.rope_block < p.rope_rows;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int k = lane + i * kWarpThreads;
    if (k >= half) continue;
    float x = low[i];
    float y = high[i];
    if (p.norm != nullptr) {
      x *= inverse * p.norm[k];
      y *= inverse * p.norm[half + k];
    }
    if (p.rope != nullptr && known) {
      float cosine;
      float sine;
      rotation(p, row.position, k, cosine, sine);
      const float x_before = x;
      x = x_before * cosine - y * sine;
      y = y * cosine + x_before * sine;
    }
    out[k] = known ? x : 0.0f;
    out[half + k] = known ? y : 0.0f;
  }
}

}  // namespace LACUNA_NS
