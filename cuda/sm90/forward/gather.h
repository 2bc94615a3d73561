// The gathering producer: warp 0 walks as the TMA producer does, its whole warpgroup copies rows of K and V into the
// swizzled tiles by cp.async. All that it knows of a plan is where each piece of 16 rows lies.
#pragma once

#include "sm90/forward/producer.h"

namespace LACUNA_NS {
namespace sm90 {

// Lanes 0 to 7 of warp 0, one piece each; `boxes` is lane 0's.
template <bool kRagged>
__device__ __forceinline__ void list_pieces(const ForwardArgs& args, const KeyTiles<kRagged>& walk,
                                            const Box (&boxes)[kBoxes], GatherRows& rows) {
  const lacuna_shape& shape = args.params.shape;
  const int lane = thread_index();
  const int keys[kBoxes] = {shuffle(boxes[0].key, 0), shuffle(boxes[1].key, 0)};
  if (lane >= kBoxes * kBoxPieces) return;
  const int box = lane < kBoxPieces ? keys[0] : keys[1];
  const int key = box + lane % kBoxPieces * kPieceKeys;
  const int left = walk.kv_len(shape) - key;
  const int page = box >= 0 && left > 0 ? walk.page_of(shape, key) : -1;
  rows.page[lane] = page;
  rows.row[lane] = page >= 0 ? key % shape.page_size : 0;
  rows.count[lane] = page < 0 ? 0 : left < kPieceKeys ? left : kPieceKeys;
  if (lane == 0) rows.kv_head = walk.kv_head;
}

// One tile of K or V: 128 rows of head_dim / 8 chunks of 16 bytes.
template <class Traits>
__device__ __forceinline__ void gather_tile(const GatherRows& rows, typename Traits::Element* tile,
                                            const typename Traits::Element* from, const lacuna_strides& stride) {
  constexpr int kChunks = Traits::kHeadDim / 8;
#pragma unroll 4
  for (int i = 0; i < kTileKeys * kChunks / kWarpgroupThreads; ++i) {
    const int at = i * kWarpgroupThreads + thread_index();
    const int row = at / kChunks;
    const int chunk = at % kChunks;
    const int piece = row / kPieceKeys;
    const bool present = row % kPieceKeys < rows.count[piece];
    const int64_t offset = present ? rows.page[piece] * stride.batch + rows.kv_head * stride.head +
                                         (rows.row[piece] + row % kPieceKeys) * stride.seq + chunk * 8
                                   : 0;
    cp_async_16(shared_address(tile + key_chunk(row, chunk)), from + offset, present ? 16 : 0);
  }
  cp_async_commit();
}

// This thread's copies have landed: shows them to asynchronous readers.
__device__ __forceinline__ void publish(Mbarrier& full) {
  fence_async_shared();
  mbarrier_arrive(full);
}

// By the producer warpgroup.
template <class Traits>
__device__ __forceinline__ void produce_by_gather(const typename Traits::Args& args, typename Traits::Shared& smem) {
  using T = typename Traits::Element;
  const lacuna_forward_params& p = args.params;
  Production<Traits> work(args, smem);
  const bool walks = thread_index() < kWarpThreads;
  const bool leader = thread_index() == 0;
  for (int turn = 0;; turn ^= 1) {
    const int stage = work.keys.stage;
    const uint32_t parity = work.keys.parity ^ 1;
    GatherRows& rows = smem.gather[turn];
    if (walks) {
      while (!work.any && work.start_item()) continue;
      if (leader) rows.more = work.any;
      if (work.any) {
        list_pieces(args, work.walk, work.boxes, rows);
        Box now[kBoxes] = {work.boxes[0], work.boxes[1]};
        work.any = work.walk.take(args, work.boxes);
        if (leader) {
          mbarrier_wait(smem.k_empty[stage], parity);
          work.describe(now, !work.any);
        }
      }
    }
    // Two lists take turns: whoever still reads the other one has not come here yet.
    named_barrier_sync(kGatherBarrier, kWarpgroupThreads);
    if (rows.more == 0) break;
    if (!leader) mbarrier_wait(smem.k_empty[stage], parity);
    gather_tile<Traits>(rows, smem.k[stage], static_cast<const T*>(p.k), p.k_stride);
    const bool ready = mbarrier_try(smem.v_empty[stage], parity);
    if (!ready) {
      // K must not wait for room for V: the consumers may need K to make it.
      cp_async_wait<0>();
      publish(smem.k_full[stage]);
      mbarrier_wait(smem.v_empty[stage], parity);
    }
    gather_tile<Traits>(rows, smem.v[stage], static_cast<const T*>(p.v), p.v_stride);
    if (ready) {
      cp_async_wait<1>();
      publish(smem.k_full[stage]);
    }
    cp_async_wait<0>();
    publish(smem.v_full[stage]);
    work.keys.advance();
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
