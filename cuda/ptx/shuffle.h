// Warp exchange: shfl.sync, vote.sync, and reductions over the four lanes that share a fragment row.
#pragma once

#include "ptx/thread.h"
#if LACUNA_SIMT
#include "simt/collective.h"
#endif

namespace LACUNA_NS {

// The value of lane `source`, a full warp.
__device__ __forceinline__ int32_t shuffle(int32_t value, int source, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  return warp_shuffle(value, source, line);
#else
  (void)line;
  return __shfl_sync(kFullWarp, value, source);
#endif
}

// Bit i: the predicate of lane i, a full warp.
__device__ __forceinline__ uint32_t ballot(bool predicate, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  return warp_ballot(predicate, line);
#else
  (void)line;
  return __ballot_sync(kFullWarp, predicate);
#endif
}

// popc.b32.
__device__ __forceinline__ int popcount(uint32_t bits) {
#if LACUNA_SIMT
  return __builtin_popcount(bits);
#else
  return __popc(bits);
#endif
}

// bfind and brev: the index of the lowest set bit; bits != 0.
__device__ __forceinline__ int lowest_bit(uint32_t bits) {
#if LACUNA_SIMT
  return __builtin_ctz(bits);
#else
  return __ffs(static_cast<int>(bits)) - 1;
#endif
}

// Minimum over the full warp.
__device__ __forceinline__ int32_t warp_min(int32_t value, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  return warp_minimum(value, line);
#else
  (void)line;
  return __reduce_min_sync(kFullWarp, value);
#endif
}

// Sum over the full warp.
__device__ __forceinline__ int32_t warp_add(int32_t value, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  return warp_total(value, line);
#else
  (void)line;
  return __reduce_add_sync(kFullWarp, value);
#endif
}

// Sum over the full warp, in the order of a butterfly: x0 + x16, x8 + x24 and so on.
__device__ __forceinline__ float warp_sum(float value, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  return warp_float_total(value, line);
#else
  (void)line;
#pragma unroll
  for (int bit = kWarpThreads / 2; bit > 0; bit /= 2) value += __shfl_xor_sync(kFullWarp, value, bit);
  return value;
#endif
}

// Every lane of a quad (lanes 4g .. 4g+3) receives the maximum, elementwise; NaN is dropped as fmaxf drops it.
template <int kCount>
__device__ __forceinline__ void quad_max(float (&x)[kCount], int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warp_quad_reduce(x, kCount, true, line);
#else
  (void)line;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    x[i] = fmaxf(x[i], __shfl_xor_sync(kFullWarp, x[i], 1));
    x[i] = fmaxf(x[i], __shfl_xor_sync(kFullWarp, x[i], 2));
  }
#endif
}

// Every lane of a quad receives (x0 + x1) + (x2 + x3), elementwise.
template <int kCount>
__device__ __forceinline__ void quad_sum(float (&x)[kCount], int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warp_quad_reduce(x, kCount, false, line);
#else
  (void)line;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    x[i] += __shfl_xor_sync(kFullWarp, x[i], 1);
    x[i] += __shfl_xor_sync(kFullWarp, x[i], 2);
  }
#endif
}

}  // namespace LACUNA_NS
