// The sampled keys of each pair: places in its sorted keys, drawn or given, and the rows that stand there.
#include "common/validate.h"
#include "ptx/thread.h"
#include "select/lsh.h"
#include "select/lsh_draw.h"

namespace LACUNA_NS {
namespace lsh {

namespace {

constexpr int kSampleThreads = 256;

// Where a row of a pair stands in its sorted keys, which ascend by (rank, row).
__device__ __forceinline__ int place_of(const int32_t* order, const uint16_t* ranks, int keys, int row) {
  int low = 0;
  int high = keys;
#pragma unroll 1
  while (low + 1 < high) {
    const int middle = (low + high) / 2;
    const int at = order[middle];
    const bool behind = ranks[at] > ranks[row] || (ranks[at] == ranks[row] && at > row);
    if (behind) {
      high = middle;
    } else {
      low = middle;
    }
  }
  return low;
}

// A thread a sample, in the order of sample_places: sinks first.
__global__ void __launch_bounds__(kSampleThreads)
    lsh_samples_kernel(const __grid_constant__ lacuna_hyper_plan_params p) {
  const int64_t index = static_cast<int64_t>(block_index()) * kSampleThreads + thread_index();
  const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
  const int64_t number = index / p.plan.samples / heads;
  if (number >= (int64_t{1} << p.plan.levels) - 1) return;
  const int64_t head = index / p.plan.samples % heads;
  int level = 0;
  while (number >= pair_number(level + 1, 0)) ++level;
  const Segment keys = gather_pair(p.shape, p.plan, level, static_cast<int>(number - pair_number(level, 0))).keys;
  if (keys.len == 0) return;
  const int64_t first = (level * heads + head) * p.shape.kv_len + keys.start;
  const int sample = static_cast<int>(index % p.plan.samples);
  int32_t place;
  if (sample < p.plan.exact) {
    const bool is_sink = sample < p.sinks && sample >= keys.start && sample < keys.start + keys.len;
    place = is_sink ? place_of(p.plan.k_order + first, p.k_ranks + head * p.shape.kv_len, keys.len, sample) : -1;
    p.plan.sample_places[index] = place;
  } else if (p.draw != 0) {
    const Draw draw{p.seed, static_cast<uint32_t>(head % p.shape.kv_heads),
                    p.plan.causal != 0 ? static_cast<uint32_t>(number + 1) : 0, static_cast<uint32_t>(keys.len),
                    static_cast<uint32_t>(p.plan.samples - p.plan.exact)};
    place = draw_place(draw, p.sampling, static_cast<uint32_t>(sample - p.plan.exact));
    if (p.plan.k_order[first + place] < p.sinks) place = -1;
    p.plan.sample_places[index] = place;
  } else {
    place = p.plan.sample_places[index];
  }
  p.plan.sample_rows[index] = place >= 0 && place < keys.len ? p.plan.k_order[first + place] : -1;
}

}  // namespace

int32_t launch_samples(const lacuna_hyper_plan_params& p, void* stream) {
  const int64_t samples = ((int64_t{1} << p.plan.levels) - 1) * p.shape.batch * p.shape.kv_heads * p.plan.samples;
  const int64_t blocks = (samples + kSampleThreads - 1) / kSampleThreads;
  return launch<lsh_samples_kernel>("lsh_samples", blocks, kSampleThreads, 0, stream, p);
}

}  // namespace lsh
}  // namespace LACUNA_NS
