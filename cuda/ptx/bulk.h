// cp.async.bulk: runs of bytes between global and shared memory in the asynchronous proxy, additions of f32 to global
// memory, and the bulk groups of a thread. Addresses and sizes are multiples of 16 bytes.
#pragma once

#include "ptx/mbarrier.h"
#if LACUNA_SIMT
#include "simt/bulk.h"
#endif

namespace LACUNA_NS {

// Global to shared; the bytes are reported to the barrier.
__device__ __forceinline__ void bulk_load(uint32_t destination, const void* source, int bytes, Mbarrier& barrier,
                                          int line = __builtin_LINE()) {
#if LACUNA_SIMT
  bulk_copy_in(destination, source, bytes, shared_address(&barrier), line);
#else
  (void)line;
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(destination),
      "l"(source), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
#endif
}

// Shared to global; part of the thread's current bulk group.
__device__ __forceinline__ void bulk_store(void* destination, uint32_t source, int bytes, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  bulk_copy_out(destination, source, bytes, line);
#else
  (void)line;
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(destination), "r"(source), "r"(bytes)
               : "memory");
#endif
}

// destination[i] += source[i] in f32, each addition atomic, in any order. Part of the thread's current bulk group.
__device__ __forceinline__ void bulk_add_f32(float* destination, uint32_t source, int bytes,
                                             int line = __builtin_LINE()) {
#if LACUNA_SIMT
  bulk_reduce_f32(destination, source, bytes, line);
#else
  (void)line;
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(destination),
               "r"(source), "r"(bytes)
               : "memory");
#endif
}

// Closes the thread's current bulk group.
__device__ __forceinline__ void bulk_commit() {
#if LACUNA_SIMT
  bulk_close_group();
#else
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Waits until at most kPending of this thread's bulk groups have sources that are still to be read: their shared memory
// may be written again, but what they wrote need not be visible yet.
template <int kPending>
__device__ __forceinline__ void bulk_wait_read(int line = __builtin_LINE()) {
#if LACUNA_SIMT
  bulk_await(kPending, true, line);
#else
  (void)line;
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
#endif
}

// Waits until at most kPending of this thread's bulk groups are unfinished.
template <int kPending>
__device__ __forceinline__ void bulk_wait(int line = __builtin_LINE()) {
#if LACUNA_SIMT
  bulk_await(kPending, false, line);
#else
  (void)line;
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace LACUNA_NS
