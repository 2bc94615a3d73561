// wgmma.mma_async: a warpgroup (four consecutive warps, the first a multiple of 4) multiplies a 64 x 16 matrix A with a
// 16 x N matrix B of f16 or bf16 and adds to 64 x N in f32. B, and A unless it comes from registers, are read from
// shared memory in the asynchronous proxy, at any time between the instruction and the wait for its group.
//
// Accumulator, warp w and lane 4g + t of the warpgroup: register i is row 16w + g + 8 * (i / 2 % 2), column
// 8 * (i / 4) + 2t + i % 2. A from registers: {(g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)} as pairs,
// so that the accumulators of 16 columns, packed, are the A of a second product.
//
// Protocol: wgmma_fence before the first one and after any register (accumulator or A) was touched; wgmma_commit closes
// a group; nobody touches those registers, or the shared memory read, before wgmma_wait. PTX ISA 9.7.15.
#pragma once

#include "ptx/machine.h"
#include "ptx/tensor_map.h"
#if LACUNA_SIMT
#include "simt/wgmma.h"
#else
#include "ptx/wgmma_asm.h"
#endif

namespace LACUNA_NS {

// How B lies in shared memory: kK: the 16 k values of a column are consecutive (K of Q K^T). kMn: the columns of one k
// are consecutive (V of P V).
enum class Major : int { kK = 0, kMn = 1 };

// Describes a matrix in shared memory at `address`, for swizzled layouts whose pattern starts at a 1024-byte boundary
// (128-byte swizzle; 512 and 256 for the others). Bytes, multiples of 16. K-major: `stride` from 8 rows to the next 8,
// `leading` unused. MN-major: `stride` from 8 values of k to the next 8, `leading` from one swizzle span of columns
// (64 elements for the 128-byte swizzle) to the next.
__host__ __device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address, int leading, int stride,
                                                              Swizzle swizzle) {
  const uint64_t layout = swizzle == Swizzle::kSwizzle128  ? 1
                          : swizzle == Swizzle::kSwizzle64 ? 2
                          : swizzle == Swizzle::kSwizzle32 ? 3
                                                           : 0;
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | layout << 62;
}

// The descriptor `bytes` further on.
__host__ __device__ __forceinline__ uint64_t advanced(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes >> 4);
}

__device__ __forceinline__ void wgmma_fence(int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warpgroup_fence(line);
#else
  (void)line;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit(int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warpgroup_commit(line);
#else
  (void)line;
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until at most kPending of the warpgroup's groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait(int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warpgroup_wait(kPending, line);
#else
  (void)line;
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// Tells the compiler that wgmma reads and writes these registers: it must not move their uses over this point.
template <int kCount>
__device__ __forceinline__ void wgmma_registers(float (&r)[kCount]) {
#if LACUNA_SIMT
  (void)r;
#else
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(r[i])::"memory");
#endif
}
template <int kCount>
__device__ __forceinline__ void wgmma_registers(uint32_t (&r)[kCount]) {
#if LACUNA_SIMT
  (void)r;
#else
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(r[i])::"memory");
#endif
}

// d (+)= A B, both from shared memory, A K-major. N = 2 * kCount in {8, 16, 32, 64, 96, 128, 192, 256}; the array must
// outlive the wait.
template <class T, Major kMajorB, int kCount>
__device__ __forceinline__ void wgmma_ss(float (&d)[kCount], uint64_t a, uint64_t b, bool accumulate,
                                         int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warpgroup_product(d, kCount, a, nullptr, b, kMajorB == Major::kMn, accumulate, IsBFloat16<T>::kValue, line);
#else
  (void)line;
  WgmmaText<2 * kCount>::template ss<T, static_cast<int>(kMajorB)>(d, a, b, accumulate);
#endif
}

// The same with A from registers, which must stay untouched until the wait as well.
template <class T, Major kMajorB, int kCount>
__device__ __forceinline__ void wgmma_rs(float (&d)[kCount], const uint32_t (&a)[4], uint64_t b, bool accumulate,
                                         int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warpgroup_product(d, kCount, 0, a, b, kMajorB == Major::kMn, accumulate, IsBFloat16<T>::kValue, line);
#else
  (void)line;
  WgmmaText<2 * kCount>::template rs<T, static_cast<int>(kMajorB)>(d, a, b, accumulate);
#endif
}

}  // namespace LACUNA_NS
