// Maxima that keep NaN: max.NaN.f32 of two values, and over lanes redux.sync (on the bits) and shfl.sync.
#pragma once

#include "ptx/math.h"
#include "ptx/shuffle.h"

namespace LACUNA_NS {

// The larger of two; a NaN wins.
__device__ __forceinline__ float max_keeping_nan(float a, float b) {
#if LACUNA_SIMT
  return a != a || a > b ? a : b;
#else
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#endif
}

// Maximum over the full warp of values that are NaN or at least 0: without the sign, their bits are in their order,
// with NaN above all.
__device__ __forceinline__ float warp_max_keeping_nan(float value, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  const int32_t bits = static_cast<int32_t>(float_bits(value) & 0x7fffffffu);
  return bits_float(static_cast<uint32_t>(-warp_minimum(-bits, line)));
#else
  (void)line;
  return __int_as_float(__reduce_max_sync(kFullWarp, __float_as_int(value) & 0x7fffffff));
#endif
}

// Every lane of a quad (lanes 4g .. 4g+3) receives the maximum.
__device__ __forceinline__ float quad_max_keeping_nan(float value, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  const int lane = thread_index() % 32;
  for (int bit = 1; bit <= 2; bit *= 2) {
    const int32_t other = warp_shuffle(static_cast<int32_t>(float_bits(value)), lane ^ bit, line);
    value = max_keeping_nan(value, bits_float(static_cast<uint32_t>(other)));
  }
  return value;
#else
  (void)line;
  value = max_keeping_nan(value, __shfl_xor_sync(kFullWarp, value, 1));
  return max_keeping_nan(value, __shfl_xor_sync(kFullWarp, value, 2));
#endif
}

}  // namespace LACUNA_NS
