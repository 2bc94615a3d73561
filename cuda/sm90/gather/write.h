// The end of a tile of sorted queries: rows go back to where they came from, or, under a causal mask, into the partials
// that the leaves merge.
#pragma once

#include "common/gather_partials.h"
#include "sm90/forward/write.h"
#include "sm90/gather/traits.h"

namespace LACUNA_NS {
namespace sm90 {

template <class Traits>
__device__ __forceinline__ void write_rows(const GatherArgs& args, const PairWork& work, typename Traits::Element* tile,
                                           int warpgroup, int warp, int lane, float factor, RowState& state,
                                           float (&o)[Traits::kHeadDim / 2]) {
  using T = typename Traits::Element;
  const lacuna_gather_forward_params& p = args.params;
  const PairTile& item = work.tile;
  const int* rows = work.rows + warpgroup * kWarpgroupRows + warp * 16;
  quad_sum(state.sum);
  float inverse[2];
  float lse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const RowResult result = row_result(state.maximum[r] * factor, state.sum[r]);
    inverse[r] = result.factor;
    lse[r] = result.lse;
  }
  scale_rows(o, inverse);
  const bool partial = args.partial;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = rows[lane / 4 + 8 * r];
    if (row < 0) continue;
    if (partial) {
      const int64_t at = partial_index(p, item.head, item.level, partial_place(item.pair, row));
      write_partial<Traits>(p.partial_out + at * Traits::kHeadDim, r, lane, o);
      if (lane % 4 == 0) p.partial_lse[at] = lse[r];
    } else if (lane % 4 == 0 && p.lse != nullptr) {
      p.lse[item.head.batch * p.lse_stride.batch + item.head.head * p.lse_stride.head + row * p.lse_stride.seq] =
          lse[r];
    }
  }
  if (partial) return;
  stage_rows<Traits>(tile, warp, lane, o);
  sync_warp();
  T* out = static_cast<T*>(p.out) + item.head.batch * p.out_stride.batch + item.head.head * p.out_stride.head;
  copy_staged<Traits>(out, p.out_stride.seq, tile, warp, lane, [&](int i) -> int64_t { return rows[i]; });
}

}  // namespace sm90
}  // namespace LACUNA_NS
