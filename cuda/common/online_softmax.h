// Online softmax over rows held as mma fragments: each lane holds two rows, (g) and (g + 8), of a 16-row group.
// Scores are kept in log2 units before the exponential; the running maximum stays in the units of the scores.
// Milakov, Gimelshein, "Online normalizer calculation for softmax", 2018; FlashAttention-2 (Dao, 2023).
#pragma once

#include "ptx/math.h"
#include "ptx/shuffle.h"

namespace LACUNA_NS {

struct RowState {
  float maximum[2];  // of the scores so far; -inf: none
  float sum[2];      // this lane's share of sum exp2(factor * (score - maximum))
};

__device__ __forceinline__ RowState empty_rows() {
  return RowState{{minus_infinity(), minus_infinity()}, {0.0f, 0.0f}};
}

// Turns scores into exp2(factor * (score - maximum)) in place, updates the state, and returns in `rescale` what the
// output rows accumulated so far must be multiplied with. factor > 0.
template <int kTiles>
__device__ __forceinline__ void softmax_step(float (&scores)[kTiles][4], float factor, RowState& state,
                                             float (&rescale)[2]) {
  float maximum[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    maximum[0] = max_float(maximum[0], max_float(scores[n][0], scores[n][1]));
    maximum[1] = max_float(maximum[1], max_float(scores[n][2], scores[n][3]));
  }
  quad_max(maximum);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float now = max_float(state.maximum[r], maximum[r]);
    // A row that has seen nothing: any finite base makes exp2(-inf) = 0 of every score.
    const float base = now == minus_infinity() ? 0.0f : now;
    rescale[r] = ex2((state.maximum[r] - base) * factor);
    state.maximum[r] = now;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      scores[n][2 * r] = ex2((scores[n][2 * r] - base) * factor);
      scores[n][2 * r + 1] = ex2((scores[n][2 * r + 1] - base) * factor);
      sum += scores[n][2 * r] + scores[n][2 * r + 1];
    }
    state.sum[r] = state.sum[r] * rescale[r] + sum;
  }
}

}  // namespace LACUNA_NS
