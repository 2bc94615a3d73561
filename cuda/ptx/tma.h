// cp.async.bulk.tensor: boxes of a tensor between global and shared memory, moved by the TMA unit in the asynchronous
// proxy. A load reports its bytes (the full box, clipped or not) to an mbarrier; stores are waited for by bulk groups
// (ptx/bulk.h). Coordinates are in elements, innermost first, and may lie outside the tensor.
#pragma once

#include "ptx/mbarrier.h"
#include "ptx/tensor_map.h"
#if LACUNA_SIMT
#include "simt/tma.h"
#endif

namespace LACUNA_NS {

// L2 eviction priorities, as createpolicy would make them.
constexpr uint64_t kEvictNormal = 0x1000000000000000u;
constexpr uint64_t kEvictFirst = 0x12F0000000000000u;
constexpr uint64_t kEvictLast = 0x14F0000000000000u;

__device__ __forceinline__ void tma_prefetch_map(const TensorMap& map) {
#if LACUNA_SIMT
  (void)map;
#else
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
#endif
}

// Box of a rank 4 tensor at (c0, c1, c2, c3) to shared address `destination`: 128-byte aligned, 1024-byte aligned for
// kSwizzle128 (the swizzle works on address bits).
__device__ __forceinline__ void tma_load_4d(uint32_t destination, const TensorMap& map, Mbarrier& barrier, int c0,
                                            int c1, int c2, int c3, uint64_t policy, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  (void)policy;
  const int32_t at[4] = {c0, c1, c2, c3};
  tensor_load(destination, map, shared_address(&barrier), at, 4, line);
#else
  (void)line;
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, "
      "%5, %6}], [%2], %7;" ::"r"(destination),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(shared_address(&barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3),
      "l"(policy)
      : "memory");
#endif
}

// Box at shared address `source` to the tensor; elements outside are dropped. Shared memory must have been fenced
// (ptx/fence_proxy.h) by its writers. Part of the thread's current bulk group.
__device__ __forceinline__ void tma_store_4d(const TensorMap& map, uint32_t source, int c0, int c1, int c2, int c3,
                                             int line = __builtin_LINE()) {
#if LACUNA_SIMT
  const int32_t at[4] = {c0, c1, c2, c3};
  tensor_store(map, source, at, 4, line);
#else
  (void)line;
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
                   reinterpret_cast<uint64_t>(&map)),
               "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
#endif
}

}  // namespace LACUNA_NS
