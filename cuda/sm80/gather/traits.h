// Shared memory of the gather kernels. Tiles are those of the forward kernel.
#pragma once

#include "common/gather_key_lists.h"
#include "sm80/forward/tile_table.h"

namespace LACUNA_NS {
namespace sm80 {

// A tile of keys as the multiplying warps see it.
template <int kTileKeys>
struct TileKeys {
  uint32_t present[(kTileKeys + 31) / 32];  // bit i: key i is attended
  uint32_t local[(kTileKeys + 31) / 32];    // bit i: but not by queries of the leaf that it is local to
  float weight;                             // added to the scores, in their units
  int count;                                // keys, absent ones in between included; 0: behind the last tile
};

template <int kHeadDim_, class T>
struct GatherTraits : ForwardTraits<kHeadDim_, T> {
  using Forward = ForwardTraits<kHeadDim_, T>;
  static constexpr int kTileRows = Forward::kTileRows;
  static constexpr int kTileKeys = Forward::kTileKeys;
  static constexpr int kStages = Forward::kStages;

  struct Shared {
    T q[kTileRows * kHeadDim_];
    T k[kStages][kTileKeys * kHeadDim_];
    T v[kStages][kTileKeys * kHeadDim_];
    int rows[kTileRows];               // query rows; -1: none
    int key_rows[kStages][kTileKeys];  // rows of k and v, of the tile being loaded and the one being listed; -1: none
    SortedKeys<kTileKeys> source;
    TileKeys<kTileKeys> keys[3];  // of the tile being multiplied, too
  };

  static_assert(kTileKeys % 32 == 0 && kTileKeys <= Forward::kThreads, "whole warps list a tile's keys");
  static_assert(sizeof(Shared) <= 99 * 1024, "the tile must fit desktop cards");
  static_assert(kHeadDim_ > 128 || 2 * (sizeof(Shared) + 1024) <= 164 * 1024, "two blocks on an A100");
};

}  // namespace sm80
}  // namespace LACUNA_NS
