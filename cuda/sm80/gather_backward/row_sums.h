// Rows of f32 sums in global memory, which launches add to one after the other.
#pragma once

#include "sm80/forward/products.h"

namespace LACUNA_NS {
namespace sm80 {

// Adds fragment row r to a row of f32 sums that nobody else touches meanwhile.
template <class Traits>
__device__ __forceinline__ void add_row(float* to, const Accumulator<Traits>& acc, int r) {
  to += 2 * (thread_index() % 4);
#pragma unroll
  for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
    to[8 * n] += acc.o[n][2 * r];
    to[8 * n + 1] += acc.o[n][2 * r + 1];
  }
}

// Adds a row of f32 sums to fragment row r.
template <class Traits>
__device__ __forceinline__ void take_row(Accumulator<Traits>& acc, const float* from, int r) {
  from += 2 * (thread_index() % 4);
#pragma unroll
  for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
    acc.o[n][2 * r] += from[8 * n];
    acc.o[n][2 * r + 1] += from[8 * n + 1];
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
