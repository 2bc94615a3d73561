// mbarriers: rings of stages between a producer warp and two consumer warpgroups, phases, counts, misuse.
#include "harness.h"
#include "ptx/cp_async.h"
#include "ptx/elect.h"
#include "ptx/mbarrier.h"

namespace lacuna_simt {

namespace {

constexpr int kStages = 3;
constexpr int kProducers = 128;  // threads of the producer's warpgroup; its first warp works
constexpr int kConsumerWarps = 8;
constexpr int kTileWords = 128;

struct Ring {
  uint32_t word[kStages][kTileWords];
  Mbarrier full[kStages];
  Mbarrier empty[kStages];
};

struct Cursor {
  int stage;
  uint32_t parity;

  __device__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// Variants of the correct ring.
enum : int64_t {
  kAllLanes,       // of a warp wait
  kElected,        // one lane is the producer
  kPolling,        // mbarrier_try in a loop
  kSecondSkips,    // the second warpgroup does not look at odd tiles, and frees them with the next
  kEveryLaneFrees  // all 256 consumers arrive at `empty`
};

// Variants of the planted one.
enum : int64_t {
  kMissingArrive,   // warp 5 keeps the first stage
  kProducerParity,  // the producer waits for stages that nobody has used
  kConsumerParity,  // the consumers begin with the phase before the first
  kCountTooLarge,   // `empty` expects one warp more than there is
  kNoFullWait,
  kPollOnce,
  kStragglers,  // all lanes of the producer wait, lane 0 does the rest, and nothing keeps them together
  kNoBug
};

__device__ void wait_or_poll(Mbarrier& barrier, uint32_t parity, bool poll) {
  if (!poll) {
    mbarrier_wait(barrier, parity);
    return;
  }
  while (!mbarrier_try(barrier, parity)) {
  }
}

// The calling lane copies pieces [piece, piece + count) of tile `index`, 16 bytes each.
__device__ void fill(const TestParams& p, Ring& ring, int stage, int64_t index, int piece, int count) {
  for (int i = piece; i < piece + count; ++i) {
    cp_async_16(shared_address(&ring.word[stage][4 * i]), source_words(p) + kTileWords * index + 4 * i, 16);
  }
  cp_async_commit();
  cp_async_wait<0>();
}

__device__ void produce(const TestParams& p, Ring& ring, int64_t variant, int64_t bug) {
  const int lane = thread_index();
  const bool one_lane = variant == kElected;
  if (one_lane && !elect_one()) return;
  Cursor at{0, bug == kProducerParity ? 0u : 1u};
  for (int64_t index = 0; index < p.count; ++index, at.advance()) {
    wait_or_poll(ring.empty[at.stage], at.parity, variant == kPolling);
    if (one_lane) {
      fill(p, ring, at.stage, index, 0, 32);
      mbarrier_arrive(ring.full[at.stage]);
      continue;
    }
    if (bug == kStragglers) {
      if (lane == 0) {
        fill(p, ring, at.stage, index, 0, 32);
        mbarrier_arrive(ring.full[at.stage]);
      }
      continue;
    }
    fill(p, ring, at.stage, index, lane, 1);
    sync_warp();
    if (lane == 0) mbarrier_arrive(ring.full[at.stage]);
  }
}

// target[tile][consumer thread] = sum of the four words of its lane; 0 for a tile that it skips.
__device__ void consume(const TestParams& p, Ring& ring, int64_t variant, int64_t bug) {
  const int thread = thread_index() - kProducers;
  const int warp = thread / 32, lane = thread % 32;
  Cursor at{0, bug == kConsumerParity ? 1u : 0u};
  for (int64_t index = 0; index < p.count; ++index, at.advance()) {
    uint32_t& result = target_words(p)[index * 32 * kConsumerWarps + thread];
    result = 0;
    const bool skips = variant == kSecondSkips && warp >= 4;
    // An arrival now might be the warp's second in the phase: others may still use the stage's last tile.
    if (skips && index % 2 == 1) continue;
    if (bug == kPollOnce) {
      mbarrier_try(ring.full[at.stage], at.parity);
    } else if (bug != kNoFullWait) {
      wait_or_poll(ring.full[at.stage], at.parity, variant == kPolling);
    }
    for (int i = 0; i < 4; ++i) result += ring.word[at.stage][4 * lane + i];
    if (bug == kMissingArrive && index == 0 && warp == 5) continue;
    if (variant != kEveryLaneFrees) sync_warp();
    if (variant == kEveryLaneFrees || lane == 0) mbarrier_arrive(ring.empty[at.stage]);
    if (skips && index > 0 && lane == 0) mbarrier_arrive(ring.empty[(at.stage + kStages - 1) % kStages]);
  }
}

template <bool kPlanted>
__global__ void ring(const TestParams p) {
  Ring& ring = shared<Ring>();
  const int64_t variant = kPlanted ? kAllLanes : p.variant;
  const int64_t bug = kPlanted ? p.variant : kNoBug;
  if (thread_index() == 0) {
    const int arrivals = variant == kEveryLaneFrees ? 32 * kConsumerWarps : kConsumerWarps;
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(ring.full[stage], 1);
      mbarrier_init(ring.empty[stage], arrivals + (bug == kCountTooLarge ? 1 : 0));
    }
    fence_mbarrier_init();
  }
  sync_threads();
  if (thread_index() >= kProducers) {
    consume(p, ring, variant, bug);
  } else if (thread_index() < 32) {
    produce(p, ring, variant, bug);
  }
}

struct Pair {
  Mbarrier first;
  Mbarrier second;
};

// Initialises both barriers.
__device__ Pair& make_pair(int first, int second) {
  Pair& pair = shared<Pair>();
  if (thread_index() == 0) {
    mbarrier_init(pair.first, first);
    mbarrier_init(pair.second, second);
    fence_mbarrier_init();
  }
  sync_threads();
  return pair;
}

// Lane 0 drives four phases of the first barrier, the others watch them. Planted: nothing holds lane 0 back, and the
// second barrier keeps the other lanes away from their second wait until it is through, as a slow warp might.
template <bool kPlanted>
__global__ void late_lane(const TestParams p) {
  Pair& pair = make_pair(1, 1);
  const int lane = thread_index();
  for (uint32_t phase = 0; phase < 4; ++phase) {
    if (lane == 0) mbarrier_arrive(pair.first);
    if (kPlanted && phase == 1 && lane != 0) mbarrier_wait(pair.second, 0);
    mbarrier_wait(pair.first, phase & 1);
    if (!kPlanted || phase == 0) sync_warp();
  }
  if (lane == 0) mbarrier_arrive(pair.second);
  target_words(p)[lane] = 1;
}

// Stands for a bulk copy of `bytes` bytes, which completes at once.
__device__ void report_bytes(Mbarrier& barrier, uint32_t bytes) {
  mbarrier_complete(*current_fiber().block, shared_address(&barrier), bytes, __LINE__);
}

// All threads but the last wait for the first phase. Planted: the last completes the second one without knowing that
// they have seen the first. It sleeps in cp.async.wait_group until the others wait.
template <bool kPlanted>
__global__ void overrun(const TestParams p) {
  struct Smem {
    Pair pair;
    uint32_t word[4];
  };
  Pair& pair = make_pair(1, static_cast<int>(p.threads) - 1);
  const int thread = thread_index();
  if (thread + 1 < p.threads) {
    mbarrier_wait(pair.first, 0);
    if (!kPlanted) mbarrier_arrive(pair.second);
  } else {
    cp_async_16(shared_address(shared<Smem>().word), source_words(p), 16);
    cp_async_commit();
    cp_async_wait<0>();
    mbarrier_arrive_expect(pair.first, 16);
    report_bytes(pair.first, 16);
    if (!kPlanted) mbarrier_wait(pair.second, 0);
    mbarrier_arrive(pair.first);
  }
  target_words(p)[thread] = 1;
}

// Two arrivals and 64 bytes a phase. Planted: an arrival too many (variant 0), 16 bytes too many announced (1), too
// many bytes to count (2), too many complete (3), 16 bytes too few announced (4).
template <bool kPlanted>
__global__ void bytes(const TestParams p) {
  Pair& pair = make_pair(2, 1);
  const int64_t bug = kPlanted ? p.variant : -1;
  const int thread = thread_index();
  if (thread == 0) {
    // Bytes may complete before they are announced.
    report_bytes(pair.first, 16);
    mbarrier_arrive_expect(pair.first, bug == 1 ? 80 : bug == 4 ? 48 : 64);
    mbarrier_arrive(pair.first);
    if (bug == 0) mbarrier_arrive(pair.first);
    if (bug == 2) mbarrier_arrive_expect(pair.first, 0xfffff);
    for (int i = 0; bug == 3 && i < 2; ++i) report_bytes(pair.first, 0xfffff);
    report_bytes(pair.first, 48);
  }
  mbarrier_wait(pair.first, 0);
  target_words(p)[thread] = 1;
}

// One thread arrives, everybody waits. Planted: the barrier was never initialised (variant 0), or twice (1), was
// overwritten before the arrival (2) or before the wait (3), expects no arrival (4) or 2^20 (5), is misaligned (6),
// lies behind the arena (7); a wait names parity 2 (8).
template <bool kPlanted>
__global__ void misuse(const TestParams p) {
  Mbarrier& barrier = shared<Mbarrier>();
  const int64_t bug = kPlanted ? p.variant : -1;
  const int thread = thread_index();
  if (thread == 0) {
    unsigned char* at = reinterpret_cast<unsigned char*>(&barrier);
    if (bug == 6) at += 4;
    if (bug == 7) at += p.smem_bytes;
    if (bug != 0) {
      mbarrier_init(*reinterpret_cast<Mbarrier*>(at), bug == 4 ? 0 : bug == 5 ? 1 << 20 : 1);
    }
    if (bug == 1) mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    if (bug == 2) at[4] = 7;
  }
  sync_threads();
  if (thread == 0) {
    mbarrier_arrive(barrier);
    if (bug == 3) barrier.state = 0;
  }
  sync_threads();
  mbarrier_wait(barrier, bug == 8 ? 2 : 0);
  target_words(p)[thread] = 1;
}

// Planted: nobody arrives at the barrier that everybody polls.
template <bool kPlanted>
__global__ void poll_for_ever(const TestParams p) {
  Pair& pair = make_pair(1, 1);
  if (!kPlanted && thread_index() == 0) mbarrier_arrive(pair.first);
  while (!mbarrier_try(pair.first, 0)) {
  }
  target_words(p)[thread_index()] = 1;
}

// target[thread] = times that mbarrier_try said no of 64 about a phase that has completed.
__global__ void spurious_no(const TestParams p) {
  Pair& pair = make_pair(1, 1);
  if (thread_index() == 0) mbarrier_arrive(pair.first);
  sync_threads();
  uint32_t no = 0;
  for (int i = 0; i < 64; ++i) no += mbarrier_try(pair.first, 0) ? 0 : 1;
  target_words(p)[thread_index()] = no;
}

// Legal waits of lanes of one warp that do different things on one barrier: each phase is watched by another lane
// (variant 0), by lane 0 alone and every fourth one by all (1), by lanes that leave out phases of their own (2).
__global__ void uneven_lanes(const TestParams p) {
  Pair& pair = make_pair(64, 64);
  const int lane = thread_index() % 32;
  for (int phase = 0; phase < p.count; ++phase) {
    mbarrier_arrive(pair.first);
    const bool watches = p.variant == 0   ? lane == 5 * phase % 32
                         : p.variant == 1 ? lane == 0 || phase % 4 == 3
                                          : (lane + phase) % 3 != 0;
    if (watches) mbarrier_wait(pair.first, phase & 1);
    sync_threads();
  }
  target_words(p)[thread_index()] = 1;
}

const TestKernel kKernels[] = {
    {"ring", start<ring<true>>, start<ring<false>>},
    {"late_lane", start<late_lane<true>>, start<late_lane<false>>},
    {"overrun", start<overrun<true>>, start<overrun<false>>},
    {"bytes", start<bytes<true>>, start<bytes<false>>},
    {"misuse", start<misuse<true>>, start<misuse<false>>},
    {"poll_for_ever", start<poll_for_ever<true>>, start<poll_for_ever<false>>},
    {"spurious_no", nullptr, start<spurious_no>},
    {"uneven_lanes", nullptr, start<uneven_lanes>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_mbarriers, lacuna_simt::kKernels)
