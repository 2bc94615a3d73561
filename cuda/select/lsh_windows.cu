// Where the keys of each query block begin: the window of a block's keys is centred on those that are in the buckets of
// its queries.
#include "common/gather_windows.h"
#include "common/validate.h"
#include "ptx/thread.h"
#include "select/lsh.h"

namespace LACUNA_NS {
namespace lsh {

namespace {

constexpr int kWindowThreads = 128;

// Sorted keys whose bucket is before `rank`, or the same if `with`.
__device__ __forceinline__ int keys_until(const int32_t* order, const uint16_t* ranks, int keys, int rank, bool with) {
  int low = 0;
  int high = keys;
#pragma unroll 1
  while (low < high) {
    const int middle = (low + high) / 2;
    const int at = ranks[order[middle]];
    if (at < rank || (with && at == rank)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// A thread a query block, in the order of plan.windows.
__global__ void __launch_bounds__(kWindowThreads)
    lsh_windows_kernel(const __grid_constant__ lacuna_hyper_plan_params p) {
  const lacuna_shape& shape = p.shape;
  const lacuna_gather_plan& plan = p.plan;
  const int64_t index = static_cast<int64_t>(block_index()) * kWindowThreads + thread_index();
  const int64_t row = index / plan.windows_of_head;
  const int64_t q_heads = static_cast<int64_t>(shape.batch) * shape.q_heads;
  if (row >= plan.levels * q_heads) return;
  const int level = static_cast<int>(row / q_heads);
  const int64_t q_head = row % q_heads;
  const int64_t of_head = index % plan.windows_of_head;
  const int per_pair = windows_of_pair(shape, plan, level);
  const int64_t node = of_head / per_pair;
  if (node >= int64_t{1} << level) return;
  const int block = static_cast<int>(of_head % per_pair);
  const GatherPair pair = gather_pair(shape, plan, level, static_cast<int>(node));
  if (pair.keys.len == 0) return;
  const int size = queries_of_block(pair.queries.len, pair.keys.len, plan.block_size);
  const int64_t first = static_cast<int64_t>(block) * size;
  if (first >= pair.queries.len) return;
  const int64_t behind = first + size < pair.queries.len ? first + size : pair.queries.len;
  const int group = shape.q_heads / shape.kv_heads;
  const int64_t kv_head = q_head / group;
  const int64_t kv_heads = static_cast<int64_t>(shape.batch) * shape.kv_heads;
  const int32_t* queries = plan.q_order + (level * q_heads + q_head) * shape.q_len + pair.queries.start;
  const int32_t* keys = plan.k_order + (level * kv_heads + kv_head) * shape.kv_len + pair.keys.start;
  const uint16_t* q_ranks = p.q_ranks + q_head * shape.q_len;
  const uint16_t* k_ranks = p.k_ranks + kv_head * shape.kv_len;
  const int64_t low = keys_until(keys, k_ranks, pair.keys.len, q_ranks[queries[first]], false);
  const int64_t high = keys_until(keys, k_ranks, pair.keys.len, q_ranks[queries[behind - 1]], true);
  int64_t start = (low + high - plan.block_size) / 2;
  const int64_t last = pair.keys.len - plan.block_size;
  start = start < last ? start : last;
  plan.windows[index] = static_cast<int32_t>(start < 0 ? 0 : start);
}

}  // namespace

int32_t launch_windows(const lacuna_hyper_plan_params& p, void* stream) {
  const int64_t windows =
      static_cast<int64_t>(p.plan.levels) * p.shape.batch * p.shape.q_heads * p.plan.windows_of_head;
  const int64_t blocks = (windows + kWindowThreads - 1) / kWindowThreads;
  return launch<lsh_windows_kernel>("lsh_windows", blocks, kWindowThreads, 0, stream, p);
}

}  // namespace lsh
}  // namespace LACUNA_NS
