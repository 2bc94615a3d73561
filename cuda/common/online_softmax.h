// Online softmax over rows held as matrix fragments: each lane holds two rows, g and g + 8 (g = lane / 4), of a 16-row
// group; register i belongs to row i / 2 % 2, in the accumulators of mma.sync (four a tile) and of wgmma alike.
// Milakov, Gimelshein, "Online normalizer calculation for softmax", 2018; FlashAttention-2 (Dao, 2023).
#pragma once

#include "ptx/math.h"
#include "ptx/shuffle.h"

namespace LACUNA_NS {

struct RowState {
  float maximum[2];  // of the scores so far, in their own units; -inf: none
  float sum[2];      // this lane's share of sum exp2(factor * (score - maximum))
};

__device__ __forceinline__ RowState empty_rows() {
  return RowState{{minus_infinity(), minus_infinity()}, {0.0f, 0.0f}};
}

// Offsets below this have a rounding error of at most a half.
constexpr float kSmallOffset = 16777216.0f;

// What the sum and the output of a row whose maximum is `maximum` must be multiplied with when its maximum becomes
// `merged`: for states made by softmax_step, by the same differences.
__device__ __forceinline__ float softmax_rescale(float maximum, float merged, float factor) {
  const float base = merged == minus_infinity() ? 0.0f : merged;
  const float offset = product(base, factor);
  const bool small = offset > -kSmallOffset && offset < kSmallOffset;
  return ex2(small ? product(maximum, factor) - offset : (maximum - base) * factor);
}

// Turns scores into exp2(factor * (score - maximum)) in place, updates the state, and returns in `rescale` what the
// output rows accumulated so far must be multiplied with. factor > 0.
//
// An exponential is one fused multiply-add and one ex2: exp2(factor * score - offset), offset = factor * maximum
// rounded. That is as good as the maximum itself, as long as everything uses the same offset. Its rounding error is a
// constant of the row that grows with it; where it could make exponentials overflow, the difference is taken first.
template <int kCount>
__device__ __forceinline__ void softmax_step(float (&scores)[kCount], float factor, RowState& state,
                                             float (&rescale)[2]) {
  float maximum[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
  for (int i = 0; i < kCount; ++i) maximum[i / 2 % 2] = max_float(maximum[i / 2 % 2], scores[i]);
  quad_max(maximum);
  float base[2];
  float offset[2];
  bool small = true;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    maximum[r] = max_float(state.maximum[r], maximum[r]);
    // A row that has seen nothing: any finite base makes exp2(-inf) = 0 of every score.
    base[r] = maximum[r] == minus_infinity() ? 0.0f : maximum[r];
    offset[r] = product(base[r], factor);
    small = small && offset[r] > -kSmallOffset && offset[r] < kSmallOffset;
  }
  if (ballot(!small) == 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rescale[r] = ex2(product(state.maximum[r], factor) - offset[r]);
      state.sum[r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      scores[i] = ex2(fused(scores[i], factor, -offset[i / 2 % 2]));
      state.sum[i / 2 % 2] += scores[i];
    }
  } else {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rescale[r] = ex2((state.maximum[r] - base[r]) * factor);
      state.sum[r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      scores[i] = ex2((scores[i] - base[i / 2 % 2]) * factor);
      state.sum[i / 2 % 2] += scores[i];
    }
  }
  state.maximum[0] = maximum[0];
  state.maximum[1] = maximum[1];
}

}  // namespace LACUNA_NS
