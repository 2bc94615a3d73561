// Page lists of the sequences of a batch, one behind the other, to a block table with a row for each sequence and to
// lengths. A thread block has one sequence.
#include "common/validate.h"
#include "families.h"
#include "ptx/launch.h"
#include "ptx/thread.h"

namespace LACUNA_NS {

namespace {

constexpr int kThreads = 128;

struct PageTableArgs {
  lacuna_page_table_params p;
};

__device__ __forceinline__ int clamped(int value, int low, int high) {
  return value < low ? low : value > high ? high : value;
}

__global__ void __launch_bounds__(kThreads) page_table_kernel(const __grid_constant__ PageTableArgs args) {
  const lacuna_page_table_params& p = args.p;
  const int sequence = block_index();
  const int begin = clamped(p.indptr[sequence], 0, p.indices_len);
  const int end = clamped(p.indptr[sequence + 1], begin, p.indices_len);
  int32_t* const row = p.block_table + sequence * p.block_table_batch_stride;
  for (int i = thread_index(); i < p.max_pages; i += kThreads) row[i] = i < end - begin ? p.indices[begin + i] : -1;
  if (thread_index() != 0) return;
  // Whole pages but for the last one.
  const int64_t whole = static_cast<int64_t>(end - begin - 1) * p.page_size;
  const int64_t len = end == begin ? 0 : whole + clamped(p.last_page_len[sequence], 0, p.page_size);
  p.kv_lens[sequence] = len < p.kv_len ? static_cast<int>(len) : p.kv_len;
}

}  // namespace

int32_t page_table(const lacuna_page_table_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "page_table: null argument");
  const lacuna_page_table_params& p = *params;
  constexpr int kMost = 1 << 30;
  LACUNA_REQUIRE(p.batch >= 1 && p.batch <= kMost, "batch must be in 1..=2^30, got %d", p.batch);
  LACUNA_REQUIRE(p.page_size >= 1 && p.page_size <= kMost, "page_size must be in 1..=2^30, got %d", p.page_size);
  LACUNA_REQUIRE(p.max_pages >= 0 && p.max_pages <= kMost, "max_pages must be in 0..=2^30, got %d", p.max_pages);
  LACUNA_REQUIRE(p.kv_len >= 0 && p.kv_len <= static_cast<int64_t>(p.max_pages) * p.page_size,
                 "kv_len must be in 0..=%lld, what max_pages hold, got %d",
                 static_cast<long long>(p.max_pages) * p.page_size, p.kv_len);
  LACUNA_REQUIRE(p.indices_len >= 0 && p.indices_len <= kMost, "indices_len must be in 0..=2^30, got %d",
                 p.indices_len);
  LACUNA_REQUIRE(p.block_table_batch_stride >= p.max_pages, "block_table_batch_stride must be at least %d, got %lld",
                 p.max_pages, static_cast<long long>(p.block_table_batch_stride));
  LACUNA_REQUIRE(p.indptr != nullptr && p.last_page_len != nullptr && p.kv_lens != nullptr,
                 "indptr, last_page_len or kv_lens is null");
  LACUNA_REQUIRE(p.indices_len == 0 || p.indices != nullptr, "indices is null");
  LACUNA_REQUIRE(p.max_pages == 0 || p.block_table != nullptr, "block_table is null");
  PageTableArgs args = {};
  args.p = p;
  return launch<page_table_kernel>("page_table", p.batch, kThreads, 0, stream, args);
}

}  // namespace LACUNA_NS
