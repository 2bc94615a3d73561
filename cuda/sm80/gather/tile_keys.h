// A tile of listed keys.
#pragma once

#include <cstdint>

namespace LACUNA_NS {
namespace sm80 {

// A tile of keys as the multiplying warps see it.
template <int kTileKeys>
struct TileKeys {
  uint32_t present[kTileKeys / 32];  // bit i: key i is attended
  float weight;                      // added to the scores, in their units
  int count;                         // keys, absent ones in between included; 0: behind the last tile
  int window;                        // keys less than so many rows before a query are hidden
  bool weighed;                      // each key has a weight of its own, in TileExtras
};

// What plans with a window or with weights of their own need of each tile. It lies behind Shared, so that others launch
// without it: at head dim 128 two blocks would not fit on an A100.
template <int kTileKeys>
struct TileExtras {
  float weights[kTileKeys];  // as TileKeys::weight
  int rows[kTileKeys];       // key rows
};

}  // namespace sm80
}  // namespace LACUNA_NS
