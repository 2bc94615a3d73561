// A consumer warpgroup: 64 query rows against the key tiles of each work item.
#pragma once

#include "ptx/named_barrier.h"
#include "sm90/forward/attend.h"
#include "sm90/forward/producer.h"
#include "sm90/forward/write.h"

namespace LACUNA_NS {
namespace sm90 {

template <class Traits>
struct Consumer {
  using T = typename Traits::Element;
  using Shared = typename Traits::Shared;
  using Tile = typename Traits::Tile;
  static constexpr int kDim = Traits::kHeadDim;

  const typename Traits::Args& args;
  Shared& smem;
  const int warpgroup;  // of the consumers
  const int warp;       // of the warpgroup
  const int lane;
  const ScoreRule rule;
  Ring<Traits::kStages> ring;
  RowState state;
  float o[kDim / 2];
  int local_rows = 0;  // lists: of the item

  __device__ __forceinline__ void release(Mbarrier& empty) {
    if (lane == 0) mbarrier_arrive(empty);
  }

  // Before and after issuing products of a tile that is whole for both warpgroups.
  __device__ __forceinline__ void begin_turn(bool turns) {
    if (Traits::kTile.take_turns && turns) {
      named_barrier_sync(kGatherBarrier + 1 + warpgroup, kConsumers * kWarpgroupThreads);
    }
  }
  __device__ __forceinline__ void end_turn(bool turns) {
    if (Traits::kTile.take_turns && turns) {
      named_barrier_arrive(kGatherBarrier + 1 + (warpgroup + 1) % kConsumers, kConsumers * kWarpgroupThreads);
    }
  }

  __device__ __forceinline__ Tile arrived(int stage, uint32_t parity) {
    mbarrier_wait(smem.k_full[stage], parity);
    return smem.tile[stage];
  }

  // Whole tiles, from `tile` on until one is not whole or the item ends: leaves the first tile that it has not taken
  // in `tile`, or the last one of the item.
  __device__ __forceinline__ bool whole_tiles(uint32_t q, Tile& tile) {
    float s[kTileKeys / 2];
    uint32_t p[kTileKeys / 16][4];
    float rescale[2];
    begin_turn(tile.whole_for_all());
    query_key<Traits, kTileKeys>(s, q, shared_address(smem.k[ring.stage]));
    end_turn(tile.whole_for_all());
    wgmma_wait<0>();
    wgmma_registers(s);
    release(smem.k_empty[ring.stage]);
    transform_scores<Traits>(s, rule);
    if constexpr (Traits::kListed) weigh_listed(s, tile, smem.weights, local_rows);
    softmax_step(s, rule.factor, state, rescale);
    pack_probabilities<T>(s, p);
    scale_rows(o, rescale);
    bool last = tile.last();
    Ring<Traits::kStages> ahead = ring.next();
    if (!last) tile = arrived(ahead.stage, ahead.parity);
    while (!last && tile.whole(warpgroup)) {
      begin_turn(tile.whole_for_all());
      query_key<Traits, kTileKeys>(s, q, shared_address(smem.k[ahead.stage]));
      mbarrier_wait(smem.v_full[ring.stage], ring.parity);
      probability_value<Traits, kTileKeys>(o, p, shared_address(smem.v[ring.stage]));
      end_turn(tile.whole_for_all());
      wgmma_wait<1>();
      wgmma_registers(s);
      release(smem.k_empty[ahead.stage]);
      transform_scores<Traits>(s, rule);
      if constexpr (Traits::kListed) weigh_listed(s, tile, smem.weights, local_rows);
      softmax_step(s, rule.factor, state, rescale);
      // This wait for the next tile stands here to keep the softmax before the wait below: without a branch between
      // them ptxas 13.0 moves that wait up, and nothing overlaps.
      last = tile.last();
      const Ring<Traits::kStages> further = ahead.next();
      if (!last) tile = arrived(further.stage, further.parity);
      wgmma_wait<0>();
      wgmma_registers(o);
      release(smem.v_empty[ring.stage]);
      pack_probabilities<T>(s, p);
      scale_rows(o, rescale);
      ring = ahead;
      ahead = further;
    }
    mbarrier_wait(smem.v_full[ring.stage], ring.parity);
    probability_value<Traits, kTileKeys>(o, p, shared_address(smem.v[ring.stage]));
    wgmma_wait<0>();
    wgmma_registers(o);
    release(smem.v_empty[ring.stage]);
    ring = ahead;
    return last;
  }

