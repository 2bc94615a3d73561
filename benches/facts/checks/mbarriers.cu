// mbarriers: which parity a wait names, counts of arrivals, announcements of no bytes.
#include "checks/checks.h"
#include "harness/machine.h"
#include "ptx/mbarrier.h"
#include "ptx/thread.h"

namespace facts {

namespace {

constexpr int kThreads = 288;  // eight warps that release, and one that waits
constexpr int kArrivals = 8;   // as the empty barriers of the forward kernel
constexpr int kPhases = 6;
constexpr int kTries = 16;  // of a wait that must not pass; each may take some milliseconds
constexpr int kAnswers = 64;

struct BarrierParams {
  int32_t* answers;  // [kAnswers], in the order in which they are given
};

struct BarrierShared {
  Mbarrier barrier;
  Mbarrier other;
};

// Passes at some time: a single try may say no although the phase has completed.
__device__ bool passes(Mbarrier& barrier, uint32_t parity) {
  for (int i = 0; i < kTries; ++i) {
    if (mbarrier_try(barrier, parity)) return true;
  }
  return false;
}

// One thread. Answers come in pairs: parity 0, parity 1.
__global__ void __launch_bounds__(32) parity_kernel(const BarrierParams p) {
  auto& smem = shared<BarrierShared>();
  if (thread_index() != 0) return;
  mbarrier_init(smem.barrier, 1);
  mbarrier_init(smem.other, 1);
  fence_mbarrier_init();
  mbarrier_wait(smem.barrier, 1);  // fresh: the phase before the first has parity 1
  int32_t* to = p.answers;
  for (int phase = 0; phase <= kPhases; ++phase) {
    *to++ = passes(smem.barrier, 0);
    *to++ = passes(smem.barrier, 1);
    if (phase % 2 == 0) {
      mbarrier_arrive(smem.barrier);
    } else {
      mbarrier_arrive_expect(smem.barrier, 0);  // an item without keys announces no bytes
    }
    mbarrier_wait(smem.barrier, static_cast<uint32_t>(phase % 2));
  }
}

void check_parity(Finding& finding) {
  const Buffer<int32_t> answers(kAnswers);
  run<parity_kernel>("parity", 1, 32, sizeof(BarrierShared), BarrierParams{answers.data()});
  const std::vector<int32_t> got = answers.values();
  for (int phase = 0; phase <= kPhases; ++phase) {
    for (int parity = 0; parity < 2; ++parity) {
      // `phase` phases have completed: the last of them has parity (phase - 1) % 2.
      const int expected = parity == (phase + 1) % 2;
      if (got[static_cast<size_t>(2 * phase + parity)] == expected) continue;
      finding.differs("after %d phases a wait for parity %d %s", phase, parity, expected ? "hangs" : "passes");
    }
  }
}

// Eight warps arrive by one lane each; a ninth watches.
__global__ void __launch_bounds__(kThreads) count_kernel(const BarrierParams p) {
  auto& smem = shared<BarrierShared>();
  const int warp = thread_index() / 32;
  const bool leader = thread_index() % 32 == 0;
  if (thread_index() == 0) {
    mbarrier_init(smem.barrier, kArrivals);
    fence_mbarrier_init();
  }
  sync_threads();
  for (int phase = 0; phase < kPhases; ++phase) {
    const uint32_t parity = static_cast<uint32_t>(phase % 2);
    // All but one, which differs from phase to phase.
    if (leader && warp < kArrivals && warp != phase) mbarrier_arrive(smem.barrier);
    sync_threads();
    if (leader && warp == kArrivals) p.answers[2 * phase] = passes(smem.barrier, parity);
    sync_threads();
    if (leader && warp == phase) mbarrier_arrive(smem.barrier);
    mbarrier_wait(smem.barrier, parity);
    if (leader && warp == kArrivals) p.answers[2 * phase + 1] = passes(smem.barrier, parity);
    sync_threads();
  }
}

void check_counts(Finding& finding) {
  const Buffer<int32_t> answers(kAnswers);
  run<count_kernel>("counts", 1, kThreads, sizeof(BarrierShared), BarrierParams{answers.data()});
  const std::vector<int32_t> got = answers.values();
  for (int phase = 0; phase < kPhases; ++phase) {
    if (got[static_cast<size_t>(2 * phase)] != 0) finding.differs("phase %d completed after 7 of 8 arrivals", phase);
    if (got[static_cast<size_t>(2 * phase + 1)] != 1) finding.differs("phase %d not completed by 8 arrivals", phase);
  }
}

constexpr Fact kFacts[] = {
    {"mbarrier_parity",
     "a fresh barrier lets waits for parity 1 pass; then 0 and 1 in turn; an announcement of 0 bytes "
     "completes a phase",
     check_parity},
    {"mbarrier_counts", "a phase completes with the last of 8 arrivals, not before", check_counts},
};

}  // namespace

List<Fact> mbarrier_facts() { return list_of(kFacts); }

}  // namespace facts
