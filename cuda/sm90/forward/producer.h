// The producer: takes work items, and feeds Q, K and V through rings of shared memory to the consumers. One thread does
// it all with TMA; when rows must be gathered (pages smaller than a box), its whole warpgroup copies K and V.
//
// With two stages, K(t + 1) is loaded after V(t), which needs the release of V(t - 2). Consumers give that before they
// wait for K(t + 1), though they do so early, while P V(t - 1) is in flight.
#pragma once

#include "ptx/atomic.h"
#include "ptx/cp_async.h"
#include "ptx/fence_proxy.h"
#include "ptx/named_barrier.h"
#include "ptx/tma.h"
#include "sm90/forward/ring.h"
#include "sm90/forward/tile_table.h"

namespace LACUNA_NS {
namespace sm90 {

constexpr int kGatherBarrier = 1;  // named barriers: the producer warpgroup's, then one for each consumer

// State of the producing thread. `index` runs ahead: the next item is taken while this one is loaded.
template <class Traits>
struct Production {
  Ring<Traits::kQueryBuffers> queries;
  Ring<Traits::kStages> keys;
  int index;

  __device__ __forceinline__ void take_next(const ForwardArgs& args) {
    // Without a counter every block has one item.
    index = args.params.counter == nullptr ? args.items : grid_blocks() + atomic_add(args.params.counter, 1);
  }
};

// Starts the next work item: tells the consumers and loads Q. False when there is none left.
template <class Traits>
__device__ __forceinline__ bool start_item(const ForwardArgs& args, typename Traits::Shared& smem,
                                           Production<Traits>& state, Box (&boxes)[kBoxes], bool& any) {
  const int buffer = state.queries.stage;
  mbarrier_wait(smem.q_empty[buffer], state.queries.parity ^ 1);
  Work& work = smem.work[buffer];
  any = false;
  if (state.index < 0 || state.index >= args.items) {
    work.index = -1;
    mbarrier_arrive(smem.q_full[buffer]);
    return false;
  }
  Assignment assignment;
  const bool valid = assign(args, state.index, assignment);
  state.take_next(args);
  if (!valid) {
    for (int w = 0; w < kConsumers; ++w) assignment.work.first_row[w] = args.params.shape.q_len;
  }
  smem.walk.start(args, assignment);
  any = smem.walk.next(args, boxes);
  assignment.work.keys = any;
  work = assignment.work;
  mbarrier_arrive_expect(smem.q_full[buffer], any ? Traits::kQueryTile * 2 : 0);
  if (any) {
    for (int w = 0; w < kConsumers; ++w) {
      for (int panel = 0; panel < Traits::kPanels; ++panel) {
        tma_load_4d(
            shared_address(smem.q[buffer]) + panel * Traits::kPanelBytes + w * kWarpgroupRows * kPanelElements * 2,
            args.q, smem.q_full[buffer], panel * kPanelElements, work.first_row[w], work.head[w], work.batch,
            kEvictFirst);
      }
    }
  }
  state.queries.advance();
  return true;
}

__device__ __forceinline__ void describe(KeyTile& tile, const Box (&boxes)[kBoxes], bool last) {
  uint32_t flags = last ? KeyTile::kLast : 0;
  for (int i = 0; i < kBoxes; ++i) {
    tile.key[i] = boxes[i].key;
    flags |= boxes[i].wanted << (2 * i) | boxes[i].masked << (4 + 2 * i) | boxes[i].missing << (8 + kBoxPieces * i);
    // A missing piece must be masked, whoever looks at it.
    if (boxes[i].missing != 0) flags |= boxes[i].wanted << (4 + 2 * i);
  }
  tile.flags = flags;
}

// The boxes of K or V.
template <class Traits>
__device__ __forceinline__ void load_boxes(const ForwardArgs& args, const TensorMap& map, const TensorMap& tail,
                                           uint32_t to, Mbarrier& full, const Box (&boxes)[kBoxes], int kv_head) {
  const lacuna_shape& shape = args.params.shape;
  const bool paged = shape.block_table != nullptr;
  mbarrier_arrive_expect(full, (1 + (boxes[1].key >= 0)) * kBoxKeys * Traits::kHeadDim * 2);
  for (int i = 0; i < kBoxes; ++i) {
    if (boxes[i].key < 0) continue;
    const int row = paged ? boxes[i].key % shape.page_size : boxes[i].key;
    const TensorMap& from = boxes[i].key + kBoxKeys > shape.kv_len ? tail : map;
    for (int panel = 0; panel < Traits::kPanels; ++panel) {
      tma_load_4d(to + panel * Traits::kPanelBytes + i * kBoxKeys * kPanelElements * 2, from, full,
                  panel * kPanelElements, row, kv_head, boxes[i].page, kEvictLast);
    }
  }
}

// By one thread.
template <class Traits>
__device__ __forceinline__ void produce_by_tma(const ForwardArgs& args, typename Traits::Shared& smem) {
  tma_prefetch_map(args.q);
  tma_prefetch_map(args.k);
  tma_prefetch_map(args.v);
  Production<Traits> state;
  state.index = block_index();
  Box boxes[kBoxes];
  bool any;
  while (start_item<Traits>(args, smem, state, boxes, any)) {
    while (any) {
      Box now[kBoxes];
      for (int i = 0; i < kBoxes; ++i) now[i] = boxes[i];
      any = smem.walk.next(args, boxes);
      const int stage = state.keys.stage;
      mbarrier_wait(smem.k_empty[stage], state.keys.parity ^ 1);
      describe(smem.tile[stage], now, !any);
      load_boxes<Traits>(args, args.k, args.k, shared_address(smem.k[stage]), smem.k_full[stage], now,
                         smem.walk.kv_head);
      mbarrier_wait(smem.v_empty[stage], state.keys.parity ^ 1);
      load_boxes<Traits>(args, args.v, args.v_tail, shared_address(smem.v[stage]), smem.v_full[stage], now,
                         smem.walk.kv_head);
      state.keys.advance();
    }
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
