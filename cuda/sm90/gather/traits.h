// Hopper attention over the pairs of a gather plan: arguments and shared memory. Tiles, registers and the consumers'
// loop are those of the forward kernel.
#pragma once

#include "common/gather_key_lists.h"
#include "sm90/forward/tile_table.h"

namespace LACUNA_NS {
namespace sm90 {

struct GatherArgs : GatherTiles {
  int64_t items;
};

// 128 listed keys as the producers tell the consumers. A word for each of the four lanes that share a query row: bit
// 2 n + i is key 8 n + 2 lane + i, whose score is element i of its part n.
struct alignas(16) ListedTile {
  uint32_t present[4];  // the key is attended
  uint32_t local[4];    // but not by queries of the leaf that it is local to
  float weight;         // added to the scores, in their units, unless each key has its own
  int weights;          // row of those; -1: none
  int is_last;          // of the item

  // Bits of 32 keys, as a ballot has them, from key 32 * `warp` on.
  static __device__ __forceinline__ void tell(uint32_t (&words)[4], int warp, uint32_t keys) {
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) {
      const uint32_t pairs = keys >> (2 * lane) & 0x03030303u;
      reinterpret_cast<uint8_t*>(&words[lane])[warp] =
          static_cast<uint8_t>(pairs | pairs >> 6 | pairs >> 12 | pairs >> 18);
    }
  }
};

// What a lane needs of it. All rows of a tile attend all keys that are there, but for local ones.
struct LaneTile {
  uint32_t present;
  uint32_t local;
  float weight;
  int weights;
  int is_last;

  __device__ __forceinline__ LaneTile() = default;
  __device__ __forceinline__ LaneTile(const ListedTile& list)
      : present(list.present[thread_index() % 4]),
        local(list.local[thread_index() % 4]),
        weight(list.weight),
        weights(list.weights),
        is_last(list.is_last) {}

  __device__ __forceinline__ bool last() const { return is_last != 0; }
  __device__ __forceinline__ bool whole(int) const { return true; }
  __device__ __forceinline__ bool whole_for_all() const { return true; }
};

// Up to 128 sorted query rows against one block of keys and the samples.
struct PairWork {
  int index;  // -1: no more
  int keys;   // 1: key tiles follow
  PairTile tile;
  int rows[kTileRows];  // of q, out and lse; -1: none
  int local_end;        // rows before it leave local keys out
};

template <int kHeadDim_, class T>
struct GatherTraits : ForwardTraits<kHeadDim_, T, KeyLoads::kGathered, false> {
  using Forward = ForwardTraits<kHeadDim_, T, KeyLoads::kGathered, false>;
  using Args = GatherArgs;
  using Tile = LaneTile;
  static constexpr bool kListed = true;

  struct Shared {
    alignas(1024) T q[Forward::kQueryBuffers][Forward::kQueryTile];
    alignas(1024) T k[Forward::kStages][Forward::kKeyTile];
    alignas(1024) T v[Forward::kStages][Forward::kKeyTile];
    ListedTile tile[Forward::kStages];
    // Of the tile in a stage and the one before: the stage is free for the next keys before their weights are read.
    float weights[2 * Forward::kStages][kTileKeys];
    PairWork work[Forward::kQueryBuffers];
    SortedKeys<kTileKeys> source[2];  // of this item and the last one
    int key_rows[2][kTileKeys];       // of the tile being copied and the next one; -1: none
    Mbarrier q_full[Forward::kQueryBuffers];
    Mbarrier q_empty[Forward::kQueryBuffers];
    Mbarrier k_full[Forward::kStages];
    Mbarrier k_empty[Forward::kStages];
    Mbarrier v_full[Forward::kStages];
    Mbarrier v_empty[Forward::kStages];
  };

  static_assert(kTileKeys == kWarpgroupThreads && kTileRows == kWarpgroupThreads, "a producer thread lists one row");
  static_assert(sizeof(Shared) <= 227 * 1024, "the tile must fit a Hopper multiprocessor");
};

// Which of the rows at `rows` of a warp leave local keys out: bit r is fragment row r.
__device__ __forceinline__ int local_rows_of(const PairWork& work, const int* rows) {
  const int* mine = rows + thread_index() % kWarpThreads / 4;
  return (mine[0] < work.local_end ? 1 : 0) | (mine[8] < work.local_end ? 2 : 0);
}

// Adds the weights of a tile to its scores and hides keys that are absent, or local to the leaf of a row.
__device__ __forceinline__ void weigh_listed(float (&s)[kTileKeys / 2], const LaneTile& tile,
                                             const float (*weights)[kTileKeys], int local_rows) {
  if (tile.weights >= 0) {
    const float* of_lane = weights[tile.weights] + 2 * (thread_index() % 4);
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) s[i] += of_lane[i / 4 * 8 + i % 2];
  } else if (tile.weight != 0.0f) {
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) s[i] += tile.weight;
  }
  const uint32_t seen[2] = {(local_rows & 1) != 0 ? tile.present & ~tile.local : tile.present,
                            (local_rows & 2) != 0 ? tile.present & ~tile.local : tile.present};
  if ((seen[0] & seen[1]) == ~0u) return;
#pragma unroll
  for (int i = 0; i < kTileKeys / 2; ++i) {
    if ((seen[i / 2 % 2] >> (i / 4 * 2 + i % 2) & 1) == 0) s[i] = minus_infinity();
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
