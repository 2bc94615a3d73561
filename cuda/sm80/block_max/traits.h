// Tiles of the block-maximum kernel and what it is launched with.
#pragma once

#include "common/query_tile.h"
#include "lacuna_kernels.h"
#include "sm80/forward/tile_table.h"

namespace LACUNA_NS {
namespace sm80 {

struct BlockMaxArgs {
  lacuna_block_max_params params;
  int q_tiles;     // thread blocks of a (sequence, map head)
  int q_blocks;    // rows of a (sequence, map head) of the map
  int kv_blocks;   // columns of the map
  bool q_vectors;  // rows start on 16-byte boundaries: cp.async serves them
  bool k_vectors;
};

// Two blocks a multiprocessor at least. Without V and the output, registers and shared memory go to K: 64 keys.
constexpr ForwardTile block_max_tile(int head_dim) {
  if (head_dim < 256) return {64, true, head_dim / 16, head_dim, 2};
  return {32, false, 4, 32, 2};  // 66 KB; query fragments would take 64 registers and as much again for those of K
}

// 64 query rows, 4 warps of 16 rows, two stages of K.
template <int kHeadDim_, class T>
struct BlockMaxTraits {
  using Element = T;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr ForwardTile kTile = block_max_tile(kHeadDim);
  static constexpr int kTileRows = 64;
  static constexpr int kTileKeys = kTile.keys;
  static constexpr int kThreads = kTileRows / kGroupRows * 32;
  static constexpr int kSlots = kTileKeys / kSlotKeys;
  static constexpr int kStages = 2;

  struct Shared {
    T q[kTileRows * kHeadDim];
    T k[kStages][kTileKeys * kHeadDim];
    // Maxima of a key tile, for each unit (a row if block_q is 1, else a warp) and block; read one tile later.
    float maxima[2][kTileRows][kSlots];
  };
};

}  // namespace sm80
}  // namespace LACUNA_NS
