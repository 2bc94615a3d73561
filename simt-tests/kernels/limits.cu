// Launches: grids, sizes, the order of blocks, many at once.
#include "harness.h"
#include "ptx/atomic.h"
#include "ptx/shared.h"

namespace lacuna_simt {

namespace {

// target[0]: a counter; target[1 + ticket]: the block that drew the ticket.
__global__ void block_order(const TestParams p) {
  if (thread_index() != 0) return;
  const int32_t ticket = atomic_add(static_cast<int32_t*>(p.target), 1);
  target_words(p)[1 + ticket] = static_cast<uint32_t>(block_index());
}

// target[block * threads + thread] = its own index.
__global__ void cover(const TestParams p) {
  const int64_t index = block_index() * p.threads + thread_index();
  target_words(p)[index] = static_cast<uint32_t>(index);
}

// Uses all of its shared memory.
__global__ void fill_shared(const TestParams p) {
  unsigned char* const bytes = &shared<unsigned char>();
  for (int64_t i = thread_index(); i < p.smem_bytes; i += p.threads) bytes[i] = static_cast<unsigned char>(i);
  sync_threads();
  uint32_t sum = 0;
  for (int64_t i = thread_index(); i < p.smem_bytes; i += p.threads) sum += bytes[p.smem_bytes - 1 - i];
  target_words(p)[thread_index()] = sum;
}

// Planted: a kernel that starts a kernel.
template <bool kPlanted>
__global__ void nested(const TestParams p) {
  int32_t status = 0;
  if (kPlanted) {
    TestParams inner = p;
    status = start<cover>("inner", inner, nullptr);
  }
  target_words(p)[thread_index()] = static_cast<uint32_t>(status);
}

const TestKernel kKernels[] = {
    {"block_order", nullptr, start<block_order>},
    {"cover", nullptr, start<cover>},
    {"fill_shared", nullptr, start<fill_shared>},
    {"nested", start<nested<true>>, start<nested<false>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_limits, lacuna_simt::kKernels)

extern "C" const char* simt_test_last_error() { return lacuna_simt::last_error(); }
