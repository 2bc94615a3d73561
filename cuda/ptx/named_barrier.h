// bar.sync and bar.arrive on one of the block's 16 barriers (0 is sync_threads). Arrivals count by warps: `threads` is
// the number of threads of all warps that take part, the same for everyone, a multiple of 32.
#pragma once

#include "ptx/thread.h"
#if LACUNA_SIMT
#include "simt/named_barrier.h"
#endif

namespace LACUNA_NS {

// Arrives and waits for the others; all threads of the warp must come.
__device__ __forceinline__ void named_barrier_sync(int id, int threads, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  named_barrier(id, threads, true, line);
#else
  (void)line;
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Arrives without waiting.
__device__ __forceinline__ void named_barrier_arrive(int id, int threads, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  named_barrier(id, threads, false, line);
#else
  (void)line;
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

}  // namespace LACUNA_NS
