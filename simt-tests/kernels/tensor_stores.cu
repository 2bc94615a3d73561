// TMA stores: clipping, when the source is read and when the result is there, groups.
#include "ptx/bulk.h"
#include "tensor_params.h"

namespace lacuna_simt {

namespace {

constexpr int kMostBoxBytes = 2 * 64 * kBoxRows * kBoxHeads;

struct Panel {
  alignas(1024) uint32_t word[kMostBoxBytes / 4];
  Mbarrier full;
};

// The shared memory of the box, written as it lies.
__device__ void fill(const TestParams& p, Panel& panel) {
  for (int i = thread_index(); i < box_size(p) / 4; i += static_cast<int>(p.threads)) {
    store_shared(&panel.word[i], source_words(p)[i]);
  }
  fence_async_shared();
  sync_threads();
}

__device__ void store(const TensorParams& p, uint32_t source) {
  const TestParams& t = p.test;
  tma_store_4d(p.to, source, coordinate(t, 0), coordinate(t, 1), coordinate(t, 2), coordinate(t, 3));
}

enum : int64_t { kNoCommit, kNoWait, kWaitOfAnother, kMisaligned, kInsidePattern, kPastSharedMemory, kPastTheBuffer };

void alter(const TestParams& p, TensorMapSpec& spec) {
  if (bug_of(p) == kPastTheBuffer) spec.dims[3] += 1;
}

// Planted: what `variant` says.
template <bool kPlanted>
__global__ void store_box(const __grid_constant__ TensorParams p) {
  Panel& panel = shared<Panel>();
  fill(p.test, panel);
  const int64_t bug = kPlanted ? bug_of(p.test) : -1;
  uint32_t source = shared_address(panel.word);
  if (bug == kMisaligned) source += 16;
  if (bug == kInsidePattern) source += 128;
  if (bug == kPastSharedMemory) source += 1024;
  const bool waits = bug != kNoWait && bug != kWaitOfAnother;
  if (thread_index() == 0) {
    store(p, source);
    if (bug != kNoCommit) bulk_commit();
    if (waits) bulk_wait_read<0>();
  }
  if (bug == kWaitOfAnother && thread_index() == 1) bulk_wait_read<0>();
}

// Planted: the source is written again before it is read.
template <bool kPlanted>
__global__ void reuse_source(const __grid_constant__ TensorParams p) {
  Panel& panel = shared<Panel>();
  fill(p.test, panel);
  if (thread_index() == 0) {
    store(p, shared_address(panel.word));
    bulk_commit();
    if (!kPlanted) bulk_wait_read<0>();
  }
  sync_threads();
  for (int i = thread_index(); i < box_size(p.test) / 4; i += static_cast<int>(p.test.threads)) {
    store_shared(&panel.word[i], 7u);
  }
  if (kPlanted && thread_index() == 0) bulk_wait_read<0>();
}

// The thread reads what it has stored: the first element of the target, which it then writes behind the tensor.
// Planted: that the source was read does not mean that the result is there.
template <bool kPlanted>
__global__ void read_back(const __grid_constant__ TensorParams p) {
  Panel& panel = shared<Panel>();
  fill(p.test, panel);
  if (thread_index() != 0) return;
  store(p, shared_address(panel.word));
  bulk_commit();
  if (kPlanted) {
    bulk_wait_read<0>();
  } else {
    bulk_wait<0>();
  }
  uint32_t* const target = target_words(p.test);
  target[kColumns * kRows * kHeads * kOuter / 2] = target[0];
}

// Legal: what a load brought is stored without a fence; all of it in the asynchronous proxy.
__global__ void round_trip(const __grid_constant__ TensorParams p) {
  Panel& panel = shared<Panel>();
  if (thread_index() == 0) {
    mbarrier_init(panel.full, 1);
    fence_mbarrier_init();
    const TestParams& t = p.test;
    mbarrier_arrive_expect(panel.full, box_size(t));
    tma_load_4d(shared_address(panel.word), p.from, panel.full, coordinate(t, 0), coordinate(t, 1), coordinate(t, 2),
                coordinate(t, 3), kEvictLast);
    mbarrier_wait(panel.full, 0);
    store(p, shared_address(panel.word));
    bulk_commit();
    bulk_wait_read<0>();
  }
}

const TestKernel kKernels[] = {
    {"store_box", start_tensor<store_box<true>, alter>, start_tensor<store_box<false>>},
    {"reuse_source", start_tensor<reuse_source<true>>, start_tensor<reuse_source<false>>},
    {"read_back", start_tensor<read_back<true>>, start_tensor<read_back<false>>},
    {"round_trip", nullptr, start_tensor<round_trip>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_tensor_stores, lacuna_simt::kKernels)
