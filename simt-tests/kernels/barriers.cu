// __syncthreads: missing, divergent, and with exited warps.
#include "harness.h"
#include "ptx/cp_async.h"
#include "ptx/shared.h"

namespace lacuna_simt {

namespace {

struct Tile {
  uint32_t word[1024];  // four of each thread
};

struct Stages {
  Tile stage[2];
};

// Every thread copies 16 bytes of tile `index`.
__device__ void copy_tile(const TestParams& p, Tile& tile, int64_t index) {
  const int thread = thread_index();
  const int64_t threads = p.threads;
  cp_async_16(shared_address(&tile.word[4 * thread]), source_words(p) + 4 * (index * threads + thread), 16);
  cp_async_commit();
}

// Sum of four words that another thread, of another warp where there is one, has copied.
__device__ uint32_t sum_of_other(const TestParams& p, const Tile& tile) {
  const int other = (thread_index() + 33) % static_cast<int>(p.threads);
  uint32_t sum = 0;
  for (int i = 0; i < 4; ++i) sum += tile.word[4 * other + i];
  return sum;
}

// Planted: no barrier between the wait for a copy and reads of what other threads have copied.
template <bool kPlanted>
__global__ void no_barrier_after_copy(const TestParams p) {
  Tile& tile = shared<Tile>();
  copy_tile(p, tile, 0);
  cp_async_wait<0>();
  if (!kPlanted) sync_threads();
  target_words(p)[thread_index()] = sum_of_other(p, tile);
}

// Planted: the only stage is refilled although other threads may still read it.
template <bool kPlanted>
__global__ void no_barrier_before_overwrite(const TestParams p) {
  Tile& tile = shared<Tile>();
  for (int64_t index = 0; index < p.count; ++index) {
    copy_tile(p, tile, index);
    cp_async_wait<0>();
    sync_threads();
    target_words(p)[index * p.threads + thread_index()] = sum_of_other(p, tile);
    if (!kPlanted) sync_threads();
  }
}

// Two stages. Planted: the next tile is requested before the barrier that proves that everybody has left its stage.
template <bool kPlanted>
__global__ void stage_refilled_early(const TestParams p) {
  Stages& smem = shared<Stages>();
  copy_tile(p, smem.stage[0], 0);
  for (int64_t index = 0; index < p.count; ++index) {
    const bool more = index + 1 < p.count;
    Tile& next = smem.stage[(index + 1) % 2];
    if (kPlanted) {
      if (more) {
        copy_tile(p, next, index + 1);
      } else {
        cp_async_commit();
      }
      cp_async_wait<1>();
      sync_threads();
    } else {
      cp_async_wait<0>();
      sync_threads();
      if (more) copy_tile(p, next, index + 1);
    }
    target_words(p)[index * p.threads + thread_index()] = sum_of_other(p, smem.stage[index % 2]);
  }
}

// Planted: warp 0 comes to one __syncthreads, the others to another. target[0], target[1]: their lines.
template <bool kPlanted>
__global__ void two_sites(const TestParams p) {
  if (thread_index() == 0) {
    target_words(p)[0] = __LINE__ + 4;
    target_words(p)[1] = __LINE__ + 5;
  }
  if (kPlanted && thread_index() < 32) {
    sync_threads();
  } else {
    sync_threads();
  }
}

// Planted: half of each warp waits for the block, the other half for its warp. target[0], target[1]: the lines.
template <bool kPlanted>
__global__ void part_of_a_warp(const TestParams p) {
  if (thread_index() == 0) {
    target_words(p)[0] = __LINE__ + 3;
    target_words(p)[1] = __LINE__ + 3;
  }
  if (!kPlanted || thread_index() % 32 < 16) sync_threads();
  sync_warp();
}

// Planted: lanes 0-15 pass one barrier more than lanes 16-31. Correct: the same number.
template <bool kPlanted>
__global__ void one_barrier_more(const TestParams p) {
  if (!kPlanted || thread_index() % 32 < 16) sync_threads();
  sync_threads();
  target_words(p)[thread_index()] = 1;
}

// Legal: all warps but the first return before the barriers, at once or after the first warp has come to one.
__global__ void exited_warps(const TestParams p) {
  Tile& tile = shared<Tile>();
  const int thread = thread_index();
  if (thread >= 64) return;
  tile.word[thread] = source_words(p)[thread];
  sync_threads();
  if (thread >= 32) return;
  const uint32_t other = tile.word[63 - thread];
  sync_threads();
  tile.word[thread] = other;
  sync_threads();
  target_words(p)[thread] = tile.word[31 - thread];
}

// Exact counts: `count` barriers and 2 * count warp barriers of each warp.
__global__ void count_barriers(const TestParams p) {
  for (int64_t i = 0; i < p.count; ++i) {
    sync_warp();
    sync_threads();
    sync_warp();
  }
  target_words(p)[thread_index()] = 1;
}

const TestKernel kKernels[] = {
    {"no_barrier_after_copy", start<no_barrier_after_copy<true>>, start<no_barrier_after_copy<false>>},
    {"no_barrier_before_overwrite", start<no_barrier_before_overwrite<true>>,
     start<no_barrier_before_overwrite<false>>},
    {"stage_refilled_early", start<stage_refilled_early<true>>, start<stage_refilled_early<false>>},
    {"two_sites", start<two_sites<true>>, start<two_sites<false>>},
    {"part_of_a_warp", start<part_of_a_warp<true>>, start<part_of_a_warp<false>>},
    {"one_barrier_more", start<one_barrier_more<true>>, start<one_barrier_more<false>>},
    {"exited_warps", nullptr, start<exited_warps>},
    {"count_barriers", nullptr, start<count_barriers>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_barriers, lacuna_simt::kKernels)
