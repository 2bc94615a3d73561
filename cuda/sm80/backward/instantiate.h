// The launcher bodies shared by the head-dim compilations.
#pragma once

#include "ptx/launch.h"
#include "sm80/backward/key_kernel.h"
#include "sm80/backward/query_kernel.h"

namespace LACUNA_NS {
namespace sm80 {

// Finishes the arguments with what depends on the tile.
template <class Traits>
int32_t query_grad_with(const char* name, BackwardArgs args, void* stream) {
  const lacuna_forward_params& p = args.forward.params;
  ForwardArgs& forward = args.forward;
  const int q_tiles = (p.shape.q_len + p.plan.row_shift + Traits::kTileRows - 1) / Traits::kTileRows;
  forward.order = formula_order(p, 1, q_tiles);
  forward.tiles_per_row = 1;
  forward.rows_per_head = 1;
  int64_t blocks = static_cast<int64_t>(q_tiles) * p.shape.q_heads * p.shape.batch;
  if (p.plan.kind == LACUNA_PLAN_LISTS) {
    forward.tiles_per_row = p.schedule.tile_q / Traits::kTileRows;
    forward.rows_per_head = p.schedule.rows / (p.plan.plan_batch * p.plan.heads);
    blocks = static_cast<int64_t>(p.schedule.rows) * forward.tiles_per_row * (p.shape.q_heads / p.plan.heads) *
             (p.shape.batch / p.plan.plan_batch);
  }
  return launch<query_grad_kernel<Traits>>(name, blocks, Traits::kThreads, sizeof(typename Traits::Shared), stream,
                                           args);
}

template <int kHeadDim>
int32_t query_grad_of(const char* f16_name, const char* bf16_name, const BackwardArgs& args, void* stream) {
  if (args.forward.params.shape.dtype == LACUNA_F16) {
    return query_grad_with<QueryGradTraits<kHeadDim, Half>>(f16_name, args, stream);
  }
  return query_grad_with<QueryGradTraits<kHeadDim, BFloat16>>(bf16_name, args, stream);
}

template <class Traits>
int32_t key_grad_with(const char* name, const BackwardArgs& args, void* stream) {
  const int64_t cut = static_cast<int64_t>(args.forward.params.shape.batch) * args.schedule.slots;
  return launch<key_grad_kernel<Traits>>(name, cut + args.schedule.columns, Traits::kThreads,
                                         sizeof(typename Traits::Shared), stream, args);
}

template <int kHeadDim>
int32_t key_grad_of(const char* f16_name, const char* bf16_name, const BackwardArgs& args, void* stream) {
  if (args.forward.params.shape.dtype == LACUNA_F16) {
    return key_grad_with<KeyGradTraits<kHeadDim, Half>>(f16_name, args, stream);
  }
  return key_grad_with<KeyGradTraits<kHeadDim, BFloat16>>(bf16_name, args, stream);
}

}  // namespace sm80
}  // namespace LACUNA_NS
