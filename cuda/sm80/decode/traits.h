// The tile of the portable decode kernel, and what it is launched with.
#pragma once

#include "sm80/decode/source.h"
#include "sm80/forward/tile_table.h"

namespace LACUNA_NS {
namespace sm80 {

constexpr int kDecodeWarps = 4;

struct DecodeArgs {
  lacuna_forward_params params;
  int pack;        // query heads of a tile: those that share a KV head and a plan head
  int groups;      // of such heads
  int row_tiles;   // tiles of kRows rows that the pack * q_len rows of a group need
  bool q_vectors;  // rows start on 16-byte boundaries: cp.async serves them
  bool k_vectors;
  bool v_vectors;
  bool out_pairs;  // output rows start on 4-byte boundaries
};

// kRows packed rows (16, 32 or 64): row h * q_len + t is query t of the tile's h-th head. kRows / 16 warps lie along
// the rows, and the others of the four along the keys, so that no warp is idle however few rows there are.
template <int kHeadDim_, int kRows_, class T>
struct DecodeTraits {
  using Element = T;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr ForwardTile kTile = forward_tile(kHeadDim);
  static constexpr int kTileRows = kRows_;
  static constexpr int kTileKeys = kTile.keys;
  static constexpr int kThreads = kDecodeWarps * 32;
  static constexpr int kRowWarps = kTileRows / kGroupRows;
  static constexpr int kKeyWarps = kDecodeWarps / kRowWarps;
  static constexpr int kSlots = kTileKeys / kSlotKeys;
  static constexpr int kOwnSlots = kSlots > kKeyWarps ? kSlots / kKeyWarps : 1;  // of a key tile, a warp's
  static constexpr int kStages = 2;
  static constexpr int kKeyTiles = 3;                  // being multiplied, being loaded, being listed
  static constexpr int kRegisters = kHeadDim / 2 + 4;  // that a lane hands to the merge: output, maxima, sums

  struct Shared {
    T q[kTileRows * kHeadDim];
    T k[kStages][kTileKeys * kHeadDim];
    T v[kStages][kTileKeys * kHeadDim];
    DecodeSource source;
    KeyTile<kSlots> keys[kKeyTiles];
    int32_t visited[kThreads];
  };

  static_assert(kTileRows == 16 || kTileRows == 32 || kTileRows == 64, "one to four warps along the rows");
  static_assert(sizeof(Shared) <= 99 * 1024, "the tile must fit desktop cards");
  // The merge puts the states of all but the first warps where the stages were.
  static_assert((kDecodeWarps - kRowWarps) * 32 * kRegisters * 4 <= 4 * kTileKeys * kHeadDim * 2,
                "the stages hold the warps' states");
};

}  // namespace sm80
}  // namespace LACUNA_NS