  // One box after the other: what is masked, or wanted in part. Returns whether it was the last tile of the item.
  __device__ __forceinline__ bool boxes(uint32_t q, KeyTile& tile, const Work& work) {
    const int stage = ring.stage;
    mbarrier_wait(smem.v_full[stage], ring.parity);
#pragma unroll 1
    for (int box = 0; box < kBoxes; ++box) {
      if (!tile.wanted(box, warpgroup)) continue;
      constexpr int kBoxBytes = kBoxKeys * kPanelElements * 2;
      float s[kBoxKeys / 2];
      uint32_t p[kBoxKeys / 16][4];
      float rescale[2];
      query_key<Traits, kBoxKeys>(s, q, shared_address(smem.k[stage]) + box * kBoxBytes);
      wgmma_wait<0>();
      wgmma_registers(s);
      transform_scores<Traits>(s, rule);
      if (tile.masked(box, warpgroup)) {
        const int key = box == 0 ? tile.key[0] : tile.key[1];  // an index would put the tile into local memory
        mask_box(s, lengths_of<Traits::kRagged>(args.params, work), args.params.mask,
                 work.first_row[warpgroup] + warp * 16 + lane / 4, key, tile.missing(box));
      }
      softmax_step(s, rule.factor, state, rescale);
      pack_probabilities<T>(s, p);
      scale_rows(o, rescale);
      probability_value<Traits, kBoxKeys>(o, p, shared_address(smem.v[stage]) + box * kBoxBytes);
      wgmma_wait<0>();
      wgmma_registers(o);
    }
    // A warp that did nothing must not release the tile while a lane has yet to read what it is.
    sync_warp();
    release(smem.k_empty[stage]);
    release(smem.v_empty[stage]);
    ring.advance();
    const bool last = tile.last();
    if (!last) tile = arrived(ring.stage, ring.parity);
    return last;
  }

  __device__ __forceinline__ void run() {
    // The one that goes second gives the first turn.
    if (Traits::kTile.take_turns && warpgroup == kConsumers - 1) {
      named_barrier_arrive(kGatherBarrier + 1, kConsumers * kWarpgroupThreads);
    }
    Ring<Traits::kQueryBuffers> queries;
    for (;;) {
      const int buffer = queries.stage;
      mbarrier_wait(smem.q_full[buffer], queries.parity);
      const auto& work = smem.work[buffer];
      if (work.index < 0) break;
      state = empty_rows();
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) o[i] = 0.0f;
      T* query = smem.q[buffer] + warpgroup * kWarpgroupRows * kPanelElements;
      const uint32_t q = shared_address(query);
      if (work.keys != 0) {
        Tile tile = arrived(ring.stage, ring.parity);
        if constexpr (Traits::kListed) {
          local_rows = local_rows_of(work, work.rows + warpgroup * kWarpgroupRows + warp * 16);
          whole_tiles(q, tile);
        } else {
          for (bool last = false; !last;) {
            last = tile.whole(warpgroup) ? whole_tiles(q, tile) : boxes(q, tile, work);
          }
        }
      }
      write_rows<Traits>(args, work, query, warpgroup, warp, lane, rule.factor, state, o);
      // Every lane has read the item.
      sync_warp();
      release(smem.q_empty[buffer]);
      queries.advance();
    }
  }
};

}  // namespace sm90
}  // namespace LACUNA_NS
