// Shared memory written with ordinary instructions and read by asynchronous ones: a fence of the writer, then a
// barrier.
#include "harness.h"
#include "ptx/bulk.h"
#include "ptx/cp_async.h"
#include "ptx/fence_proxy.h"
#include "ptx/shared.h"
#include "ptx/stmatrix.h"
#include "ptx/wgmma.h"

namespace lacuna_simt {

namespace {

enum : int64_t { kNoBug, kNoFence, kFenceFirst, kOtherThreadFences, kFenceBeforeTheWait, kNoWait };

struct alignas(1024) Staged {
  uint32_t word[1024];
  Mbarrier full;
};

// The bulk store of what was staged, by thread 0.
__device__ void store_all(const TestParams& p, Staged& staged) {
  sync_threads();
  if (thread_index() != 0) return;
  bulk_store(p.target, shared_address(staged.word), static_cast<int>(16 * p.threads));
  bulk_commit();
  bulk_wait<0>();
}

// Fences of the writers, or what the bug makes of them. All but one thread fence for kOtherThreadFences.
__device__ void fence_unless(int64_t bug) {
  if (bug == kNoFence || bug == kFenceFirst) return;
  if (bug == kOtherThreadFences && thread_index() == 8) return;
  fence_async_shared();
}

// Each thread stages four words with plain stores.
template <bool kPlanted>
__global__ void plain_stores(const TestParams p) {
  Staged& staged = shared<Staged>();
  const int64_t bug = kPlanted ? p.variant : kNoBug;
  if (bug == kFenceFirst) fence_async_shared();
  for (int i = 0; i < 4; ++i) {
    const int at = 4 * thread_index() + i;
    store_shared(&staged.word[at], source_words(p)[at]);
  }
  fence_unless(bug);
  store_all(p, staged);
}

// Four threads share 16 bytes.
template <bool kPlanted>
__global__ void neighbours(const TestParams p) {
  Staged& staged = shared<Staged>();
  const int64_t bug = kPlanted ? p.variant : kNoBug;
  for (int at = thread_index(); at < static_cast<int>(4 * p.threads); at += static_cast<int>(p.threads)) {
    store_shared(&staged.word[at], source_words(p)[at]);
  }
  fence_unless(bug);
  store_all(p, staged);
}

// Each warp stages 512 bytes with stmatrix.
template <bool kPlanted>
__global__ void matrix_stores(const TestParams p) {
  Staged& staged = shared<Staged>();
  const int64_t bug = kPlanted ? p.variant : kNoBug;
  const int warp = thread_index() / 32;
  const int lane = thread_index() % 32;
  if (bug == kFenceFirst) fence_async_shared();
  uint32_t d[4];
  // Lane 4r + c holds columns 2c and 2c + 1 of row r: the words of the source in order.
  for (int matrix = 0; matrix < 4; ++matrix) d[matrix] = source_words(p)[128 * warp + 32 * matrix + lane];
  stmatrix_x4<false>(shared_address(&staged.word[128 * warp + 4 * lane]), d);
  fence_unless(bug);
  store_all(p, staged);
}

// Each thread stages four words with cp.async.
template <bool kPlanted>
__global__ void copies(const TestParams p) {
  Staged& staged = shared<Staged>();
  const int64_t bug = kPlanted ? p.variant : kNoBug;
  cp_async_16(shared_address(&staged.word[4 * thread_index()]), source_words(p) + 4 * thread_index(), 16);
  cp_async_commit();
  if (bug == kFenceBeforeTheWait) fence_async_shared();
  if (bug != kNoWait) cp_async_wait<0>();
  if (bug != kFenceBeforeTheWait) fence_unless(bug);
  store_all(p, staged);
  cp_async_wait<0>();
}

// A load over words that threads have stored themselves.
template <bool kPlanted>
__global__ void overwritten(const TestParams p) {
  Staged& staged = shared<Staged>();
  const int64_t bug = kPlanted ? p.variant : kNoBug;
  if (thread_index() == 0) mbarrier_init(staged.full, 1);
  fence_mbarrier_init();
  store_shared(&staged.word[4 * thread_index()], 7u);
  fence_unless(bug);
  sync_threads();
  if (thread_index() == 0) {
    const int bytes = static_cast<int>(16 * p.threads);
    mbarrier_arrive_expect(staged.full, bytes);
    bulk_load(shared_address(staged.word), p.source, bytes, staged.full);
  }
  mbarrier_wait(staged.full, 0);
  for (int i = 0; i < 4; ++i) target_words(p)[4 * thread_index() + i] = staged.word[4 * thread_index() + i];
}

// Legal: what a bulk load has brought is stored again without any fence.
__global__ void asynchronous_both_ways(const TestParams p) {
  Staged& staged = shared<Staged>();
  if (thread_index() == 0) mbarrier_init(staged.full, 1);
  fence_mbarrier_init();
  sync_threads();
  if (thread_index() == 0) {
    const int bytes = static_cast<int>(16 * p.threads);
    mbarrier_arrive_expect(staged.full, bytes);
    bulk_load(shared_address(staged.word), p.source, bytes, staged.full);
  }
  mbarrier_wait(staged.full, 0);
  store_all(p, staged);
}

// Operands of wgmma, zeros staged by all threads: the accumulators come out as zeros.
template <bool kPlanted>
__global__ void operands(const TestParams p) {
  struct alignas(1024) Operands {
    uint32_t a[64 * 32];  // 64 rows of 128 bytes
    uint32_t b[64 * 32];
  };
  Operands& smem = shared<Operands>();
  const int64_t bug = kPlanted ? p.variant : kNoBug;
  // 16 bytes a thread at a time: who wrote them is known for whole pieces only.
  for (int i = 4 * thread_index(); i < 64 * 32; i += i % 4 == 3 ? 4 * 128 - 3 : 1) {
    store_shared(&smem.a[i], 0u);
    store_shared(&smem.b[i], 0u);
  }
  fence_unless(bug);
  sync_threads();
  float d[32];
  for (float& x : d) x = 1.0f;
  wgmma_registers(d);
  wgmma_fence();
  wgmma_ss<BFloat16, Major::kK>(d, wgmma_descriptor(shared_address(smem.a), 16, 1024, Swizzle::kSwizzle128),
                                wgmma_descriptor(shared_address(smem.b), 16, 1024, Swizzle::kSwizzle128), false);
  wgmma_commit();
  wgmma_wait<0>();
  float sum = 0.0f;
  for (const float x : d) sum += x;
  target_words(p)[thread_index()] = sum == 0.0f ? 1 : 0;
}

const TestKernel kKernels[] = {
    {"plain_stores", start<plain_stores<true>>, start<plain_stores<false>>},
    {"neighbours", start<neighbours<true>>, start<neighbours<false>>},
    {"matrix_stores", start<matrix_stores<true>>, start<matrix_stores<false>>},
    {"copies", start<copies<true>>, start<copies<false>>},
    {"overwritten", start<overwritten<true>>, start<overwritten<false>>},
    {"asynchronous_both_ways", nullptr, start<asynchronous_both_ways>},
    {"operands", start<operands<true>>, start<operands<false>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_proxies, lacuna_simt::kKernels)
