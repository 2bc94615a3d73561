// Which keys a block of a gather kernel walks, tile after tile: row() is the key row that this thread lists.
#pragma once

#include "common/row_result.h"
#include "common/score_rule.h"
#include "ptx/math.h"
#include "ptx/thread.h"
#include "sm80/gather/tile.h"
#include "sm80/gather/tile_keys.h"

namespace LACUNA_NS {
namespace sm80 {

// The keys of a block of a pair, in whole tiles, then the sinks among the pair's keys, then its samples. It lies in
// shared memory: its state would cost every thread's registers.
template <int kTileKeys>
struct SortedKeys {
  const int32_t* block;  // key rows of the block
  int block_keys;
  int block_tiles;
  int sink_keys;
  int listed_tiles;  // of block and sinks
  const int32_t* sample_places;
  const int32_t* sample_rows;
  const float* sample_weights;  // or null: all have `weight`
  int samples;                  // 0 where the block is the only one
  int low;                      // places of the block: samples there are in it already
  int sinks;                    // rows below are in no block and no sample
  int window;
  Segment keys;
  float weight;  // of a sample
  float factor;  // units of the scores in a log-weight

  __device__ __forceinline__ void start(const lacuna_gather_forward_params& p, const PairTile& work,
                                        const ScoreRule& rule) {
    const lacuna_gather_plan& plan = p.plan;
    const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
    const int64_t head = static_cast<int64_t>(work.head.batch) * p.shape.kv_heads + work.head.kv_head;
    keys = work.pair.keys;
    low = work.block * plan.block_size;
    block = plan.k_order + (work.level * heads + head) * p.shape.kv_len + keys.start + low;
    block_keys = keys.len - low < plan.block_size ? keys.len - low : plan.block_size;
    block_tiles = divide_up(block_keys, kTileKeys);
    sinks = plan.sinks;
    window = plan.window;
    sink_keys = sinks - keys.start < keys.len ? sinks - keys.start : keys.len;
    sink_keys = sink_keys < 0 ? 0 : sink_keys;
    listed_tiles = block_tiles + divide_up(sink_keys, kTileKeys);
    samples = keys.len > plan.block_size ? plan.samples : 0;
    const int64_t first = (work.number * heads + head) * plan.samples;
    sample_places = plan.sample_places + first;
    sample_rows = plan.sample_rows + first;
    sample_weights = plan.sample_weights == nullptr ? nullptr : plan.sample_weights + first;
    factor = rule.transform ? 1.0f : 1.0f / rule.scale;
    const float log_weight = lg2(static_cast<float>(keys.len) / static_cast<float>(plan.samples)) * kLn2;
    weight = rule.transform ? log_weight : log_weight / rule.scale;
  }

  __device__ __forceinline__ int count(int tile) const {
    const int left = tile >= listed_tiles  ? samples - (tile - listed_tiles) * kTileKeys
                     : tile >= block_tiles ? sink_keys - (tile - block_tiles) * kTileKeys
                                           : block_keys - tile * kTileKeys;
    return left < 0 ? 0 : left < kTileKeys ? left : kTileKeys;
  }

  __device__ __forceinline__ int row(int tile) const {
    const int i = thread_index();
    if (i >= count(tile)) return -1;
    if (tile >= block_tiles && tile < listed_tiles) return keys.start + (tile - block_tiles) * kTileKeys + i;
    int row;
    if (tile < block_tiles) {
      row = block[tile * kTileKeys + i];
    } else {
      const int sample = (tile - listed_tiles) * kTileKeys + i;
      const int place = sample_places[sample];
      row = place >= low && place < low + block_keys ? -1 : sample_rows[sample];
    }
    return row >= keys.start && row >= sinks && row < keys.start + keys.len ? row : -1;
  }

  __device__ __forceinline__ void describe(TileKeys<kTileKeys>& to, int tile) const {
    to.count = count(tile);
    to.weight = tile < listed_tiles ? 0.0f : weight;
    to.weighed = tile >= listed_tiles && sample_weights != nullptr;
    to.window = tile >= block_tiles && tile < listed_tiles ? 0 : window;
  }

  // Writes down what TileExtras has of the key that this thread lists.
  __device__ __forceinline__ void add_extras(TileExtras<kTileKeys>* extras, int tile, int row) const {
    if (window == 0 && sample_weights == nullptr) return;
    const int i = thread_index();
    extras->rows[i] = row;
    if (tile >= listed_tiles && sample_weights != nullptr) {
      extras->weights[i] = row < 0 ? 0.0f : sample_weights[(tile - listed_tiles) * kTileKeys + i] * factor;
    }
  }
};

// The keys of a leaf, from its first to the last row of a tile; before them those of the window that lie outside.
template <int kTileKeys>
struct LeafKeys {
  int first;
  int end;
  int outside;  // keys before the leaf
  int window;

  __device__ __forceinline__ int count(int tile) const {
    const int left = end - first - tile * kTileKeys;
    return left < 0 ? 0 : left < kTileKeys ? left : kTileKeys;
  }

  __device__ __forceinline__ int row(int tile) const {
    const int i = thread_index();
    return i < count(tile) ? first + tile * kTileKeys + i : -1;
  }

  __device__ __forceinline__ void describe(TileKeys<kTileKeys>& to, int tile) const {
    to.count = count(tile);
    to.weight = 0.0f;
    to.weighed = false;
    to.window = 0;
  }

  __device__ __forceinline__ void add_extras(TileExtras<kTileKeys>*, int, int) const {}
};

}  // namespace sm80
}  // namespace LACUNA_NS
