// Who goes when: the turns of two warpgroups by named barriers, the one lane that elect chooses, the counter of a
// persistent grid.
#include "checks/checks.h"
#include "harness/machine.h"
#include "ptx/atomic.h"
#include "ptx/elect.h"
#include "ptx/named_barrier.h"
#include "ptx/shared.h"
#include "ptx/shuffle.h"

namespace facts {

namespace {

constexpr int kThreads = 256;
constexpr int kTurns = 64;  // of each warpgroup

struct TurnParams {
  int32_t* log;  // [2 * kTurns] warpgroups in the order of their turns
};

struct TurnShared {
  int32_t count;
};

// As the forward kernel's consumers: wait for the own barrier, do, arrive at the other one's. The last arrival stays
// without a partner when the block ends.
__global__ void __launch_bounds__(kThreads) turn_kernel(const TurnParams p) {
  auto& smem = shared<TurnShared>();
  const int warpgroup = shuffle(thread_index() / 128, 0);
  if (thread_index() == 0) smem.count = 0;
  sync_threads();
  if (warpgroup == 1) named_barrier_arrive(2, kThreads);
  for (int turn = 0; turn < kTurns; ++turn) {
    named_barrier_sync(2 + warpgroup, kThreads);
    if (thread_index() % 128 == 0) {
      p.log[smem.count] = warpgroup;
      smem.count = smem.count + 1;
    }
    named_barrier_arrive(2 + (warpgroup + 1) % 2, kThreads);
  }
}

void check_turns(Finding& finding) {
  const Buffer<int32_t> log(2 * kTurns);
  run<turn_kernel>("turns", 1, kThreads, sizeof(TurnShared), TurnParams{log.data()});
  const std::vector<int32_t> got = log.values();
  for (int i = 0; i < 2 * kTurns; ++i) {
    if (got[static_cast<size_t>(i)] == i % 2) continue;
    finding.differs("turn %d was taken by warpgroup %d, expected %d", i, got[static_cast<size_t>(i)], i % 2);
    return;
  }
}

struct ElectParams {
  uint32_t* lanes;  // [8 warps][2] who was elected, at two places
};

__global__ void __launch_bounds__(kThreads) elect_kernel(const ElectParams p) {
  // Qualified: CUDA's headers declare another one.
  const uint32_t first = LACUNA_NS::ballot(elect_one());
  const uint32_t second = LACUNA_NS::ballot(elect_one());
  if (thread_index() % 32 != 0) return;
  p.lanes[thread_index() / 32 * 2] = first;
  p.lanes[thread_index() / 32 * 2 + 1] = second;
}

void check_elect(Finding& finding) {
  const Buffer<uint32_t> lanes(16);
  run<elect_kernel>("elect", 1, kThreads, 0, ElectParams{lanes.data()});
  const std::vector<uint32_t> got = lanes.values();
  for (size_t warp = 0; warp < 8; ++warp) {
    if (__builtin_popcount(got[2 * warp]) != 1 || got[2 * warp] != got[2 * warp + 1]) {
      finding.differs("warp %zu elected lanes 0x%08x, then 0x%08x", warp, got[2 * warp], got[2 * warp + 1]);
    }
  }
}

constexpr int kItems = 5000;
constexpr int kBlocks = 132;

struct CounterParams {
  int32_t* counter;
  int32_t* taken;  // [kItems] how often
};

__global__ void __launch_bounds__(32) counter_kernel(const CounterParams p) {
  if (thread_index() != 0) return;
  for (int item = block_index(); item < kItems; item = grid_blocks() + atomic_add(p.counter, 1)) {
    atomic_add(p.taken + item, 1);
  }
}

void check_counter(Finding& finding) {
  const Buffer<int32_t> counter(1);
  const Buffer<int32_t> taken(kItems, 0);
  if (fill_zero(counter.data(), 1, stream()) != LACUNA_OK) give_up("%s", last_error());
  run<counter_kernel>("counter", kBlocks, 32, 0, CounterParams{counter.data(), taken.data()});
  const std::vector<int32_t> got = taken.values();
  for (int item = 0; item < kItems; ++item) {
    if (got[static_cast<size_t>(item)] != 1) {
      finding.differs("item %d was taken %d times", item, got[static_cast<size_t>(item)]);
    }
  }
  const int expected = kItems;  // every block gets one number too many
  if (counter.values()[0] != expected) finding.differs("the counter is %d, expected %d", counter.values()[0], expected);
}

constexpr Fact kFacts[] = {
    {"named_barrier_turns", "two warpgroups alternate by bar.sync and bar.arrive of 256; a last arrival may stay open",
     check_turns},
    {"elect_one_lane", "elect.sync chooses one lane, always the same", check_elect},
    {"persistent_counter", "a memset counter hands every item to one block", check_counter},
};

}  // namespace

List<Fact> turn_facts() { return list_of(kFacts); }

}  // namespace facts
