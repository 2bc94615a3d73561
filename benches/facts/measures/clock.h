// The multiprocessor's cycle counter. Kernels of the library have no use for it, so it has no header in cuda/ptx/.
#pragma once

#include "ptx/thread.h"

namespace facts {

using namespace LACUNA_NS;

__device__ __forceinline__ int64_t cycles() {
  int64_t now;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(now)::"memory");
  return now;
}

// Cycles of block 0 from `begin` to now, in *to.
__device__ __forceinline__ void report_cycles(int64_t* to, int64_t begin) {
  if (block_index() == 0 && thread_index() == 0) *to = cycles() - begin;
}

}  // namespace facts
