// Atomics on 32-bit integers in shared or global memory.
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/fiber.h"
#endif

namespace LACUNA_NS {

// Returns the value before the addition.
__device__ __forceinline__ int32_t atomic_add(int32_t* address, int32_t value) {
#if LACUNA_SIMT
  const int32_t before = __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  polling_point();
  return before;
#else
  return atomicAdd(address, value);
#endif
}

}  // namespace LACUNA_NS
