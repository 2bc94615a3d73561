// The tile of each head dim of the portable forward kernel, with the reason beside it.
#pragma once

#include "common/key_source.h"
#include "common/swizzle.h"
#include "ptx/machine.h"

namespace LACUNA_NS {
namespace sm80 {

struct ForwardTile {
  int keys;         // keys of a kernel tile
  bool keep_query;  // query fragments stay in registers
  int steps;        // k16 steps of Q K^T whose fragments are loaded together
  int columns;      // output columns whose V fragments are loaded together
  int blocks;       // resident blocks a multiprocessor that registers are budgeted for
};

// 64 query rows, 4 warps of 16 rows, two stages of K and V. Shared memory is (rows + 4 * keys) * head_dim * 2 bytes
// and must stay below 99 KB, so that cards with 100 KB a multiprocessor run it.
constexpr ForwardTile forward_tile(int head_dim) {
  if (head_dim == 32) return {64, true, 2, 32, 3};    // 20 KB
  if (head_dim == 64) return {64, true, 4, 64, 2};    // 40 KB: two blocks on every card
  if (head_dim == 96) return {64, true, 6, 96, 2};    // 60 KB
  if (head_dim == 128) return {64, true, 8, 128, 2};  // 80 KB: two blocks on an A100
  return {32, false, 2, 32, 1};  // 256: 96 KB; the output takes 128 registers a thread, so Q stays in shared memory
                                 // and fragments are loaded in small pieces
}

// kRagged_: lengths are on the device.
template <int kHeadDim_, class T, bool kRagged_ = false>
struct ForwardTraits {
  using Element = T;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kRagged = kRagged_;
  static constexpr ForwardTile kTile = forward_tile(kHeadDim);
  static constexpr int kTileRows = 64;
  static constexpr int kTileKeys = kTile.keys;
  static constexpr int kWarps = kTileRows / kGroupRows;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kSlots = kTileKeys / kSlotKeys;
  static constexpr int kChunks = kHeadDim / 8;  // 16-byte chunks of a row
  static constexpr int kStages = 2;
  static constexpr int kKeyTiles = 3;  // being multiplied, being loaded, being listed

  struct Shared {
    T q[kTileRows * kHeadDim];
    T k[kStages][kTileKeys * kHeadDim];
    T v[kStages][kTileKeys * kHeadDim];
    KeySource<kTileRows, kRagged> source;
    KeyTile<kSlots> keys[kKeyTiles];
  };

  static_assert(sizeof(T) == 2, "q, k and v are 16-bit floats");
  static_assert(kHeadDim % 32 == 0, "a head is whole half panels of the swizzle");
  static_assert(kHeadDim / 16 % kTile.steps == 0 && kHeadDim % kTile.columns == 0, "pieces divide the head");
  static_assert(sizeof(Shared) <= 99 * 1024, "the tile must fit desktop cards");
};

}  // namespace sm80
}  // namespace LACUNA_NS
