// What a consumer warpgroup does with one key tile: products on wgmma, masking, online softmax.
//
// The softmax is FlashAttention-2's; the order of the hot loop (S of the next tile and P V of this one in flight while
// the softmax runs) is FlashAttention-3's (Shah et al., 2024, arXiv 2407.08608).
#pragma once

#include "common/online_softmax.h"
#include "common/score_rule.h"
#include "ptx/cvt.h"
#include "ptx/wgmma.h"
#include "sm90/forward/tile_table.h"

namespace LACUNA_NS {
namespace sm90 {

// s += Q K^T, or only the 64 keys of a box: kKeys is 128 or 64. Issues and commits.
template <class Traits, int kKeys>
__device__ __forceinline__ void query_key(float (&s)[kKeys / 2], uint32_t q, uint32_t k) {
  using T = typename Traits::Element;
  const uint64_t a = wgmma_descriptor(q, 16, 1024, Swizzle::kSwizzle128);
  const uint64_t b = wgmma_descriptor(k, 16, 1024, Swizzle::kSwizzle128);
  wgmma_registers(s);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < Traits::kHeadDim / 16; ++step) {
    const int offset = step / 4 * Traits::kPanelBytes + step % 4 * 32;
    wgmma_ss<T, Major::kK>(s, advanced(a, offset), advanced(b, offset), step > 0);
  }
  wgmma_commit();
}

// o += P V over kKeys keys. Issues and commits.
template <class Traits, int kKeys>
__device__ __forceinline__ void probability_value(float (&o)[Traits::kHeadDim / 2], uint32_t (&p)[kKeys / 16][4],
                                                  uint32_t v) {
  using T = typename Traits::Element;
  const uint64_t b = wgmma_descriptor(v, Traits::kPanelBytes, 1024, Swizzle::kSwizzle128);
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) wgmma_registers(p[step]);
  wgmma_registers(o);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    wgmma_rs<T, Major::kMn>(o, p[step], advanced(b, step * kPieceKeys * kPanelElements * 2), true);
  }
  wgmma_commit();
}

// Accumulators of 16 columns, as pairs, are the A operand of a k16 step.
template <class T, int kCount>
__device__ __forceinline__ void pack_probabilities(const float (&s)[kCount], uint32_t (&p)[kCount / 8][4]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) p[i / 4][i % 4] = pack<T>(s[2 * i], s[2 * i + 1]);
}

template <int kCount>
__device__ __forceinline__ void scale_rows(float (&o)[kCount], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) o[i] *= factor[i / 2 % 2];
}

template <class Traits, int kCount>
__device__ __forceinline__ void transform_scores(float (&s)[kCount], const ScoreRule& rule) {
  if constexpr (Traits::kTransform) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) s[i] = transformed(rule, s[i]);
  }
}

// Hides the pairs of a box that the mask hides, and keys of missing pieces. s: products with its 64 keys.
template <class Lengths>
__device__ __forceinline__ void mask_box(float (&s)[kBoxKeys / 2], const Lengths& lengths, const lacuna_mask& mask,
                                         int row, int key, uint32_t missing) {
  const int column = 2 * (thread_index() % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t position = key_position(lengths, row + 8 * r);
    const KeyRange range = visible_keys(mask, lengths.kv_len, position, position);
    const int low = range.low - key - column;
    const int high = range.high - key - column;
#pragma unroll
    for (int i = 0; i < kBoxKeys / 4; ++i) {
      const int at = 8 * (i / 2) + i % 2;  // column of the box, less this lane's
      const bool hidden = at < low || at >= high || (missing >> (at / kPieceKeys) & 1) != 0;
      float& score = s[4 * (i / 2) + 2 * r + i % 2];
      score = hidden ? minus_infinity() : score;
    }
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
