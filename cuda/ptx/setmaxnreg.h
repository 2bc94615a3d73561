// setmaxnreg: a warpgroup gives registers back to the block's pool, or takes more from it. All warps of the warpgroup
// execute it; the number is the new count of registers a thread, a multiple of 8 in 24..=256.
//
// The kernel needs __launch_bounds__, or ptxas ignores it (advisory C7508).
#pragma once

#include "ptx/thread.h"
#if LACUNA_SIMT
#include "simt/registers.h"
#endif

namespace LACUNA_NS {

template <int kRegisters>
__device__ __forceinline__ void release_registers(int line = __builtin_LINE()) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "a multiple of 8 in 24..=256");
#if LACUNA_SIMT
  registers_change(kRegisters, false, line);
#else
  (void)line;
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// Waits until the pool has them.
template <int kRegisters>
__device__ __forceinline__ void take_registers(int line = __builtin_LINE()) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "a multiple of 8 in 24..=256");
#if LACUNA_SIMT
  registers_change(kRegisters, true, line);
#else
  (void)line;
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

}  // namespace LACUNA_NS
