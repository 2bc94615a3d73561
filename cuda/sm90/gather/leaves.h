// The leaves of a causal gather plan on the Hopper forward kernel: each is a sequence of its own, attended causally
// from the keys before it on that are local to it, and its rows merge what the pairs left.
#pragma once

#include "common/gather_partials.h"
#include "sm90/forward/producer.h"
#include "sm90/forward/write.h"

namespace LACUNA_NS {
namespace sm90 {

struct LeafArgs : ForwardArgs {
  GatherTiles gather;
};

template <int kHeadDim_, class T>
struct LeafTraits : ForwardTraits<kHeadDim_, T, KeyLoads::kRaggedBoxes, false> {
  using Args = LeafArgs;
  static constexpr bool kLeaves = true;
};

template <bool kRagged>
__device__ __forceinline__ bool assign(const LeafArgs& args, int index, Assignment& to) {
  const lacuna_gather_forward_params& p = args.gather.params;
  const LeafTile tile = leaf_tile<kTileRows>(p.shape, p.plan, args.gather.leaf_tiles, index);
  to.work = Work{};
  to.work.index = index;
  to.work.batch = tile.head.batch;
  to.kv_head = tile.head.kv_head;
  to.plan_head = to.schedule_row = to.first_block = 0;
  const int keys_start = leaf_keys_start(p.plan, tile.leaf);
  const int keys = tile.leaf.start - keys_start + tile.leaf.len;
  to.sequence = Sequence{tile.leaf.len, keys, tile.leaf.start, keys_start, 0, 0};
  to.work.q_len = tile.leaf.len;
  to.work.kv_len = keys;
  to.work.q_first = tile.leaf.start;
#pragma unroll
  for (int w = 0; w < kConsumers; ++w) {
    to.work.head[w] = tile.head.head;
    to.work.first_row[w] = tile.first - tile.leaf.start + w * kWarpgroupRows;
  }
  return tile.valid;
}

template <class Traits>
__device__ __forceinline__ void write_rows(const LeafArgs& args, const Work& work, typename Traits::Element* tile,
                                           int warpgroup, int warp, int lane, float factor, RowState& state,
                                           float (&o)[Traits::kHeadDim / 2]) {
  const lacuna_gather_forward_params& p = args.gather.params;
  const GatherHead head{work.batch, work.head[warpgroup], 0};
  const float* partials = p.partial_out + 2 * (lane % 4);
  quad_sum(state.sum);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int place = work.first_row[warpgroup] + warp * 16 + lane / 4 + 8 * r;
    if (place >= work.q_len) continue;
    const int row = work.q_first + place;
    const RowResult merged = merge_partials(
        p, head, row, row_result(state.maximum[r] * factor, state.sum[r]),
        [&](float own) {
#pragma unroll
          for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
            o[4 * n + 2 * r] *= own;
            o[4 * n + 2 * r + 1] *= own;
          }
        },
        [&](float weight, int64_t at) {
          const float* from = partials + at * Traits::kHeadDim;
#pragma unroll
          for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
            o[4 * n + 2 * r] += weight * from[8 * n];
            o[4 * n + 2 * r + 1] += weight * from[8 * n + 1];
          }
        });
#pragma unroll
    for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
      o[4 * n + 2 * r] *= merged.factor;
      o[4 * n + 2 * r + 1] *= merged.factor;
    }
    if (lane % 4 == 0) write_lse(args.params, 0, work.batch, head.head, row, merged.lse);
  }
  sync_warp();
  write_tile<Traits>(args, work, tile, warpgroup, warp, lane, o);
}

}  // namespace sm90
}  // namespace LACUNA_NS
