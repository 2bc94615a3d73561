// setmaxnreg with the forward kernel's numbers: a producer that gives registers up, consumers that hold more than the
// kernel starts with.
#include "checks/checks.h"
#include "harness/machine.h"
#include "ptx/named_barrier.h"
#include "ptx/setmaxnreg.h"
#include "ptx/shuffle.h"
#include "sm90/forward/tile_table.h"

namespace facts {

namespace {

constexpr int kThreads = sm90::kThreads;
constexpr int kHeld = 192;  // values that a consumer holds at once: more than the 168 registers at entry
constexpr int kSteps = 8;
constexpr int kBlocks = 264;  // two for each multiprocessor, one after the other

struct RegisterParams {
  const uint32_t* source;  // [kHeld + kSteps]
  uint32_t* out;           // [blocks][384]
};

// What a consumer computes from its values: `turn` makes threads differ.
__host__ __device__ __forceinline__ void advance_values(uint32_t (&held)[kHeld], const uint32_t* source, int step,
                                                        uint32_t turn) {
  // Each value depends on one far away, so that all are alive all the time.
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    held[i] = held[i] * 3 + held[(i + 97) % kHeld] + source[kHeld + step] * turn;
  }
}

// Counts of the forward kernel.
using Traits = sm90::ForwardTraits<128, BFloat16, sm90::KeyLoads::kBoxes, false>;

__global__ void __launch_bounds__(kThreads, 1) register_kernel(const RegisterParams p) {
  const int warp = shuffle(thread_index() / 32, 0);
  const uint32_t thread = static_cast<uint32_t>(thread_index());
  uint32_t* const out = p.out + block_index() * kThreads + thread_index();
  if (warp < 4) {
    release_registers<Traits::kProducerRegisters>();
    *out = p.source[0] + thread;
  } else {
    take_registers<Traits::kConsumerRegisters>();
    uint32_t held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = p.source[i];
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      advance_values(held, p.source, step, thread);
      named_barrier_sync(1, 256);
    }
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) sum = sum * 5 + held[i];
    *out = sum;
  }
}

void check_registers(Finding& finding) {
  std::vector<uint32_t> source(kHeld + kSteps);
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<uint32_t>(3 * i % 7);
  const Buffer<uint32_t> device_source(source);
  const Buffer<uint32_t> out(size_t{kBlocks} * kThreads);
  run<register_kernel>("registers", kBlocks, kThreads, 0, RegisterParams{device_source.data(), out.data()});
  const std::vector<uint32_t> got = out.values();
  for (uint32_t thread = 0; thread < kThreads; ++thread) {
    uint32_t expected = source[0] + thread;
    if (thread >= sm90::kWarpgroupThreads) {
      uint32_t held[kHeld];
      for (size_t i = 0; i < kHeld; ++i) held[i] = source[i];
      for (int step = 0; step < kSteps; ++step) advance_values(held, source.data(), step, thread);
      expected = 0;
      for (const uint32_t value : held) expected = expected * 5 + value;
    }
    for (size_t block = 0; block < kBlocks; ++block) {
      const uint32_t value = got[block * kThreads + thread];
      if (value == expected) continue;
      finding.differs("block %zu, thread %u is 0x%08x, expected 0x%08x", block, thread, value, expected);
      return;
    }
  }
}

constexpr Fact kFacts[] = {
    {"setmaxnreg_72_216",
     "of 384 threads with 168 registers one warpgroup goes to 72, two go to 216 and hold 192 values", check_registers},
};

}  // namespace

List<Fact> register_facts() { return list_of(kFacts); }

}  // namespace facts
