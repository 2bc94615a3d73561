// mbarrier: a barrier object in shared memory that counts arrivals and bytes of asynchronous copies. A phase completes
// when all expected arrivals have come and no announced byte is missing; the next one begins at once.
//
// A wait names the parity of the phase it waits for: 0 for the first phase, 1 for the second, and so on. On a fresh
// barrier a wait for parity 1 passes: that is the phase before the first, so producers start with it.
#pragma once

#include "ptx/shared.h"
#if LACUNA_SIMT
#include "simt/mbarrier.h"
#endif

namespace LACUNA_NS {

// Lies in shared memory; nothing but the functions below touches it.
struct alignas(8) Mbarrier {
  uint64_t state;
};

// By one thread, before fence_mbarrier_init and a block barrier. `arrivals` in 1..2^20 - 1.
__device__ __forceinline__ void mbarrier_init(Mbarrier& barrier, int arrivals, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  mbarrier_start(shared_address(&barrier), arrivals, line);
#else
  (void)line;
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
#endif
}

// Makes initialised barriers visible to asynchronous copies.
__device__ __forceinline__ void fence_mbarrier_init() {
#if !LACUNA_SIMT
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// One arrival; what this thread wrote before is visible to who waits.
__device__ __forceinline__ void mbarrier_arrive(Mbarrier& barrier, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  mbarrier_arrival(shared_address(&barrier), 0, line);
#else
  (void)line;
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
#endif
}

// Announces `bytes` of asynchronous copies, then arrives once.
__device__ __forceinline__ void mbarrier_arrive_expect(Mbarrier& barrier, int bytes, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  mbarrier_arrival(shared_address(&barrier), bytes, line);
#else
  (void)line;
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes)
               : "memory");
#endif
}

// Has the phase of this parity completed? May say no although it has.
__device__ __forceinline__ bool mbarrier_try(Mbarrier& barrier, uint32_t parity, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  return mbarrier_poll(shared_address(&barrier), parity, line);
#else
  (void)line;
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(shared_address(&barrier)), "r"(parity)
               : "memory");
  return done != 0;
#endif
}

// Waits until the phase of this parity has completed. Only the current phase and the one before may be asked for.
__device__ __forceinline__ void mbarrier_wait(Mbarrier& barrier, uint32_t parity, int line = __builtin_LINE()) {
#if LACUNA_SIMT
  mbarrier_await(shared_address(&barrier), parity, line);
#else
  (void)line;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "lacuna_wait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1, 0x989680;\n"
      "@p bra lacuna_done;\n"
      "bra lacuna_wait;\n"
      "lacuna_done:\n"
      "}" ::"r"(shared_address(&barrier)),
      "r"(parity)
      : "memory");
#endif
}

}  // namespace LACUNA_NS
