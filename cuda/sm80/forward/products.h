// The matrix products of a warp's 16 query rows with slots of 16 keys, over tiles in shared memory.
#pragma once

#include "common/key_place.h"
#include "common/query_tile.h"
#include "common/swizzle.h"
#include "ptx/cvt.h"
#include "ptx/ldmatrix.h"
#include "ptx/mma.h"
#include "ptx/shared.h"
#include "ptx/thread.h"

namespace LACUNA_NS {
namespace sm80 {

// The call row of this lane's fragment row r: (g) and (g + 8) of the warp's 16.
__device__ __forceinline__ int fragment_row(int warp_row, int r) { return warp_row + thread_index() % 32 / 4 + 8 * r; }

// Shared address of this lane's row for an ldmatrix.x4 that reads a 16 x 16 piece at (row, column): `across` puts the
// second matrix 8 columns on (K as the B operand), otherwise 8 rows on (Q as the A operand, V transposed as B).
template <int kColumns, bool kAcross, class T>
__device__ __forceinline__ uint32_t piece_address(const T* tile, int row, int column) {
  const int lane = thread_index() % 32;
  const int second = lane >> 3 & 1;
  const int third = lane >> 4;
  const int down = kAcross ? third : second;
  const int right = kAcross ? second : third;
  return shared_address(tile + swizzled<kColumns>(row + (lane & 7) + 8 * down, column / 8 + right));
}

template <class Traits>
struct Accumulator {
  float o[Traits::kHeadDim / 8][4];
};

// Products of 16 query rows with the 16 keys of a slot.
template <class Traits>
__device__ __forceinline__ void query_key(float (&scores)[2][4], const uint32_t (&query)[Traits::kHeadDim / 16][4],
                                          const typename Traits::Shared& smem, int stage, int slot, int warp) {
  using T = typename Traits::Element;
  constexpr int kSteps = Traits::kTile.steps;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0.0f;
  }
#pragma unroll 1
  for (int step = 0; step < Traits::kHeadDim / 16; step += kSteps) {
    uint32_t address[kSteps];
    uint32_t keys[kSteps][2][2];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      address[i] = piece_address<Traits::kHeadDim, true>(smem.k[stage], slot * kSlotKeys, 16 * (step + i));
    }
    ldmatrix_x4<false>(reinterpret_cast<uint32_t(&)[kSteps][4]>(keys), address);
    if constexpr (Traits::kTile.keep_query) {
      static_assert(kSteps == Traits::kHeadDim / 16, "kept fragments are used in one go");
      mma_m16n8k16<T>(scores, query, keys);
    } else {
      uint32_t piece[kSteps][4];
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        address[i] = piece_address<Traits::kHeadDim, false>(smem.q, warp * kGroupRows, 16 * (step + i));
      }
      ldmatrix_x4<false>(piece, address);
      mma_m16n8k16<T>(scores, piece, keys);
    }
  }
}

// o += P V for the 16 keys of a slot; the accumulator tiles of P are the A fragment as they lie.
template <class Traits>
__device__ __forceinline__ void probability_value(Accumulator<Traits>& acc, const float (&p)[2][4],
                                                  const typename Traits::Shared& smem, int stage, int slot) {
  using T = typename Traits::Element;
  constexpr int kColumns = Traits::kTile.columns;
  const uint32_t a[1][4] = {
      {pack<T>(p[0][0], p[0][1]), pack<T>(p[0][2], p[0][3]), pack<T>(p[1][0], p[1][1]), pack<T>(p[1][2], p[1][3])}};
#pragma unroll
  for (int column = 0; column < Traits::kHeadDim; column += kColumns) {
    uint32_t address[kColumns / 16];
    uint32_t values[1][kColumns / 8][2];
#pragma unroll
    for (int i = 0; i < kColumns / 16; ++i) {
      address[i] = piece_address<Traits::kHeadDim, false>(smem.v[stage], slot * kSlotKeys, column + 16 * i);
    }
    ldmatrix_x4<true>(reinterpret_cast<uint32_t(&)[kColumns / 16][4]>(values), address);
    mma_m16n8k16<T>(reinterpret_cast<float(&)[kColumns / 8][4]>(acc.o[column / 8]), a, values);
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
