// Dynamic shared memory: one struct a kernel, 32-bit addresses for the instructions that want them.
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/memory.h"
#endif

namespace LACUNA_NS {

#if !LACUNA_SIMT
extern __shared__ __align__(1024) unsigned char shared_arena[];
#endif

// The block's shared memory as S; its size is the launch's dynamic shared memory.
template <class S>
__device__ __forceinline__ S& shared() {
#if LACUNA_SIMT
  return *reinterpret_cast<S*>(current_fiber().block->arena);
#else
  return *reinterpret_cast<S*>(shared_arena);
#endif
}

// Address in the shared window, in bytes.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
#if LACUNA_SIMT
  return shared_offset(pointer);
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#endif
}

}  // namespace LACUNA_NS
