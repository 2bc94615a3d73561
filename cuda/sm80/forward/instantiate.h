// The launcher body shared by the head-dim compilations.
#pragma once

#include "common/alignment.h"
#include "ptx/launch.h"
#include "sm80/forward/kernel.h"

namespace LACUNA_NS {
namespace sm80 {

template <class Traits>
int32_t forward_with(const char* name, const lacuna_forward_params& p, void* stream) {
  ForwardArgs args;
  args.params = p;
  // Packed rows are one sequence to the strides.
  if (p.shape.cu_seqlens_q != nullptr) {
    args.params.q_stride.batch = args.params.out_stride.batch = args.params.lse_stride.batch = 0;
  }
  if (p.shape.cu_seqlens_k != nullptr) args.params.k_stride.batch = args.params.v_stride.batch = 0;
  const int shift = largest_row_shift(p.shape, p.plan);
  const int q_tiles = (p.shape.q_len + shift + Traits::kTileRows - 1) / Traits::kTileRows;
  args.order = formula_order(p, 1, q_tiles);
  args.tiles_per_row = 1;
  args.rows_per_head = 1;
  args.q_vectors = row_starts_aligned(p.q, args.params.q_stride, 16);
  args.k_vectors = row_starts_aligned(p.k, args.params.k_stride, 16);
  args.v_vectors = row_starts_aligned(p.v, args.params.v_stride, 16);
  args.out_pairs = row_starts_aligned(p.out, args.params.out_stride, 4);
  int64_t blocks = static_cast<int64_t>(q_tiles) * p.shape.q_heads * p.shape.batch;
  if (p.plan.kind == LACUNA_PLAN_LISTS) {
    args.tiles_per_row = p.schedule.tile_q / Traits::kTileRows;
    args.rows_per_head = p.schedule.rows / (p.plan.plan_batch * p.plan.heads);
    blocks = static_cast<int64_t>(p.schedule.rows) * args.tiles_per_row * (p.shape.q_heads / p.plan.heads) *
             (p.shape.batch / p.plan.plan_batch);
  }
  return launch<forward_kernel<Traits>>(name, blocks * p.splits, Traits::kThreads, sizeof(typename Traits::Shared),
                                        stream, args);
}

template <int kHeadDim>
int32_t forward_of(const char* f16_name, const char* bf16_name, const lacuna_forward_params& p, void* stream) {
  const bool ragged = has_lengths(p.shape);
  if (p.shape.dtype == LACUNA_F16) {
    return ragged ? forward_with<ForwardTraits<kHeadDim, Half, true>>(f16_name, p, stream)
                  : forward_with<ForwardTraits<kHeadDim, Half>>(f16_name, p, stream);
  }
  return ragged ? forward_with<ForwardTraits<kHeadDim, BFloat16, true>>(bf16_name, p, stream)
                : forward_with<ForwardTraits<kHeadDim, BFloat16>>(bf16_name, p, stream);
}

}  // namespace sm80
}  // namespace LACUNA_NS
