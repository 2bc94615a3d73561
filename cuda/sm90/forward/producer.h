// The producer: takes work items, and feeds Q, K and V through rings of shared memory to the consumers. One warp does
// it all with TMA, lane 0 issuing; when rows must be gathered (pages smaller than a box), its whole warpgroup copies K
// and V. With lengths on the device, the warp copies what of V crosses the end of a sequence (tail.h).
//
// With two stages, K(t + 1) is loaded after V(t), which needs the release of V(t - 2). Consumers give that before they
// wait for K(t + 1), though they do so early, while P V(t - 1) is in flight.
#pragma once

#include "ptx/atomic.h"
#include "ptx/named_barrier.h"
#include "ptx/tma.h"
#include "sm90/forward/ring.h"
#include "sm90/forward/tail.h"

namespace LACUNA_NS {
namespace sm90 {

constexpr int kGatherBarrier = 1;  // named barriers: the producer warpgroup's, then one for each consumer

// The producer warp's view of its work; the same in all lanes.
template <class Traits>
struct Production {
  const typename Traits::Args& args;
  typename Traits::Shared& smem;
  KeyTiles<Traits::kRagged> walk;
  Ring<Traits::kQueryBuffers> queries;
  Ring<Traits::kStages> keys;
  int index;               // of the next item: it is taken while the last one is loaded
  bool any;                // another tile of the item follows
  Box boxes[kBoxes] = {};  // it, for lane 0

  __device__ __forceinline__ Production(const typename Traits::Args& given, typename Traits::Shared& shared_memory)
      : args(given), smem(shared_memory), walk(shared_memory.walk), index(block_index()), any(false) {}

  // Takes the next item; with lengths on the device, those without rows are passed over. False when none is left.
  __device__ __forceinline__ bool next_item(Assignment& assignment) {
    do {
      if (index >= args.items) return false;
      if (!assign<Traits::kRagged>(args, index, assignment)) {
        for (int& row : assignment.work.first_row) row = assignment.work.q_len;
      }
      const int blocks = grid_blocks();
      int taken = index < args.items - blocks ? index + blocks : args.items;
      if (thread_index() == 0 && args.params.counter != nullptr) {
        taken = blocks + atomic_add(args.params.counter, 1);
      }
      index = shuffle(taken, 0);
    } while (Traits::kRagged && !has_rows(assignment.work));
    return true;
  }

  // Starts the next work item: tells the consumers and loads Q. False when there is none left.
  __device__ __forceinline__ bool start_item() {
    const bool leader = thread_index() == 0;
    const int buffer = queries.stage;
    Mbarrier& full = smem.q_full[buffer];
    Assignment assignment;
    const bool more = next_item(assignment);
    any = false;
    if (more) {
      walk.start(args, assignment);
      any = walk.take(args, boxes);
      assignment.work.keys = any;
    } else {
      assignment.work = Work{};
      assignment.work.index = -1;
    }
    if (leader) {
      mbarrier_wait(smem.q_empty[buffer], queries.parity ^ 1);
      smem.work[buffer] = assignment.work;
      mbarrier_arrive_expect(full, any ? Traits::kQueryTile * 2 : 0);
      if (any) load_queries(assignment.work, shared_address(smem.q[buffer]), full);
    }
    queries.advance();
    return more;
  }

  __device__ __forceinline__ void load_queries(const Work& work, uint32_t to, Mbarrier& full) {
    const bool packed = Traits::kRagged && args.params.shape.cu_seqlens_q != nullptr;
    const int first = Traits::kRagged ? work.q_first : 0;
    const int batch = packed ? 0 : work.batch;
#pragma unroll
    for (int w = 0; w < kConsumers; ++w) {
      for (int panel = 0; panel < Traits::kPanels; ++panel) {
        tma_load_4d(to + panel * Traits::kPanelBytes + w * kWarpgroupRows * kPanelElements * 2, args.q, full,
                    panel * kPanelElements, first + work.first_row[w], work.head[w], batch, kEvictFirst);
      }
    }
  }

