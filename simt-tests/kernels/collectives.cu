// Warp collectives: masks, divergence, exchange through memory, and what they compute.
#include "harness.h"
#include "ptx/atomic.h"
#include "ptx/shared.h"
#include "ptx/shuffle.h"

namespace lacuna_simt {

namespace {

struct Words {
  uint32_t word[1024];
};

// Lanes exchange words through shared memory. Planted: no __syncwarp between the store and the load.
template <bool kPlanted>
__global__ void exchange(const TestParams p) {
  Words& smem = shared<Words>();
  const int thread = thread_index();
  const int other = thread ^ 5;  // in the same warp
  smem.word[thread] = source_words(p)[thread];
  if (!kPlanted) sync_warp();
  target_words(p)[thread] = smem.word[other];
}

// Planted: no __syncwarp between loads and the stores of the next round.
template <bool kPlanted>
__global__ void exchange_rounds(const TestParams p) {
  Words& smem = shared<Words>();
  const int thread = thread_index();
  smem.word[thread] = source_words(p)[thread];
  for (int64_t round = 0; round < p.count; ++round) {
    sync_warp();
    const uint32_t got = smem.word[thread ^ 1] + smem.word[thread ^ 2];
    if (!kPlanted) sync_warp();
    smem.word[thread] = got;
  }
  target_words(p)[thread] = smem.word[thread];
}

// Planted: a full-warp barrier in which lane 31 takes no part as it has returned.
template <bool kPlanted>
__global__ void exited_lane(const TestParams p) {
  const int lane = thread_index() % 32;
  if (lane == 31) return;
  sync_warp(kPlanted ? kFullWarp : 0x7fffffffu);
  target_words(p)[thread_index()] = 1;
}

// Planted: lane 20 passes a mask that it is not part of.
template <bool kPlanted>
__global__ void outside_mask(const TestParams p) {
  const int lane = thread_index() % 32;
  const bool low = lane < 16 || (kPlanted && lane == 20);
  sync_warp(low ? 0x0000ffffu : 0xffff0000u);
  target_words(p)[thread_index()] = 1;
}

// Legal: both halves of a warp, each with a mask and at a place of its own, many times, out of step.
__global__ void half_masks(const TestParams p) {
  Words& smem = shared<Words>();
  const int thread = thread_index();
  uint32_t value = source_words(p)[thread];
  const int rounds = thread % 32 < 16 ? 5 : 9;
  for (int round = 0; round < rounds; ++round) {
    smem.word[thread] = value;
    if (thread % 32 < 16) {
      sync_warp(0x0000ffffu);
      value += smem.word[thread ^ 3];
      sync_warp(0x0000ffffu);
    } else {
      sync_warp(0xffff0000u);
      value += smem.word[thread ^ 7];
      sync_warp(0xffff0000u);
    }
  }
  target_words(p)[thread] = value;
}

// 48 threads: the second warp has 16 lanes. Planted: it names 32.
template <bool kPlanted>
__global__ void short_warp(const TestParams p) {
  const bool second = thread_index() >= 32;
  sync_warp(second && !kPlanted ? 0x0000ffffu : kFullWarp);
  target_words(p)[thread_index()] = 1;
}

// Planted: half of the warp comes to a ballot, the other half to a minimum (variant 0) or to another ballot (1).
template <bool kPlanted>
__global__ void divergent(const TestParams p) {
  const bool first = !kPlanted || thread_index() % 32 < 16;
  uint32_t result;
  if (first) {
    result = ballot(true);
  } else if (p.variant == 0) {
    result = static_cast<uint32_t>(warp_min(1));
  } else {
    result = ballot(true);
  }
  target_words(p)[thread_index()] = result;
}

// Planted: lane 3 leaves while the others wait for it.
template <bool kPlanted>
__global__ void leaves_early(const TestParams p) {
  if (kPlanted && thread_index() % 32 == 3) return;
  target_words(p)[thread_index()] = static_cast<uint32_t>(shuffle(thread_index(), 3));
}

// Planted: the halves of a warp name each other's first lanes, so that no mask is ever complete.
template <bool kPlanted>
__global__ void overlapping_masks(const TestParams p) {
  const int lane = thread_index() % 32;
  const uint32_t more = kPlanted ? 0x00018000u : 0;
  sync_warp((lane < 16 ? 0x0000ffffu : 0xffff0000u) | more);
  target_words(p)[thread_index()] = 1;
}

// Planted: shfl from a lane that no warp has.
template <bool kPlanted>
__global__ void shuffle_source(const TestParams p) {
  const int source = kPlanted ? 32 : 31;
  target_words(p)[thread_index()] = static_cast<uint32_t>(shuffle(thread_index(), source));
}

// 14 words a thread: shuffle from lane (5 l + 3) % 32, ballot of odd values, minimum, then floats: quad maximum and
// sum of the thread's values, and of NaN in one lane of each quad; at the end sums over the warp, of integers that wrap
// and of floats that show the order.
__global__ void values(const TestParams p) {
  const int thread = thread_index();
  const int lane = thread % 32;
  const int32_t mine = static_cast<const int32_t*>(p.source)[thread];
  uint32_t* const out = target_words(p) + 14 * thread;
  out[0] = static_cast<uint32_t>(shuffle(mine, (5 * lane + 3) % 32));
  out[1] = ballot((mine & 1) != 0);
  out[2] = static_cast<uint32_t>(warp_min(mine));
  float pair[2] = {static_cast<float>(mine), static_cast<float>(-mine)};
  quad_max(pair);
  memcpy(out + 3, pair, 8);
  float sums[2] = {static_cast<float>(mine), 1e8f * static_cast<float>(lane % 4 == 0) + 1.0f};
  quad_sum(sums);
  memcpy(out + 5, sums, 8);
  float holes[1];
  memset(holes, 0xFF, 4);
  if (lane % 4 != 2) holes[0] = static_cast<float>(mine);
  quad_max(holes);
  memcpy(out + 7, holes, 4);
  out[8] = static_cast<uint32_t>(popcount(static_cast<uint32_t>(mine)));
  out[9] = static_cast<uint32_t>(block_index());
  out[10] = static_cast<uint32_t>(grid_blocks());
  out[11] = static_cast<uint32_t>(thread);
  out[12] = static_cast<uint32_t>(warp_add(static_cast<int32_t>(static_cast<uint32_t>(mine) << 26)));
  const float total = warp_sum(lane % 7 == 5 ? 1e8f : static_cast<float>(mine));
  memcpy(out + 13, &total, 4);
}

// Threads of all blocks draw tickets; target[0] is the counter, the rest says who drew what. The order is a schedule.
__global__ void tickets(const TestParams p) {
  int32_t* const counter = static_cast<int32_t*>(p.target);
  for (int64_t i = 0; i < p.count; ++i) {
    const int32_t ticket = atomic_add(counter, 1);
    target_words(p)[1 + ticket] = static_cast<uint32_t>(block_index() * p.threads + thread_index());
    sync_warp(thread_index() % 32 < 16 ? 0x0000ffffu : 0xffff0000u);
  }
}

// Thread 0 polls with atomics until the last thread has raised a flag. Planted: nobody raises it.
template <bool kPlanted>
__global__ void poll(const TestParams p) {
  int32_t* const flag = static_cast<int32_t*>(p.target);
  const int thread = thread_index();
  if (thread == 0) {
    while (atomic_add(flag, 0) == 0) {
    }
    target_words(p)[1] = 1;
  } else if (thread == p.threads - 1 && !kPlanted) {
    atomic_add(flag, 1);
  } else {
    sync_threads();
  }
}

const TestKernel kKernels[] = {
    {"exchange", start<exchange<true>>, start<exchange<false>>},
    {"exchange_rounds", start<exchange_rounds<true>>, start<exchange_rounds<false>>},
    {"exited_lane", start<exited_lane<true>>, start<exited_lane<false>>},
    {"outside_mask", start<outside_mask<true>>, start<outside_mask<false>>},
    {"half_masks", nullptr, start<half_masks>},
    {"short_warp", start<short_warp<true>>, start<short_warp<false>>},
    {"divergent", start<divergent<true>>, start<divergent<false>>},
    {"leaves_early", start<leaves_early<true>>, start<leaves_early<false>>},
    {"overlapping_masks", start<overlapping_masks<true>>, start<overlapping_masks<false>>},
    {"shuffle_source", start<shuffle_source<true>>, start<shuffle_source<false>>},
    {"values", nullptr, start<values>},
    {"tickets", nullptr, start<tickets>},
    {"poll", start<poll<true>>, start<poll<false>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_collectives, lacuna_simt::kKernels)
