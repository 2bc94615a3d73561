// The sampled keys of each pair: places in its sorted keys, drawn or given, and the rows that stand there.
#include "common/philox.h"
#include "common/row_result.h"
#include "common/validate.h"
#include "ptx/math.h"
#include "ptx/thread.h"
#include "select/lsh.h"

namespace LACUNA_NS {
namespace lsh {

namespace {

constexpr int kSampleThreads = 256;
constexpr int kRounds = 8;  // of a permutation

struct SampleArgs {
  lacuna_hyper_plan_params params;
  const uint32_t* value_sums;
};

// What a draw depends on beside its number.
struct Draw {
  uint64_t seed;
  uint32_t head;  // KV head of its sequence
  uint32_t node;
  uint32_t keys;  // >= 1
  uint32_t samples;
};

__device__ __forceinline__ uint32_t word_of(const Draw& draw, uint32_t i) {
  return philox_word(i, draw.head, draw.node, kPhiloxSamples, draw.seed);
}

// floor(word * size / 2^32)
__device__ __forceinline__ uint32_t part_of(uint32_t word, uint32_t size) {
  return static_cast<uint32_t>(static_cast<uint64_t>(word) * size >> 32);
}

// Place i of a permutation of the keys: a Feistel network over the bits of keys - 1, applied until it lands on a key.
// It comes back to i itself at the latest.
__device__ __forceinline__ uint32_t permuted(const Draw& draw, uint32_t i) {
  int bits = 0;
  while ((draw.keys - 1) >> bits != 0) ++bits;
  const int low_bits = bits / 2;
  const uint32_t low_mask = (1u << low_bits) - 1;
  const uint32_t high_mask = (1u << (bits - low_bits)) - 1;
  uint32_t place = i;
  do {
    uint32_t low = place & low_mask;
    uint32_t high = place >> low_bits;
#pragma unroll 1
    for (uint32_t round = 0; round < kRounds; round += 2) {
      high ^= philox_word(low | round << 16, draw.head, draw.node, kPhiloxPermutation, draw.seed) & high_mask;
      low ^= philox_word(high | (round + 1) << 16, draw.head, draw.node, kPhiloxPermutation, draw.seed) & low_mask;
    }
    place = high << low_bits | low;
  } while (place >= draw.keys);
  return place;
}

// floor((i + word / 2^32) * keys / samples): i * keys is split, so that 64 bits hold everything.
__device__ __forceinline__ uint32_t in_stratum(const Draw& draw, uint32_t i) {
  const uint64_t before = static_cast<uint64_t>(i) * draw.keys;
  const uint64_t whole = before / draw.samples;
  const uint64_t rest = (before % draw.samples << 32) + static_cast<uint64_t>(word_of(draw, i)) * draw.keys;
  return static_cast<uint32_t>(whole + rest / (static_cast<uint64_t>(draw.samples) << 32));
}

// The first place whose sum is above `target`, which the last one is.
__device__ __forceinline__ uint32_t above(const uint32_t* sums, uint32_t keys, uint32_t target) {
  uint32_t low = 0;
  uint32_t high = keys - 1;
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    if (sums[middle] > target) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// The log-weight of a place: one over the draws that fall on it on average.
__device__ __forceinline__ float value_weight(const Draw& draw, const uint32_t* sums, uint32_t place) {
  const uint32_t sum = sums[draw.keys - 1];
  const uint32_t by_value = sum == 0 ? 0 : draw.samples / 2;
  const uint32_t weight = sums[place] - (place == 0 ? 0 : sums[place - 1]);
  const float uniform = static_cast<float>(draw.samples - by_value) / static_cast<float>(draw.keys);
  const float share = sum == 0 ? 0.0f : static_cast<float>(weight) / static_cast<float>(sum);
  return -lg2(fused(static_cast<float>(by_value), share, uniform)) * kLn2;
}

// A thread a sample, in the order of sample_places.
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
  const int64_t first = (level * heads + head) * p.shape.kv_len + keys.start;
  int32_t place;
  if (p.draw != 0) {
    const uint32_t i = static_cast<uint32_t>(index % p.plan.samples);
    const Draw draw{p.seed, static_cast<uint32_t>(head % p.shape.kv_heads),
                    p.plan.causal != 0 ? static_cast<uint32_t>(number + 1) : 0, static_cast<uint32_t>(keys.len),
                    static_cast<uint32_t>(p.plan.samples)};
    if (p.sampling == LACUNA_SAMPLING_DISTINCT) {
      const uint32_t drawn = draw.samples < draw.keys ? draw.samples : draw.keys;
      place = i < drawn ? static_cast<int32_t>(permuted(draw, i)) : -1;
      p.plan.sample_weights[index] = lg2(static_cast<float>(draw.keys) / static_cast<float>(drawn)) * kLn2;
    } else if (p.sampling == LACUNA_SAMPLING_STRATIFIED) {
      place = static_cast<int32_t>(in_stratum(draw, i));
    } else if (p.sampling == LACUNA_SAMPLING_VALUES) {
      const uint32_t* const sums = args.value_sums + first;
      const uint32_t sum = sums[draw.keys - 1];
      const uint32_t word = word_of(draw, i);
      const bool by_value = i % 2 == 1 && sum != 0;
      place = static_cast<int32_t>(by_value ? above(sums, draw.keys, part_of(word, sum)) : part_of(word, draw.keys));
      p.plan.sample_weights[index] = value_weight(draw, sums, static_cast<uint32_t>(place));
    } else {
      place = static_cast<int32_t>(part_of(word_of(draw, i), draw.keys));
    }
    p.plan.sample_places[index] = place;
  } else {
    place = p.plan.sample_places[index];
  }
  p.plan.sample_rows[index] = place >= 0 && place < keys.len ? p.plan.k_order[first + place] : -1;
}

}  // namespace

int32_t launch_samples(const lacuna_hyper_plan_params& p, const Scratch& scratch, void* stream) {
  const int64_t samples = ((int64_t{1} << p.plan.levels) - 1) * p.shape.batch * p.shape.kv_heads * p.plan.samples;
  const int64_t blocks = (samples + kSampleThreads - 1) / kSampleThreads;
  const SampleArgs args{p, scratch.value_sums};
  return launch<lsh_samples_kernel>("lsh_samples", blocks, kSampleThreads, 0, stream, args);
}

}  // namespace lsh
}  // namespace LACUNA_NS
