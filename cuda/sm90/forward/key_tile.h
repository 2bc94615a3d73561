// A tile of 128 keys as two boxes of 64: what the producer knows of a box, and what it tells the consumers of a tile.
#pragma once

#include "ptx/machine.h"

namespace LACUNA_NS {
namespace sm90 {

constexpr int kBoxKeys = 64;  // keys of a TMA box
constexpr int kBoxes = 2;
constexpr int kTileKeys = kBoxes * kBoxKeys;
constexpr int kPieceKeys = 16;  // pages are whole pieces
constexpr int kBoxPieces = kBoxKeys / kPieceKeys;
constexpr int kBoxKinds = 4;  // 0: somebody must mask it, else who wants it

struct Box {
  int key;  // -1: none
  uint32_t flags;
  int page;  // of its first key; without pages the sequence

  static constexpr uint32_t kWanted = 1;        // << warpgroup: some row of it attends the box
  static constexpr uint32_t kMasked = 1 << 2;   // << warpgroup: and some row of it does not see all of the box
  static constexpr uint32_t kMissing = 1 << 4;  // << piece: its keys lie in no page

  __device__ __forceinline__ uint32_t wanted() const { return flags & 3; }
  __device__ __forceinline__ uint32_t kind() const { return flags >> 2 & 3 ? 0 : wanted(); }
};

// In shared memory beside the data. Eight bits of flags a box, as in Box, and whether it is the item's last tile.
struct alignas(16) KeyTile {
  int key[kBoxes];
  uint32_t flags;
  int reserved;

  static constexpr uint32_t kLast = 1u << 16;

  __device__ __forceinline__ bool wanted(int box, int warpgroup) const { return flags >> (8 * box + warpgroup) & 1; }
  __device__ __forceinline__ bool masked(int box, int warpgroup) const {
    return flags >> (8 * box + 2 + warpgroup) & 1;
  }
  __device__ __forceinline__ uint32_t missing(int box) const { return flags >> (8 * box + 4) & 0xFu; }
  // Nothing to mask: one product over all 128 keys.
  __device__ __forceinline__ bool whole(int warpgroup) const { return (flags >> warpgroup & 0x0505u) == 0x0101u; }
  // Whole for both warpgroups: they take turns.
  __device__ __forceinline__ bool whole_for_all() const { return (flags & 0x0F0Fu) == 0x0303u; }
  __device__ __forceinline__ bool last() const { return (flags & kLast) != 0; }
};

// Where the rows of a tile to be gathered lie, for each piece of 16 keys.
struct GatherRows {
  int page[kBoxes * kBoxPieces];
  int row[kBoxes * kBoxPieces];    // in the page
  int count[kBoxes * kBoxPieces];  // rows that exist; the rest are zeros
  int kv_head;
  int more;  // 0: no tile
};

}  // namespace sm90
}  // namespace LACUNA_NS
