// Thread and block indices, block and warp barriers: %tid, %ctaid, bar.sync, bar.warp.sync.
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/fiber.h"
#endif

namespace LACUNA_NS {

constexpr int kWarpThreads = 32;
constexpr uint32_t kFullWarp = 0xffffffffu;

// Blocks and grids of this library are one-dimensional.
__device__ __forceinline__ int thread_index() {
#if LACUNA_SIMT
  return current_fiber().thread;
#else
  return static_cast<int>(threadIdx.x);
#endif
}

__device__ __forceinline__ int block_index() {
#if LACUNA_SIMT
  return static_cast<int>(current_fiber().block->index);
#else
  return static_cast<int>(blockIdx.x);
#endif
}

__device__ __forceinline__ int grid_blocks() {
#if LACUNA_SIMT
  return static_cast<int>(current_fiber().block->grid);
#else
  return static_cast<int>(gridDim.x);
#endif
}

// Every thread of the block that has not exited must come to the same call.
__device__ __forceinline__ void sync_threads(int line = __builtin_LINE()) {
#if LACUNA_SIMT
  block_barrier(line);
#else
  (void)line;
  __syncthreads();
#endif
}

__device__ __forceinline__ void sync_warp(uint32_t mask = kFullWarp, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warp_sync(mask, line);
#else
  (void)line;
  __syncwarp(mask);
#endif
}

}  // namespace LACUNA_NS
