// The launcher body shared by the head-dim compilations: the pairs, and the leaves of a causal plan.
#pragma once

#include "sm90/forward/instantiate.h"
#include "sm90/gather/kernel.h"

namespace LACUNA_NS {
namespace sm90 {

// Names of a kernel for the pairs and one for the leaves.
struct GatherNames {
  const char* pairs;
  const char* leaves;
};

// What the forward kernel takes for causal attention of the whole call.
inline lacuna_forward_params dense_call(const lacuna_gather_forward_params& p) {
  lacuna_forward_params dense = {};
  dense.shape = p.shape;
  dense.mask = lacuna_mask{1, -1, -1};
  dense.plan.kind = LACUNA_PLAN_FORMULA;
  dense.plan.plan_batch = dense.plan.heads = 1;
  dense.plan.block_q = kTileRows;
  dense.plan.block_k = kBoxKeys;
  dense.plan.formula.vertical_stride = dense.plan.formula.heads_per_step = 1;
  dense.q = p.q;
  dense.k = p.k;
  dense.v = p.v;
  dense.out = p.out;
  dense.lse = p.lse;
  dense.q_stride = p.q_stride;
  dense.k_stride = p.k_stride;
  dense.v_stride = p.v_stride;
  dense.out_stride = p.out_stride;
  dense.lse_stride = p.lse_stride;
  dense.scale = p.scale;
  dense.splits = 1;
  return dense;
}

template <class Traits>
int32_t leaves_with(const char* name, const lacuna_gather_forward_params& p, const GatherTiles& tiles, void* stream) {
  LeafArgs args = {};
  args.params = dense_call(p);
  args.gather = tiles;
  LACUNA_CHECK(encode_maps(args.params, args));
  args.heads = 1;
  args.head_rows = kTileRows;
  args.head_sets = p.shape.q_heads;
  const int64_t items = (static_cast<int64_t>(p.shape.batch) * p.shape.q_heads * tiles.leaf_tiles) << p.plan.levels;
  if (items > 0x7fffffff) {
    return set_error(LACUNA_INVALID_ARGUMENT, "kernel %s: %lld tiles", name, static_cast<long long>(items));
  }
  args.items = static_cast<int>(items);
  const int64_t at_once = multiprocessors(stream);
  return launch<forward_kernel<Traits>>(name, items < at_once ? items : at_once, kThreads,
                                        sizeof(typename Traits::Shared), stream, args);
}

template <int kHeadDim, class T>
int32_t gather_with(const GatherNames& names, const lacuna_gather_forward_params& p, void* stream) {
  using Traits = GatherTraits<kHeadDim, T>;
  GatherArgs args;
  static_cast<GatherTiles&>(args) = gather_tiles<kTileRows>(p);
  args.items = static_cast<int64_t>(p.shape.batch) * p.shape.q_heads * args.first_tile[p.plan.levels];
  const int64_t at_once = multiprocessors(stream);
  LACUNA_CHECK(launch<gather_forward_kernel<Traits>>(names.pairs, args.items < at_once ? args.items : at_once, kThreads,
                                                     sizeof(typename Traits::Shared), stream, args));
  if (p.plan.causal == 0) return LACUNA_OK;
  return leaves_with<LeafTraits<kHeadDim, T>>(names.leaves, p, args, stream);
}

template <int kHeadDim>
int32_t gather_of(const GatherNames& f16_names, const GatherNames& bf16_names, const lacuna_gather_forward_params& p,
                  void* stream) {
  if (p.shape.dtype == LACUNA_F16) return gather_with<kHeadDim, Half>(f16_names, p, stream);
  return gather_with<kHeadDim, BFloat16>(bf16_names, p, stream);
}

}  // namespace sm90
}  // namespace LACUNA_NS
