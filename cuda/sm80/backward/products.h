// The matrix products of the backward kernels: a warp's 16 rows with slots of 16 rows of a tile in shared memory.
#pragma once

#include "sm80/forward/products.h"

namespace LACUNA_NS {
namespace sm80 {

// A warp's 16 rows of a tile as A fragments.
template <int kDim, class T>
__device__ __forceinline__ void load_rows(uint32_t (&rows)[kDim / 16][4], const T* tile, int row) {
  uint32_t address[kDim / 16];
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) address[i] = piece_address<kDim, false>(tile, row, 16 * i);
  ldmatrix_x4<false>(rows, address);
}

// scores = a b^T over the head: the warp's 16 rows, given as fragments, with 16 rows of `b` from row `row` on.
template <int kDim, int kSteps, class T>
__device__ __forceinline__ void row_products(float (&scores)[2][4], const uint32_t (&a)[kDim / 16][4], const T* b,
                                             int row) {
#pragma unroll
  for (int i = 0; i < 8; ++i) scores[i >> 2][i & 3] = 0.0f;
#pragma unroll
  for (int step = 0; step < kDim / 16; step += kSteps) {
    uint32_t address[kSteps];
    uint32_t rows[kSteps][2][2];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) address[i] = piece_address<kDim, true>(b, row, 16 * (step + i));
    ldmatrix_x4<false>(reinterpret_cast<uint32_t(&)[kSteps][4]>(rows), address);
    mma_m16n8k16<T>(scores, reinterpret_cast<const uint32_t(&)[kSteps][4]>(a[step]), rows);
  }
}

// The same with the warp's rows in shared memory too, from row `a_row` of `a` on.
template <int kDim, int kSteps, class T>
__device__ __forceinline__ void row_products(float (&scores)[2][4], const T* a, int a_row, const T* b, int row) {
#pragma unroll
  for (int i = 0; i < 8; ++i) scores[i >> 2][i & 3] = 0.0f;
#pragma unroll 1
  for (int step = 0; step < kDim / 16; step += kSteps) {
    uint32_t address[kSteps];
    uint32_t piece[kSteps][4];
    uint32_t rows[kSteps][2][2];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) address[i] = piece_address<kDim, true>(b, row, 16 * (step + i));
    ldmatrix_x4<false>(reinterpret_cast<uint32_t(&)[kSteps][4]>(rows), address);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) address[i] = piece_address<kDim, false>(a, a_row, 16 * (step + i));
    ldmatrix_x4<false>(piece, address);
    mma_m16n8k16<T>(scores, piece, rows);
  }
}

// Accumulator tiles of 16 x 16 numbers, rounded, as they lie the A fragment of the next product.
template <class T>
__device__ __forceinline__ void pack_scores(uint32_t (&a)[1][4], const float (&x)[2][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[0][i] = pack<T>(x[i >> 1][2 * (i & 1)], x[i >> 1][2 * (i & 1) + 1]);
}

// acc += a b: 16 x 16 packed numbers with 16 rows of `b` from row `row` on.
template <int kDim, int kColumns, class T>
__device__ __forceinline__ void add_rows(float (&acc)[kDim / 8][4], const uint32_t (&a)[1][4], const T* b, int row) {
#pragma unroll
  for (int column = 0; column < kDim; column += kColumns) {
    uint32_t address[kColumns / 16];
    uint32_t values[1][kColumns / 8][2];
#pragma unroll
    for (int i = 0; i < kColumns / 16; ++i) address[i] = piece_address<kDim, false>(b, row, column + 16 * i);
    ldmatrix_x4<true>(reinterpret_cast<uint32_t(&)[kColumns / 16][4]>(values), address);
    mma_m16n8k16<T>(reinterpret_cast<float(&)[kColumns / 8][4]>(acc[column / 8]), a, values);
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
