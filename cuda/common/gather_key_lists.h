// Which keys a block of a gather kernel walks, tile after tile: row() is the key row that this thread lists.
#pragma once

#include "common/gather_tiles.h"
#include "common/row_result.h"
#include "common/score_rule.h"
#include "ptx/math.h"
#include "ptx/thread.h"

namespace LACUNA_NS {

// Weights are divided by the scale; where that could overflow, the scale is applied to the scores.
constexpr float kLeastScale = 1e-20f;

__device__ __forceinline__ ScoreRule gather_rule(float scale) {
  const bool transform = !(scale >= kLeastScale);
  return ScoreRule{scale, 0.0f, transform, transform ? kLog2E : scale * kLog2E};
}

// The unit that log-weights are divided by before they are added to scores, which are not scaled yet.
__device__ __forceinline__ float weight_unit(const ScoreRule& rule) { return rule.transform ? 1.0f : rule.scale; }

// The log-weight of drawn samples that have none of their own.
__device__ __forceinline__ float common_weight(const lacuna_gather_plan& plan, int keys) {
  return lg2(static_cast<float>(keys) / static_cast<float>(plan.samples - plan.exact)) * kLn2;
}

// The keys of a block of a pair, its exact samples, and those drawn, each in whole tiles. It lies in shared memory: its
// state would cost every thread's registers.
template <int kTileKeys>
struct SortedKeys {
  const int32_t* block;  // key rows of the block, or of the window
  int block_keys;
  int block_tiles;
  int plain_tiles;  // with the log-weight 0: of the block, then of exact samples
  const int32_t* sample_places;
  const int32_t* sample_rows;
  const float* sample_weights;  // or null
  int exact;
  int drawn;  // 0, as `exact`, where the block is the only one
  int low;    // places of the block: samples there are in it already
  Segment keys;
  LocalRows local;
  LaterRounds later;
  float weight;  // of drawn samples, in units of scores, unless they have their own
  float unit;    // of those

  __device__ __forceinline__ void start(const lacuna_gather_forward_params& p, const PairTile& work,
                                        const ScoreRule& rule) {
    const lacuna_gather_plan& plan = p.plan;
    const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
    const int64_t head = static_cast<int64_t>(work.head.batch) * p.shape.kv_heads + work.head.kv_head;
    keys = work.pair.keys;
    local = local_rows(plan, work.pair);
    later = later_rounds(p.shape, plan, work.level, work.head.batch, work.head.head, work.head.kv_head);
    low =
        key_windows(p.shape, plan, work.head.batch, work.head.head, work.level, work.node, work.pair).start(work.block);
    block = plan.k_order + (work.level * heads + head) * p.shape.kv_len + keys.start + low;
    block_keys = keys.len - low < plan.block_size ? keys.len - low : plan.block_size;
    block_tiles = divide_up(block_keys, kTileKeys);
    const bool alone = keys.len <= plan.block_size;
    exact = keys.start < plan.exact && !alone ? plan.exact : 0;
    drawn = alone ? 0 : plan.samples - plan.exact;
    plain_tiles = block_tiles + divide_up(exact, kTileKeys);
    const int64_t first = (pair_number(work.level, work.node) * heads + head) * plan.samples + plan.exact - exact;
    sample_places = plan.sample_places + first;
    sample_rows = plan.sample_rows + first;
    sample_weights = plan.sample_weights == nullptr ? nullptr : plan.sample_weights + first;
    unit = weight_unit(rule);
    weight = sample_weights == nullptr ? common_weight(plan, keys.len) / unit : 0.0f;
  }

  __device__ __forceinline__ int count(int tile) const {
    const int left = tile < block_tiles   ? block_keys - tile * kTileKeys
                     : tile < plain_tiles ? exact - (tile - block_tiles) * kTileKeys
                                          : drawn - (tile - plain_tiles) * kTileKeys;
    return left < 0 ? 0 : left < kTileKeys ? left : kTileKeys;
  }

  // Added to the scores of all keys of a tile.
  __device__ __forceinline__ float weight_of(int tile) const { return tile < plain_tiles ? 0.0f : weight; }

  // Log-weights of a tile's keys, count(tile) of them; null: weight_of(tile) is all.
  __device__ __forceinline__ const float* weights_of(int tile) const {
    if (sample_weights == nullptr || tile < plain_tiles) return nullptr;
    return sample_weights + exact + (tile - plain_tiles) * kTileKeys;
  }

  // Whether queries before local.queries_end leave a key out.
  __device__ __forceinline__ bool is_local(int row) const { return row >= local.keys_from; }

  __device__ __forceinline__ int row(int tile) const { return row_of(tile, thread_index()); }

  // Row of key `i` of a tile; -1: none.
  __device__ __forceinline__ int row_of(int tile, int i) const {
    if (i >= count(tile)) return -1;
    int row;
    if (tile < block_tiles) {
      row = block[tile * kTileKeys + i];
    } else {
      const int sample =
          tile < plain_tiles ? (tile - block_tiles) * kTileKeys + i : exact + (tile - plain_tiles) * kTileKeys + i;
      const int place = sample_places[sample];
      row = place >= low && place < low + block_keys ? -1 : sample_rows[sample];
    }
    return row >= keys.start && row < keys.start + keys.len ? row : -1;
  }
};

// The keys of a leaf, from its first one to the last row of a tile.
template <int kTileKeys>
struct LeafKeys {
  int first;
  int end;

  __device__ __forceinline__ int count(int tile) const {
    const int left = end - first - tile * kTileKeys;
    return left < 0 ? 0 : left < kTileKeys ? left : kTileKeys;
  }

  __device__ __forceinline__ float weight_of(int) const { return 0.0f; }

  __device__ __forceinline__ bool is_local(int) const { return false; }

  __device__ __forceinline__ int row(int tile) const {
    const int i = thread_index();
    return i < count(tile) ? first + tile * kTileKeys + i : -1;
  }
};

}  // namespace LACUNA_NS
