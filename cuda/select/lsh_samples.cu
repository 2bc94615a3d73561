// The sampled keys of each pair: places in its sorted keys, drawn or given, and the rows that stand there.
#include "common/validate.h"
#include "ptx/math.h"
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

struct SampleArgs {
  lacuna_hyper_plan_params params;
  const int64_t* share_ends;  // [batch, kv_heads, kv_len]
};

// A sample by its share of a pair's keys.
struct ShareSample {
  int row;
  float weight;  // log
};

__device__ __forceinline__ ShareSample draw_by_share(const Draw& draw, uint32_t i, const int64_t* ends,
                                                     const Segment& keys) {
  const int64_t before = keys.start > 0 ? ends[keys.start - 1] : 0;
  const int64_t total = ends[keys.start + keys.len - 1] - before;
  const int64_t target = before + draw_share(draw, i, total);
  // The first row whose shares end behind the target.
  int low = keys.start;
  int high = keys.start + keys.len - 1;
#pragma unroll 1
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (ends[middle] > target) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const int64_t share = ends[low] - (low > 0 ? ends[low - 1] : 0);
  const float drawn = static_cast<float>(draw.samples) * static_cast<float>(share);
  return ShareSample{low, lg2(static_cast<float>(total) / drawn) * kLn2};
}

// A thread a sample, in the order of sample_places: sinks first.
__global__ void __launch_bounds__(kSampleThreads) lsh_samples_kernel(const __grid_constant__ SampleArgs args) {
  const lacuna_hyper_plan_params& p = args.params;
  const int64_t index = static_cast<int64_t>(block_index()) * kSampleThreads + thread_index();
  const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
  const int64_t number = index / p.plan.samples / heads;
  if (number >= (int64_t{1} << p.plan.levels) - 1) return;
  const int64_t head = index / p.plan.samples % heads;
  int level = 0;
  while (number >= pair_number(level + 1, 0)) ++level;
  const Segment keys = gather_pair(p.shape, p.plan, level, static_cast<int>(number - pair_number(level, 0))).keys;
  if (keys.len == 0) return;
  const int32_t* const order = p.plan.k_order + (level * heads + head) * p.shape.kv_len + keys.start;
  const uint16_t* const ranks = p.k_ranks + head * p.shape.kv_len;
  const int sample = static_cast<int>(index % p.plan.samples);
  int32_t place;
  if (sample < p.plan.exact) {
    const bool is_sink = sample < p.sinks && sample >= keys.start && sample < keys.start + keys.len;
    place = is_sink ? place_of(order, ranks, keys.len, sample) : -1;
  } else if (p.draw != 0) {
    const Draw draw{p.seed, static_cast<uint32_t>(head % p.shape.kv_heads),
                    p.plan.causal != 0 ? static_cast<uint32_t>(number + 1) : 0, static_cast<uint32_t>(keys.len),
                    static_cast<uint32_t>(p.plan.samples - p.plan.exact)};
    const uint32_t of_drawn = static_cast<uint32_t>(sample - p.plan.exact);
    if (p.sampling == LACUNA_SAMPLING_VALUES) {
      const ShareSample drawn = draw_by_share(draw, of_drawn, args.share_ends + head * p.shape.kv_len, keys);
      place = place_of(order, ranks, keys.len, drawn.row);
      p.plan.sample_weights[index] = drawn.weight;
    } else {
      place = draw_place(draw, p.sampling, of_drawn);
    }
    if (order[place] < p.sinks) place = -1;
  } else {
    place = p.plan.sample_places[index];
  }
  if (sample < p.plan.exact || p.draw != 0) p.plan.sample_places[index] = place;
  p.plan.sample_rows[index] = place >= 0 && place < keys.len ? order[place] : -1;
}

}  // namespace

int32_t launch_samples(const lacuna_hyper_plan_params& p, const Scratch& scratch, void* stream) {
  const int64_t samples = ((int64_t{1} << p.plan.levels) - 1) * p.shape.batch * p.shape.kv_heads * p.plan.samples;
  const int64_t blocks = (samples + kSampleThreads - 1) / kSampleThreads;
  const SampleArgs args{p, scratch.share_ends};
  return launch<lsh_samples_kernel>("lsh_samples", blocks, kSampleThreads, 0, stream, args);
}

}  // namespace lsh
}  // namespace LACUNA_NS
