// Where a 16-byte chunk of a tile row lies in shared memory, so that ldmatrix reads eight rows without bank conflicts
// and without padding.
//
// Whole panels of 64 elements (8 chunks, 128 bytes) exchange chunk c with c ^ (row & 7), the same function as TMA's
// 128-byte swizzle. A last half panel of 32 elements exchanges c with c ^ ((row >> 1) & 3): rows of such tiles
// alternate between the two halves of the banks, so that two bits are enough.
#pragma once

#include "ptx/machine.h"

namespace LACUNA_NS {

// Element offset of chunk `chunk` (8 elements) of row `row` in a row-major tile of kColumns columns.
template <int kColumns>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  static_assert(kColumns % 32 == 0, "tile rows are whole half panels");
  constexpr int kFullChunks = kColumns / 64 * 8;
  const int whole = chunk ^ (row & 7);
  if constexpr (kColumns % 64 == 0) {
    return row * kColumns + whole * 8;
  } else {
    const int half = chunk ^ ((row >> 1) & 3);
    return row * kColumns + (chunk < kFullChunks ? whole : half) * 8;
  }
}

}  // namespace LACUNA_NS
