// cp.async: waits that are missing or too weak, groups, source sizes, and what a copy may touch.
#include "harness.h"
#include "ptx/cp_async.h"
#include "ptx/shared.h"

namespace lacuna_simt {

namespace {

constexpr int kStages = 3;

struct Ring {
  uint32_t word[kStages][4 * 256];  // four words of each thread
};

// A thread reads only what it has copied itself: no barrier is needed, the wait alone is tested.
__device__ void copy_own(const TestParams& p, Ring& ring, int64_t index) {
  const int thread = thread_index();
  cp_async_16(shared_address(&ring.word[index % kStages][4 * thread]),
              source_words(p) + 4 * (index * p.threads + thread), 16);
}

__device__ void write_own(const TestParams& p, const Ring& ring, int64_t index) {
  const uint32_t* words = &ring.word[index % kStages][4 * thread_index()];
  target_words(p)[index * p.threads + thread_index()] = words[0] + words[1] + words[2] + words[3];
}

// Planted: the wait comes after the reads.
template <bool kPlanted>
__global__ void missing_wait(const TestParams p) {
  Ring& ring = shared<Ring>();
  copy_own(p, ring, 0);
  cp_async_commit();
  if (!kPlanted) cp_async_wait<0>();
  sync_threads();
  write_own(p, ring, 0);
  cp_async_wait<0>();
}

// Two groups in flight. Planted: wait_group 1 before both are read.
template <bool kPlanted>
__global__ void weak_wait(const TestParams p) {
  Ring& ring = shared<Ring>();
  for (int64_t index = 0; index < 2; ++index) {
    copy_own(p, ring, index);
    cp_async_commit();
  }
  cp_async_wait<kPlanted ? 1 : 0>();
  sync_threads();
  write_own(p, ring, 0);
  write_own(p, ring, 1);
  cp_async_wait<0>();
}

// A ring with two tiles ahead. Planted: no empty group is committed once there is nothing left to request, so that
// wait_group 1 no longer covers the last tiles.
template <bool kPlanted>
__global__ void tail_without_commit(const TestParams p) {
  Ring& ring = shared<Ring>();
  copy_own(p, ring, 0);
  cp_async_commit();
  copy_own(p, ring, 1);
  cp_async_commit();
  for (int64_t index = 0; index < p.count; ++index) {
    cp_async_wait<1>();
    sync_threads();
    write_own(p, ring, index);
    const bool more = index + 2 < p.count;
    if (more) copy_own(p, ring, index + 2);
    if (more || !kPlanted) cp_async_commit();
  }
  cp_async_wait<0>();
}

// Planted: the thread exits with a copy in flight.
template <bool kPlanted>
__global__ void exit_without_wait(const TestParams p) {
  Ring& ring = shared<Ring>();
  copy_own(p, ring, 0);
  cp_async_commit();
  if (!kPlanted) cp_async_wait<0>();
}

// Planted: the copy is never committed, so that no wait covers it.
template <bool kPlanted>
__global__ void never_committed(const TestParams p) {
  Ring& ring = shared<Ring>();
  copy_own(p, ring, 0);
  if (!kPlanted) cp_async_commit();
  cp_async_wait<0>();
  write_own(p, ring, 0);
}

// Legal: a source size of 0 with a pointer to nowhere, odd even; the destination becomes zeros.
__global__ void junk_pointer(const TestParams p) {
  Ring& ring = shared<Ring>();
  const void* nowhere = reinterpret_cast<const void*>(static_cast<uintptr_t>(thread_index() + 1));
  cp_async_16(shared_address(&ring.word[0][4 * thread_index()]), nowhere, 0);
  cp_async_commit();
  cp_async_wait<0>();
  write_own(p, ring, 0);
}

// Rows of `count` words in pieces of four. Planted: the last piece is read whole (variant 0), a piece behind the end
// is read (variant 1), or one before the start (variant 2).
template <bool kPlanted>
__global__ void past_the_tensor(const TestParams p) {
  Ring& ring = shared<Ring>();
  const int64_t first = 4 * static_cast<int64_t>(thread_index());
  int64_t from = first;
  int64_t words = p.count - first;
  words = words < 0 ? 0 : words > 4 ? 4 : words;
  if (kPlanted) {
    if (p.variant == 0 && words > 0) words = 4;
    if (p.variant == 1 && words == 0) words = 4;
    if (p.variant == 2 && thread_index() == 0) from = -4;
  }
  cp_async_16(shared_address(&ring.word[0][first]), source_words(p) + from, static_cast<int>(4 * words));
  cp_async_commit();
  cp_async_wait<0>();
  write_own(p, ring, 0);
}

// Planted: source off by 4 bytes (variant 0), destination off by 8 (1), destination behind the arena (2), a source
// size of 20 (3).
template <bool kPlanted>
__global__ void bad_operands(const TestParams p) {
  Ring& ring = shared<Ring>();
  uint32_t destination = shared_address(&ring.word[0][4 * thread_index()]);
  const uint32_t* source = source_words(p) + 4 * thread_index();
  int bytes = 16;
  if (kPlanted && thread_index() == 7) {
    if (p.variant == 0) source += 1;
    if (p.variant == 1) destination += 8;
    if (p.variant == 2) destination = shared_address(&ring) + static_cast<uint32_t>(p.smem_bytes);
    if (p.variant == 3) bytes = 20;
  }
  cp_async_16(destination, source, bytes);
  cp_async_commit();
  cp_async_wait<0>();
  write_own(p, ring, 0);
}

const TestKernel kKernels[] = {
    {"missing_wait", start<missing_wait<true>>, start<missing_wait<false>>},
    {"weak_wait", start<weak_wait<true>>, start<weak_wait<false>>},
    {"tail_without_commit", start<tail_without_commit<true>>, start<tail_without_commit<false>>},
    {"exit_without_wait", start<exit_without_wait<true>>, start<exit_without_wait<false>>},
    {"never_committed", start<never_committed<true>>, start<never_committed<false>>},
    {"junk_pointer", nullptr, start<junk_pointer>},
    {"past_the_tensor", start<past_the_tensor<true>>, start<past_the_tensor<false>>},
    {"bad_operands", start<bad_operands<true>>, start<bad_operands<false>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_copies, lacuna_simt::kKernels)
