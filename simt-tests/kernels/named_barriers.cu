// bar.sync and bar.arrive: two warpgroups that take turns, a hand-over, operands, divergence, exited lanes.
#include "harness.h"
#include "ptx/cp_async.h"
#include "ptx/named_barrier.h"
#include "ptx/shared.h"

namespace lacuna_simt {

namespace {

constexpr int kGroup = 128;

// Two warpgroups take turns `count` times, the first begins. target[turn] = 1 + warpgroup. At the end the second has
// arrived at the barrier of the first, which nobody waits at: legal. Planted: nobody gives the first one its turn
// (variant 0), or it gives it to itself (1).
template <bool kPlanted>
__global__ void ping_pong(const TestParams p) {
  int& turn = shared<int>();
  const int group = thread_index() / kGroup;
  const int mine = 1 + group, other = 2 - group;
  if (thread_index() == 0) turn = 0;
  sync_threads();
  const int primer = kPlanted ? (p.variant == 0 ? -1 : 0) : 1;
  if (group == primer) named_barrier_arrive(1, 2 * kGroup);
  for (int64_t i = 0; i < p.count; ++i) {
    named_barrier_sync(mine, 2 * kGroup);
    if (thread_index() % kGroup == 0) target_words(p)[turn++] = static_cast<uint32_t>(1 + group);
    named_barrier_arrive(other, 2 * kGroup);
  }
}

// Warp 0 copies a tile for the other warps, twice, and waits until they have read it. Planted: they read it without
// waiting for it.
template <bool kPlanted>
__global__ void hand_over(const TestParams p) {
  struct Tile {
    uint32_t word[128];
  };
  Tile& tile = shared<Tile>();
  const int threads = static_cast<int>(p.threads);
  const int thread = thread_index();
  for (int64_t index = 0; index < p.count; ++index) {
    if (thread < 32) {
      if (index > 0) named_barrier_sync(5, threads);
      cp_async_16(shared_address(&tile.word[4 * thread]), source_words(p) + 128 * index + 4 * thread, 16);
      cp_async_commit();
      cp_async_wait<0>();
      named_barrier_arrive(4, threads);
    } else {
      if (!kPlanted) named_barrier_sync(4, threads);
      target_words(p)[index * (threads - 32) + thread - 32] = tile.word[thread - 32];
      if (index + 1 < p.count) named_barrier_arrive(5, threads);
    }
  }
}

// Planted, by variant: counts that differ (0), no multiple of 32 (1), more than the block has (2), none (3); barrier 0
// (4), 16 (5); a warp arrives twice (6).
template <bool kPlanted>
__global__ void operands(const TestParams p) {
  const int64_t bug = kPlanted ? p.variant : -1;
  const bool first = thread_index() < 32;
  for (int i = 0; bug == 6 && first && i < 2; ++i) named_barrier_arrive(3, 96);
  sync_threads();
  const int threads = bug == 0 && first ? 64 : bug == 1 ? 80 : bug == 2 ? 128 : bug == 3 ? 0 : 96;
  named_barrier_sync(bug == 4 ? 0 : bug == 5 ? 16 : 3, threads);
  target_words(p)[thread_index()] = 1;
}

// Warps at different lines, one of them without waiting: legal. Planted: the lanes of a warp at two lines (variant 0),
// at two barriers (1), arriving and waiting (2), or half of them not at all (3).
template <bool kPlanted>
__global__ void divergence(const TestParams p) {
  const int64_t bug = kPlanted ? p.variant : -1;
  const int thread = thread_index();
  const bool upper = thread % 32 >= 16;
  if (thread >= 64) {
    named_barrier_arrive(3, 96);
  } else if (thread >= 32) {
    named_barrier_sync(3, 96);
  } else if (bug == 0 && upper) {
    named_barrier_sync(3, 96);
  } else if (bug == 2 && upper) {
    named_barrier_arrive(3, 96);
  } else if (bug != 3 || upper) {
    named_barrier_sync(bug == 1 && upper ? 2 : 3, 96);
  }
  sync_warp();
  target_words(p)[thread] = 1;
}

// Legal: the upper half of each warp returns before the barrier, at once or after the lower half has come to it.
__global__ void exited_lanes(const TestParams p) {
  const int thread = thread_index();
  if (thread % 32 >= 16) return;
  named_barrier_sync(7, static_cast<int>(p.threads));
  target_words(p)[thread / 32 * 16 + thread % 32] = 1;
}

const TestKernel kKernels[] = {
    {"ping_pong", start<ping_pong<true>>, start<ping_pong<false>>},
    {"hand_over", start<hand_over<true>>, start<hand_over<false>>},
    {"operands", start<operands<true>>, start<operands<false>>},
    {"divergence", start<divergence<true>>, start<divergence<false>>},
    {"exited_lanes", nullptr, start<exited_lanes>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_named_barriers, lacuna_simt::kKernels)
