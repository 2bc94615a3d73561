// The tile of the portable decode kernel, and what it is launched with.
#pragma once

#include <type_traits>

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

// Stages of K and V. What counts is bytes in flight on a multiprocessor, (stages - 1) * blocks of them, and a second
// block that loads while the first one counts, lists and merges. A block takes the stages and less than 1 KB (head dim
// 256: Q besides), and the machine 1 KB more.
constexpr int decode_stages(int head_dim) {
  if (head_dim == 32) return 4;  // of 8 KB, 33 KB: two blocks on 100 KB, four on 164 KB
  if (head_dim == 64) return 3;  // of 16 KB, 49 KB: two on 100 KB, three on 164 KB, four on 228 KB
  if (head_dim == 96)
    return 3;  // of 24 KB, 73 KB: two on 164 KB, three on 228 KB; one on 100 KB, with as many bytes in
               // flight as two blocks of two stages
  if (head_dim == 128) return 2;  // of 32 KB, 65 KB: two on 164 KB, three on 228 KB; a third stage would leave one
  return 2;                       // 256: of 32 KB (32 keys), 64 KB and 8 to 32 KB for Q: one block of 64 rows on 100 KB
}

struct NoQuery {};

template <class T, int kElements>
struct QueryRows {
  T q[kElements];
};

// kRows packed rows (16, 32 or 64): row h * q_len + t is query t of the tile's h-th head. kRows / 16 warps lie along
// the rows, and the others of the four along the keys.
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
  static constexpr int kStages = decode_stages(kHeadDim);
  static constexpr int kKeyTiles = kStages + 1;        // being multiplied, being loaded, being listed
  static constexpr int kRegisters = kHeadDim / 2 + 4;  // that a lane hands to the merge: output, maxima, sums

  // Fragments of Q that are kept in registers come through the stage of V that is filled last.
  struct Shared : std::conditional_t<kTile.keep_query, NoQuery, QueryRows<T, kTileRows * kHeadDim>> {
    T k[kStages][kTileKeys * kHeadDim];
    T v[kStages][kTileKeys * kHeadDim];
    DecodeSource source;
    KeyTile<kSlots> keys[kKeyTiles];

    __device__ __forceinline__ T* query() {
      if constexpr (kTile.keep_query) {
        return v[kStages - 1];
      } else {
        return this->q;
      }
    }
    // The stages, before the first load and after the last product.
    template <class U>
    __device__ __forceinline__ U* scratch() {
      return reinterpret_cast<U*>(k);
    }
  };

  static_assert(kTileRows == 16 || kTileRows == 32 || kTileRows == 64, "one to four warps along the rows");
  static_assert(sizeof(Shared) <= 99 * 1024, "the tile must fit desktop cards");
  static_assert(!kTile.keep_query || sizeof(Shared) <= kStages * 4 * kTileKeys * kHeadDim + 1024,
                "what is not a stage stays below 1 KB");
  static_assert(!kTile.keep_query || kTileRows <= kTileKeys, "Q fits where a stage of V will be");
  // The merge puts the states of all but the first warps where the stages were.
  static_assert((kDecodeWarps - kRowWarps) * 32 * kRegisters * 4 <= 2 * kStages * kTileKeys * kHeadDim * 2,
                "the stages hold the warps' states");
};

}  // namespace sm80
}  // namespace LACUNA_NS
