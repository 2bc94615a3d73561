// cp.async: 16 bytes from global to shared memory, in groups that a thread commits and waits for. A copy is visible
// to other threads only after its issuer's wait *and* a barrier.
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/copy.h"
#endif

namespace LACUNA_NS {

// Copies source_bytes (0 to 16) and fills the rest with zeros; with 0 the source is not touched.
__device__ __forceinline__ void cp_async_16(uint32_t destination, const void* source, int source_bytes,
                                            int line = __builtin_LINE()) {
#if LACUNA_SIMT
  copy_issue(destination, source, source_bytes, line);
#else
  (void)line;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
               "r"(source_bytes)
               : "memory");
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#if LACUNA_SIMT
  copy_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void cp_async_wait(int line = __builtin_LINE()) {
#if LACUNA_SIMT
  copy_wait(kPending, line);
#else
  (void)line;
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace LACUNA_NS
