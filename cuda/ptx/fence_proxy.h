// fence.proxy.async.shared::cta: shared memory that this thread wrote with ordinary instructions (stores, stmatrix,
// cp.async that it has waited for) becomes visible to asynchronous readers (wgmma operands, TMA stores) of whoever is
// synchronised with this thread afterwards. The writer fences, then arrives at a barrier.
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/memory.h"
#include "simt/proxy.h"
#endif

namespace LACUNA_NS {

__device__ __forceinline__ void fence_async_shared() {
#if LACUNA_SIMT
  proxy_fence();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// An ordinary store to shared memory that an asynchronous reader will see: the SIMT host keeps track of it.
template <class T>
__device__ __forceinline__ void store_shared(T* destination, T value, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  proxy_generic_write(shared_offset(destination), sizeof(T), line);
#else
  (void)line;
#endif
  *destination = value;
}

}  // namespace LACUNA_NS
