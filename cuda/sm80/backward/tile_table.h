// The tiles of each head dim of the portable backward kernels, with the reasons beside them.
#pragma once

#include "common/key_source.h"
#include "common/query_source.h"
#include "common/swizzle.h"
#include "ptx/machine.h"

namespace LACUNA_NS {
namespace sm80 {

struct QueryGradTile {
  int keys;        // keys of a kernel tile
  bool keep_rows;  // fragments of q and dout stay in registers
  int steps;       // k16 steps of a product over the head whose fragments are loaded together
  int columns;     // columns of dq whose fragments of K are loaded together
  int blocks;      // resident blocks a multiprocessor that registers are budgeted for
};

// 64 query rows, 4 warps of 16 rows, two stages of K and V, the second of which q and dout pass through where they are
// kept: 8 * keys * head_dim bytes.
constexpr QueryGradTile query_grad_tile(int head_dim) {
  if (head_dim == 32) return {64, true, 2, 32, 3};   // 16 KB
  if (head_dim == 64) return {64, true, 4, 64, 2};   // 32 KB
  if (head_dim == 96) return {64, true, 3, 96, 2};   // 48 KB
  if (head_dim == 128) return {64, true, 4, 64, 2};  // 64 KB: two blocks on an A100
  return {16, false, 2, 32, 1};  // 256: 96 KB; dq takes 128 registers a thread, so q and dout stay in shared memory
}

template <int kHeadDim_, class T>
struct QueryGradTraits {
  using Element = T;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr QueryGradTile kTile = query_grad_tile(kHeadDim);
  static constexpr int kTileRows = 64;
  static constexpr int kTileKeys = kTile.keys;
  static constexpr int kThreads = kTileRows / kGroupRows * 32;
  static constexpr int kSlots = kTileKeys / kSlotKeys;
  static constexpr int kStages = 2;
  static constexpr int kKeyTiles = 3;  // being multiplied, being loaded, being listed

  struct Shared {
    T k[kStages][kTileKeys * kHeadDim];
    T v[kStages][kTileKeys * kHeadDim];
    T rows[kTile.keep_rows ? 8 : 2 * kTileRows * kHeadDim];  // q and dout, unless kept
    KeySource<kTileRows> source;
    KeyTile<kSlots> keys[kKeyTiles];

    __device__ __forceinline__ T* q() { return kTile.keep_rows ? k[1] : rows; }
    __device__ __forceinline__ T* dout() { return kTile.keep_rows ? v[1] : rows + kTileRows * kHeadDim; }
  };

  static_assert(!kTile.keep_rows || kTileKeys >= kTileRows, "q and dout fit into a stage");
  static_assert(sizeof(Shared) <= 99 * 1024, "the tile must fit desktop cards");
};

struct KeyGradTile {
  int steps;    // k16 steps of a product over the head whose fragments are loaded together
  int columns;  // columns of dk and dv whose fragments are loaded together
  int blocks;   // resident blocks a multiprocessor that registers are budgeted for
};

// 64 keys and two warps for each 16 of them: one makes P and dv and keeps K, the other makes dS and dk and keeps V, so
// that a thread has one accumulator. Two stages of 32 rows of q and dout, which K and V pass through: 256 * head_dim
// bytes, and 8 KB for P between the warps.
constexpr KeyGradTile key_grad_tile(int head_dim) {
  if (head_dim == 32) return {2, 32, 2};   // 16 KB
  if (head_dim == 64) return {4, 64, 2};   // 24 KB
  if (head_dim == 96) return {3, 96, 1};   // 32 KB
  if (head_dim == 128) return {4, 64, 1};  // 40 KB
  return {2, 32, 1};                       // 256: 72 KB
}

template <int kHeadDim_, class T>
struct KeyGradTraits {
  using Element = T;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr KeyGradTile kTile = key_grad_tile(kHeadDim);
  static constexpr int kTileKeys = kColumnKeys;
  static constexpr int kTileRows = 32;
  static constexpr int kWarps = 2 * kColumnGroups;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kSlots = kTileRows / kGroupRows;
  static constexpr int kStages = 2;
  static constexpr int kQueryTiles = 3;  // being multiplied, being loaded, being listed

  // 4 of the 8 numbers that a lane holds of 16 x 16.
  struct alignas(16) Quad {
    float x[4];
  };

  struct Shared {
    T q[kStages][kTileRows * kHeadDim];
    T dout[kStages][kTileRows * kHeadDim];
    float lse[kStages][kTileRows];
    float delta[kStages][kTileRows];
    Quad probabilities[kSlots][kColumnGroups][2][32];
    QuerySource source;
    QuerySlots<kSlots> slots[kQueryTiles];
  };

  static_assert(kStages * kTileRows >= kTileKeys, "K and V fit into the stages");
  static_assert(1 + kSlots * kColumnGroups <= 16, "a named barrier for each slot and group");
  static_assert(sizeof(Shared) <= 99 * 1024, "the tile must fit desktop cards");
};

}  // namespace sm80
}  // namespace LACUNA_NS
