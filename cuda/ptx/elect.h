// elect.sync: one lane of a full warp, always the same one, but which is not said.
#pragma once

#include "ptx/thread.h"
#if LACUNA_SIMT
#include "simt/collective.h"
#endif

namespace LACUNA_NS {

__device__ __forceinline__ bool elect_one(int line = __builtin_LINE()) {
#if LACUNA_SIMT
  return warp_elect(line);
#else
  (void)line;
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
  return elected != 0;
#endif
}

}  // namespace LACUNA_NS
