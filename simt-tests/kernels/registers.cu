// setmaxnreg and the block's register pool; elect.
#include "harness.h"
#include "ptx/cp_async.h"
#include "ptx/elect.h"
#include "ptx/setmaxnreg.h"
#include "ptx/shared.h"
#include "ptx/shuffle.h"

namespace lacuna_simt {

namespace {

// A producer warpgroup releases, two consumer warpgroups take. Planted, by variant: nobody releases (0); a warp of the
// producers does not (1), or another number than the others (2); the release asks for more (3), the taking for less
// (4); the release is too small (5); only half of a warp executes it (6).
template <bool kPlanted>
__global__ void budget(const TestParams p) {
  const int64_t bug = kPlanted ? p.variant : -1;
  const int thread = thread_index();
  const bool warp_3 = thread / 32 == 3;
  if (thread < 128) {
    if (bug == 2 && warp_3) {
      release_registers<32>();
    } else if (bug == 3) {
      release_registers<176>();
    } else if (bug == 5) {
      release_registers<40>();
    } else if (bug != 0 && !(bug == 1 && warp_3) && !(bug == 6 && warp_3 && thread % 32 >= 16)) {
      release_registers<24>();
    }
  } else if (bug == 4) {
    take_registers<160>();
  } else if (bug != 1) {
    take_registers<240>();
  }
  if (bug == 6 && warp_3) sync_warp();
  if (bug == 1) sync_threads();
  target_words(p)[thread] = 1;
}

// A warpgroup that releases and takes again in two steps. Planted: a warp leaves out the release, and the others come
// to the taking.
template <bool kPlanted>
__global__ void back_and_forth(const TestParams p) {
  const int thread = thread_index();
  if (!kPlanted || thread >= 32) release_registers<64>();
  sync_threads();
  if (!kPlanted || thread >= 32) take_registers<96>();
  sync_threads();
  take_registers<128>();
  target_words(p)[thread] = 1;
}

// target[warp] = the elected lane; 32 if elections differ or elect not exactly one. Planted: half of a warp.
template <bool kPlanted>
__global__ void election(const TestParams p) {
  const int thread = thread_index();
  uint32_t elected = 32;
  if (kPlanted && thread % 32 < 16) sync_warp(0xffff);
  if (!kPlanted || thread % 32 >= 16) {
    const uint32_t first = ballot(elect_one());
    const uint32_t second = ballot(elect_one());
    if (first == second && __builtin_popcount(first) == 1) elected = static_cast<uint32_t>(__builtin_ctz(first));
  }
  if (thread % 32 == 0) target_words(p)[(block_index() * p.threads + thread) / 32] = elected;
}

// The elected lane copies. Planted: lane 0 waits for the copy, as if it were the elected one.
template <bool kPlanted>
__global__ void not_lane_0(const TestParams p) {
  struct Tile {
    uint32_t word[4];
  };
  Tile& tile = shared<Tile>();
  const bool elected = elect_one();
  if (elected) {
    cp_async_16(shared_address(tile.word), source_words(p), 16);
    cp_async_commit();
  }
  if (kPlanted ? thread_index() == 0 : elected) cp_async_wait<0>();
  sync_warp();
  if (thread_index() < 4) target_words(p)[thread_index()] = tile.word[thread_index()];
}

const TestKernel kKernels[] = {
    {"budget", start<budget<true>>, start<budget<false>>},
    {"back_and_forth", start<back_and_forth<true>>, start<back_and_forth<false>>},
    {"election", start<election<true>>, start<election<false>>},
    {"not_lane_0", start<not_lane_0<true>>, start<not_lane_0<false>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_registers, lacuna_simt::kKernels)
