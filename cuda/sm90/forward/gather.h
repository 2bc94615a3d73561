// The gathering producer: thread 0 walks as the TMA producer does, its whole warpgroup copies rows of K and V into the
// swizzled tiles by cp.async. All that it knows of a plan is where each piece of 16 rows lies.
#pragma once

#include "common/swizzle.h"
#include "sm90/forward/producer.h"

namespace LACUNA_NS {
namespace sm90 {

__device__ __forceinline__ void list_pieces(const ForwardArgs& args, const KeyTiles& walk, const Box (&boxes)[kBoxes],
                                            GatherRows& rows) {
  const lacuna_shape& shape = args.params.shape;
  rows.kv_head = walk.kv_head;
  for (int i = 0; i < kBoxes * kBoxPieces; ++i) {
    const Box& box = boxes[i / kBoxPieces];
    const int key = box.key + i % kBoxPieces * kPieceKeys;
    const int left = shape.kv_len - key;
    const int page = box.key >= 0 && left > 0 ? walk.page_of(shape, key) : -1;
    rows.page[i] = page;
    rows.row[i] = page >= 0 ? key % shape.page_size : 0;
    rows.count[i] = page < 0 ? 0 : left < kPieceKeys ? left : kPieceKeys;
  }
}

// One tile of K or V: 128 rows of head_dim / 8 chunks of 16 bytes.
template <class Traits>
__device__ __forceinline__ void gather_tile(const GatherRows& rows, typename Traits::Element* tile,
                                            const typename Traits::Element* from, const lacuna_strides& stride) {
  constexpr int kChunks = Traits::kHeadDim / 8;
  constexpr int kPanelChunks = kPanelElements / 8;
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
    const int panel = chunk / kPanelChunks;
    const int to = panel * kTileKeys * kPanelElements + swizzled<kPanelElements>(row, chunk % kPanelChunks);
    cp_async_16(shared_address(tile + to), from + offset, present ? 16 : 0);
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
__device__ __forceinline__ void produce_by_gather(const ForwardArgs& args, typename Traits::Shared& smem) {
  using T = typename Traits::Element;
  const lacuna_forward_params& p = args.params;
  Production<Traits> state;
  state.index = block_index();
  Box boxes[kBoxes];
  bool any = false;
  for (int turn = 0;; turn ^= 1) {
    const int stage = state.keys.stage;
    GatherRows& rows = smem.gather[turn];
    if (thread_index() == 0) {
      bool more = true;
      while (!any && more) more = start_item<Traits>(args, smem, state, boxes, any);
      rows.more = any;
      if (any) {
        list_pieces(args, smem.walk, boxes, rows);
        Box now[kBoxes];
        for (int i = 0; i < kBoxes; ++i) now[i] = boxes[i];
        any = smem.walk.next(args, boxes);
        mbarrier_wait(smem.k_empty[stage], state.keys.parity ^ 1);
        describe(smem.tile[stage], now, !any);
      }
    }
    // Two lists take turns: whoever still reads the other one has not come here yet.
    named_barrier_sync(kGatherBarrier, kWarpgroupThreads);
    if (rows.more == 0) break;
    if (thread_index() != 0) mbarrier_wait(smem.k_empty[stage], state.keys.parity ^ 1);
    gather_tile<Traits>(rows, smem.k[stage], static_cast<const T*>(p.k), p.k_stride);
    const bool ready = mbarrier_try(smem.v_empty[stage], state.keys.parity ^ 1);
    if (!ready) {
      // K must not wait for room for V: the consumers may need K to make it.
      cp_async_wait<0>();
      publish(smem.k_full[stage]);
      mbarrier_wait(smem.v_empty[stage], state.keys.parity ^ 1);
    }
    gather_tile<Traits>(rows, smem.v[stage], static_cast<const T*>(p.v), p.v_stride);
    if (ready) {
      cp_async_wait<1>();
      publish(smem.k_full[stage]);
    }
    cp_async_wait<0>();
    publish(smem.v_full[stage]);
    state.keys.advance();
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
