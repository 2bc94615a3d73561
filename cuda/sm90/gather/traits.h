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

// 128 listed keys as the producers tell the consumers. All rows of a tile attend all of them that are there.
struct alignas(16) ListedTile {
  uint32_t present[kTileKeys / 32];  // bit i: key i is attended
  float weight;                      // added to the scores, in their units
  int is_last;                       // of the item

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
};

template <int kHeadDim_, class T>
struct GatherTraits : ForwardTraits<kHeadDim_, T, KeyLoads::kGathered, false> {
  using Forward = ForwardTraits<kHeadDim_, T, KeyLoads::kGathered, false>;
  using Args = GatherArgs;
  using Tile = ListedTile;
  static constexpr bool kListed = true;

  struct Shared {
    alignas(1024) T q[Forward::kQueryBuffers][Forward::kQueryTile];
    alignas(1024) T k[Forward::kStages][Forward::kKeyTile];
    alignas(1024) T v[Forward::kStages][Forward::kKeyTile];
    ListedTile tile[Forward::kStages];
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

// Adds the weight of a tile to its scores and hides keys that are absent.
__device__ __forceinline__ void weigh_listed(float (&s)[kTileKeys / 2], const ListedTile& tile) {
  if (tile.weight != 0.0f) {
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) s[i] += tile.weight;
  }
  if ((tile.present[0] & tile.present[1] & tile.present[2] & tile.present[3]) == ~0u) return;
  const int column = 2 * (thread_index() % 4);
#pragma unroll
  for (int n = 0; n < kTileKeys / 8; ++n) {
    const uint32_t mine = tile.present[n / 4] >> (8 * (n % 4) + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((mine >> (i % 2) & 1) == 0) s[4 * n + i] = minus_infinity();
    }
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
