// Output rows from a warp's accumulator.
#pragma once

#include "sm80/forward/products.h"

namespace LACUNA_NS {
namespace sm80 {

// Fragment row r, times `factor`, to the row that starts at `out`. `pairs`: it starts on a 4-byte boundary.
template <class Traits>
__device__ __forceinline__ void write_row(typename Traits::Element* out, const Accumulator<Traits>& acc, int r,
                                          float factor, bool pairs) {
  using T = typename Traits::Element;
  out += 2 * (thread_index() % 4);
#pragma unroll
  for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
    const float low = acc.o[n][2 * r] * factor;
    const float high = acc.o[n][2 * r + 1] * factor;
    if (pairs) {
      *reinterpret_cast<uint32_t*>(out + 8 * n) = pack<T>(low, high);
    } else {
      out[8 * n] = from_float<T>(low);
      out[8 * n + 1] = from_float<T>(high);
    }
  }
}

// The same in f32.
template <class Traits>
__device__ __forceinline__ void write_row(float* out, const Accumulator<Traits>& acc, int r, float factor) {
  out += 2 * (thread_index() % 4);
#pragma unroll
  for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
    out[8 * n] = acc.o[n][2 * r] * factor;
    out[8 * n + 1] = acc.o[n][2 * r + 1] * factor;
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