  // Lane 0 tells the consumers what the tile in `of` is, before it announces the data.
  __device__ __forceinline__ void describe(const Box (&of)[kBoxes], bool last) {
    KeyTile& tile = smem.tile[keys.stage];
    tile.key[0] = of[0].key;
    tile.key[1] = of[1].key;
    tile.flags = of[0].flags | of[1].flags << 8 | (last ? KeyTile::kLast : 0);
  }

  // Row of k and v, in its page, that holds a key.
  __device__ __forceinline__ int key_row(int key) const {
    const lacuna_shape& shape = args.params.shape;
    if (shape.block_table != nullptr) return key % shape.page_size;
    return Traits::kRagged ? walk.shared.k_first + key : key;
  }

  // Lane 0: the boxes of K or V.
  __device__ __forceinline__ void load_boxes(const TensorMap& map, const TensorMap& tail, uint32_t to, Mbarrier& full,
                                             const Box (&of)[kBoxes]) {
    const lacuna_shape& shape = args.params.shape;
    mbarrier_arrive_expect(full, ((of[0].key >= 0) + (of[1].key >= 0)) * kBoxKeys * Traits::kHeadDim * 2);
#pragma unroll
    for (int i = 0; i < kBoxes; ++i) {
      if (of[i].key < 0) continue;
      const int row = key_row(of[i].key);
      const TensorMap& from = of[i].key + kBoxKeys > shape.kv_len ? tail : map;
      for (int panel = 0; panel < Traits::kPanels; ++panel) {
        tma_load_4d(to + panel * Traits::kPanelBytes + i * kBoxKeys * kPanelElements * 2, from, full,
                    panel * kPanelElements, row, walk.kv_head, of[i].page, kEvictLast);
      }
    }
  }

  // V of the boxes that cross the end of the sequence, by the whole warp, once the stage is free; they leave lane 0's
  // boxes.
  __device__ __forceinline__ void copy_tails(Box (&of)[kBoxes]) {
    using T = typename Traits::Element;
    const lacuna_forward_params& p = args.params;
    bool any = false;
#pragma unroll
    for (int i = 0; i < kBoxes; ++i) {
      const int key = shuffle(of[i].key, 0);
      const int count = walk.kv_len(p.shape) - key;
      if (key < 0 || count >= kBoxKeys) continue;
      const int page = shuffle(of[i].page, 0);
      mbarrier_wait(smem.v_empty[keys.stage], keys.parity ^ 1);
      copy_tail<Traits>(smem.v[keys.stage], i * kBoxKeys,
                        static_cast<const T*>(p.v) + page * p.v_stride.batch + walk.kv_head * p.v_stride.head +
                            key_row(key) * p.v_stride.seq,
                        p.v_stride.seq, count);
      of[i].key = -1;
      any = true;
    }
    if (any) finish_tails();
  }
};

// By the producer warp.
template <class Traits>
__device__ __forceinline__ void produce_by_tma(const typename Traits::Args& args, typename Traits::Shared& smem) {
  const bool leader = thread_index() == 0;
  if (leader) {
    tma_prefetch_map(args.q);
    tma_prefetch_map(args.k);
    tma_prefetch_map(args.v);
  }
  Production<Traits> work(args, smem);
  for (;;) {
    if (!work.any) {
      if (!work.start_item()) break;
      continue;
    }
    Box now[kBoxes] = {work.boxes[0], work.boxes[1]};
    work.any = work.walk.take(args, work.boxes);
    const int stage = work.keys.stage;
    const uint32_t parity = work.keys.parity ^ 1;
    if (leader) {
      mbarrier_wait(smem.k_empty[stage], parity);
      work.describe(now, !work.any);
      work.load_boxes(args.k, args.k, shared_address(smem.k[stage]), smem.k_full[stage], now);
    }
    if constexpr (Traits::kRagged) work.copy_tails(now);
    if (leader) {
      mbarrier_wait(smem.v_empty[stage], parity);
      work.load_boxes(args.v, args.v_tail, shared_address(smem.v[stage]), smem.v_full[stage], now);
    }
    work.keys.advance();
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
