// cp.async.bulk between runs of bytes: loads, stores, additions, groups.
#include "harness.h"
#include "ptx/bulk.h"
#include "ptx/fence_proxy.h"
#include "ptx/shared.h"

namespace lacuna_simt {

namespace {

struct Buffers {
  uint32_t word[1024];
  Mbarrier full;
};

__device__ void init(Buffers& buffers) {
  if (thread_index() == 0) mbarrier_init(buffers.full, 1);
  fence_mbarrier_init();
  sync_threads();
}

enum : int64_t {
  kNoBug,
  kSourceMisaligned,
  kDestinationMisaligned,
  kOddSize,
  kPastSharedMemory,
  kPastTheSource,
  kNobodyWaits,
  kExpectsTooLittle
};

// `count` words into shared memory; all threads write them to the target.
template <bool kPlanted>
__global__ void load_run(const TestParams p) {
  Buffers& buffers = shared<Buffers>();
  init(buffers);
  const int64_t bug = kPlanted ? p.variant : kNoBug;
  const int bytes = static_cast<int>(4 * p.count);
  if (thread_index() == 0) {
    mbarrier_arrive_expect(buffers.full, bug == kExpectsTooLittle ? bytes - 16 : bytes);
    uint32_t to = shared_address(buffers.word);
    if (bug == kDestinationMisaligned) to += 8;
    if (bug == kPastSharedMemory) to += 4096;
    const uint32_t* const from = source_words(p) + (bug == kSourceMisaligned ? 1 : 0);
    const int more = bug == kOddSize ? 4 : bug == kPastTheSource ? 16 : 0;
    bulk_load(to, from, bytes + more, buffers.full);
  }
  if (bug == kNobodyWaits) return;
  mbarrier_wait(buffers.full, 0);
  for (int i = thread_index(); i < p.count; i += static_cast<int>(p.threads)) target_words(p)[i] = buffers.word[i];
}

// Each thread stores `count` runs of four words, a group each, from two buffers in turn. Planted: a wait that is one
// group too weak.
template <bool kPlanted>
__global__ void groups(const TestParams p) {
  Buffers& buffers = shared<Buffers>();
  const int threads = static_cast<int>(p.threads);
  constexpr int kBuffers = 2;
  for (int64_t i = 0; i < p.count; ++i) {
    const int first = 4 * (static_cast<int>(i % kBuffers) * threads + thread_index());
    const int64_t at = 4 * (i * threads + thread_index());
    if (kPlanted) {
      bulk_wait_read<kBuffers>();
    } else {
      bulk_wait_read<kBuffers - 1>();
    }
    for (int j = 0; j < 4; ++j) store_shared(&buffers.word[first + j], source_words(p)[at + j]);
    fence_async_shared();
    bulk_store(target_words(p) + at, shared_address(&buffers.word[first]), 16);
    bulk_commit();
  }
  bulk_wait_read<0>();
}

// Two groups of a thread, the second one empty. Planted: the wait allows both to be unfinished, not the empty one only.
template <bool kPlanted>
__global__ void empty_group(const TestParams p) {
  Buffers& buffers = shared<Buffers>();
  const int first = 4 * thread_index();
  for (int j = 0; j < 4; ++j) store_shared(&buffers.word[first + j], source_words(p)[first + j]);
  fence_async_shared();
  bulk_store(target_words(p) + first, shared_address(&buffers.word[first]), 16);
  bulk_commit();
  bulk_commit();
  if (kPlanted) {
    bulk_wait<2>();
  } else {
    bulk_wait<1>();
  }
  uint32_t* const sum = target_words(p) + 4 * p.threads + thread_index();
  *sum = 0;
  for (int j = 0; j < 4; ++j) *sum += target_words(p)[first + j];
  bulk_wait_read<0>();
}

// Planted: the store runs over the end of the target (0), is never committed (1), never waited for (2), its source
// is written again at once (3).
template <bool kPlanted>
__global__ void bad_store(const TestParams p) {
  Buffers& buffers = shared<Buffers>();
  const int64_t bug = kPlanted ? p.variant : -1;
  const int words = static_cast<int>(p.count);
  for (int i = thread_index(); i < words; i += static_cast<int>(p.threads)) {
    store_shared(&buffers.word[i], source_words(p)[i]);
  }
  fence_async_shared();
  sync_threads();
  if (thread_index() != 0) return;
  bulk_store(target_words(p), shared_address(buffers.word), 4 * words + (bug == 0 ? 16 : 0));
  if (bug != 1) bulk_commit();
  if (bug != 2 && bug != 3) bulk_wait_read<0>();
  store_shared(&buffers.word[5], 77u);
  if (bug == 3) bulk_wait_read<0>();
}

// Every thread of every block adds the first `count` words of the source to the target, which variant 0 first sets to
// the words that follow them.
__global__ void add(const TestParams p) {
  Buffers& buffers = shared<Buffers>();
  const int words = static_cast<int>(p.count);
  for (int i = thread_index(); i < 2 * words; i += static_cast<int>(p.threads)) {
    store_shared(&buffers.word[i], source_words(p)[i]);
  }
  fence_async_shared();
  sync_threads();
  if (p.variant == 0 && thread_index() == 0) {
    bulk_store(p.target, shared_address(&buffers.word[words]), 4 * words);
    bulk_commit();
    bulk_wait<0>();
  }
  sync_threads();
  bulk_add_f32(static_cast<float*>(p.target), shared_address(buffers.word), 4 * words);
  bulk_commit();
  bulk_wait_read<0>();
}

const TestKernel kKernels[] = {
    {"load_run", start<load_run<true>>, start<load_run<false>>},
    {"groups", start<groups<true>>, start<groups<false>>},
    {"empty_group", start<empty_group<true>>, start<empty_group<false>>},
    {"bad_store", start<bad_store<true>>, start<bad_store<false>>},
    {"add", nullptr, start<add>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_bulk, lacuna_simt::kKernels)
