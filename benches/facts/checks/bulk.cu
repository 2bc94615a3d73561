// Bulk copies without a tensor: loads, stores and additions of f32.
#include "checks/checks.h"
#include "harness/integers.h"
#include "harness/machine.h"
#include "ptx/bulk.h"
#include "ptx/fence_proxy.h"
#include "ptx/thread.h"

namespace facts {

namespace {

constexpr int kThreads = 128;
constexpr int kCount = 1024;
constexpr int kBlocks = 64;

struct BulkParams {
  const float* source;  // [kBlocks][kCount]
  float* copy;          // the same, each value plus one
  float* sum;           // [kCount], over the blocks
};

struct BulkShared {
  alignas(16) float values[kCount];
  Mbarrier full;
};

__global__ void __launch_bounds__(kThreads) bulk_kernel(const BulkParams p) {
  auto& smem = shared<BulkShared>();
  if (thread_index() == 0) {
    mbarrier_init(smem.full, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(smem.full, kCount * 4);
    bulk_load(shared_address(smem.values), p.source + block_index() * kCount, kCount * 4, smem.full);
  }
  sync_threads();
  mbarrier_wait(smem.full, 0);
  for (int i = thread_index(); i < kCount; i += kThreads) store_shared(smem.values + i, smem.values[i] + 1.0f);
  fence_async_shared();
  sync_threads();
  if (thread_index() == 0) {
    bulk_store(p.copy + block_index() * kCount, shared_address(smem.values), kCount * 4);
    bulk_add_f32(p.sum, shared_address(smem.values), kCount * 4);
    bulk_commit();
    bulk_wait<0>();
  }
}

void check_bulk(Finding& finding) {
  const Matrix source = integers(9, kBlocks, kCount, 1000);
  const Buffer<float> device_source(floats(source));
  const Buffer<float> copy(size_t{kBlocks} * kCount);
  const Buffer<float> sum(kCount, 0);
  const BulkParams params = {device_source.data(), copy.data(), sum.data()};
  run<bulk_kernel>("bulk", kBlocks, kThreads, sizeof(BulkShared), params);
  const std::vector<float> copied = copy.values();
  const std::vector<float> summed = sum.values();
  for (int i = 0; i < kCount; ++i) {
    int expected = 0;
    for (int block = 0; block < kBlocks; ++block) {
      const int value = source.at(block, i) + 1;
      const float got = copied[static_cast<size_t>(block) * kCount + i];
      if (got != static_cast<float>(value)) {
        finding.differs("copy of block %d, element %d is %g, expected %d", block, i, static_cast<double>(got), value);
      }
      expected += value;
    }
    if (summed[static_cast<size_t>(i)] != static_cast<float>(expected)) {
      finding.differs("sum, element %d is %g, expected %d", i, static_cast<double>(summed[static_cast<size_t>(i)]),
                      expected);
    }
  }
}

constexpr Fact kFacts[] = {
    {"bulk_copies", "bulk loads on an mbarrier, bulk stores, additions of f32 from 64 blocks", check_bulk},
};

}  // namespace

List<Fact> bulk_facts() { return list_of(kFacts); }

}  // namespace facts
