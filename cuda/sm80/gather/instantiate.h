// The launcher body shared by the head-dim compilations.
#pragma once

#include "common/alignment.h"
#include "common/validate.h"
#include "ptx/launch.h"
#include "sm80/gather/kernel.h"

namespace LACUNA_NS {
namespace sm80 {

// Names of a kernel for the pairs and one for the leaves.
struct GatherNames {
  const char* pairs;
  const char* leaves;
};

template <class Traits>
int32_t gather_with(const GatherNames& names, const lacuna_gather_forward_params& p, void* stream) {
  GatherArgs args;
  static_cast<GatherTiles&>(args) = gather_tiles<Traits::kTileRows>(p);
  args.q_vectors = row_starts_aligned(p.q, p.q_stride, 16);
  args.k_vectors = row_starts_aligned(p.k, p.k_stride, 16);
  args.v_vectors = row_starts_aligned(p.v, p.v_stride, 16);
  args.out_pairs = row_starts_aligned(p.out, p.out_stride, 4);
  const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.q_heads;
  const size_t smem_bytes = sizeof(typename Traits::Shared);
  for (int round = 0; round < p.plan.rounds; ++round) {
    GatherArgs of_round = args;
    static_cast<GatherTiles&>(of_round) = tiles_of_round(args, round);
    LACUNA_CHECK(launch<gather_forward_kernel<Traits>>(names.pairs, heads * args.first_tile[p.plan.levels],
                                                       Traits::kThreads, smem_bytes, stream, of_round));
  }
  if (p.plan.causal == 0) return LACUNA_OK;
  return launch<gather_leaf_forward_kernel<Traits>>(names.leaves, (heads * args.leaf_tiles) << p.plan.levels,
                                                    Traits::kThreads, smem_bytes, stream, args);
}

template <int kHeadDim>
int32_t gather_of(const GatherNames& f16_names, const GatherNames& bf16_names, const lacuna_gather_forward_params& p,
                  void* stream) {
  if (p.shape.dtype == LACUNA_F16) return gather_with<GatherTraits<kHeadDim, Half>>(f16_names, p, stream);
  return gather_with<GatherTraits<kHeadDim, BFloat16>>(bf16_names, p, stream);
}

}  // namespace sm80
}  // namespace LACUNA_NS
