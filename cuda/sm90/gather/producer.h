// The producer warpgroup of the gather kernel: each thread lists one query row of an item and one key of a tile; all
// copy the listed rows into the swizzled tiles by cp.async. While a tile is copied, the indices of the next one are on
// their way from global memory.
#pragma once

#include "sm90/forward/gather.h"
#include "sm90/gather/traits.h"

namespace LACUNA_NS {
namespace sm90 {

// 128 rows of a tensor, by index, into a tile; absent ones become zeros.
template <class Traits>
__device__ __forceinline__ void copy_listed(typename Traits::Element* tile, const typename Traits::Element* from,
                                            int64_t stride, const int (&rows)[kTileKeys]) {
  constexpr int kChunks = Traits::kHeadDim / 8;
#pragma unroll 4
  for (int i = 0; i < kTileKeys * kChunks / kWarpgroupThreads; ++i) {
    const int at = i * kWarpgroupThreads + thread_index();
    const int chunk = at % kChunks;
    const int row = rows[at / kChunks];
    cp_async_16(shared_address(tile + key_chunk(at / kChunks, chunk)), from + (row < 0 ? 0 : row * stride) + chunk * 8,
                row < 0 ? 0 : 16);
  }
  cp_async_commit();
}

// Row of q of the tile's place `i`; -1: none.
__device__ __forceinline__ int query_row(const lacuna_gather_forward_params& p, const PairTile& tile, int i) {
  if (i >= tile.rows) return -1;
  const Segment& queries = tile.pair.queries;
  const int64_t head =
      (static_cast<int64_t>(tile.level) * p.shape.batch + tile.head.batch) * p.shape.q_heads + tile.head.head;
  const int row = p.plan.q_order[head * p.shape.q_len + queries.start + tile.first + i];
  return row >= queries.start && row < queries.start + queries.len ? row : -1;
}

// The key tiles of one item.
template <class Traits>
struct ListedKeys {
  using T = typename Traits::Element;

  const lacuna_gather_forward_params& p;
  typename Traits::Shared& smem;
  Ring<Traits::kStages> ring;
  int turn = 0;

  __device__ __forceinline__ ListedKeys(const lacuna_gather_forward_params& params, typename Traits::Shared& shared)
      : p(params), smem(shared) {}

  // Announces Q, whose copies are under way, with the first keys.
  __device__ __forceinline__ void copy_all(const PairTile& item, const SortedKeys<kTileKeys>& source,
                                           Mbarrier& q_full) {
    const T* k = static_cast<const T*>(p.k) + item.head.batch * p.k_stride.batch + item.head.kv_head * p.k_stride.head;
    const T* v = static_cast<const T*>(p.v) + item.head.batch * p.v_stride.batch + item.head.kv_head * p.v_stride.head;
    int listed = source.row(0);
    bool last = false;
#pragma unroll 1
    for (int tile = 0; !last; ++tile, turn ^= 1) {
      const int stage = ring.stage;
      const uint32_t parity = ring.parity ^ 1;
      int(&rows)[kTileKeys] = smem.key_rows[turn];
      rows[thread_index()] = listed;
      const uint32_t present = ballot(listed >= 0);
      const uint32_t local = ballot(source.is_local(listed));
      last = source.count(tile + 1) == 0;
      const float* const own_weights = source.weights_of(tile);
      const float weight = own_weights != nullptr && listed >= 0 ? own_weights[thread_index()] / source.unit : 0.0f;
      listed = source.row(tile + 1);
      mbarrier_wait(smem.k_empty[stage], parity);
      const int weights = static_cast<int>(parity) * Traits::kStages + stage;
      if (own_weights != nullptr) smem.weights[weights][thread_index()] = weight;
      ListedTile& told = smem.tile[stage];
      if (thread_index() % kWarpThreads == 0) {
        ListedTile::tell(told.present, thread_index() / kWarpThreads, present);
        ListedTile::tell(told.local, thread_index() / kWarpThreads, local);
      }
      if (thread_index() == 0) {
        told.weight = source.weight_of(tile);
        told.weights = own_weights != nullptr ? weights : -1;
        told.is_last = last;
      }
      // Two lists take turns: whoever still reads the other one has not come here yet.
      named_barrier_sync(kGatherBarrier, kWarpgroupThreads);
      copy_listed<Traits>(smem.k[stage], k, p.k_stride.seq, rows);
      const bool ready = mbarrier_try(smem.v_empty[stage], parity);
      if (!ready) {
        // K must not wait for room for V: the consumers may need K to make it.
        cp_async_wait<0>();
        if (tile == 0) publish(q_full);
        publish(smem.k_full[stage]);
        mbarrier_wait(smem.v_empty[stage], parity);
      }
      copy_listed<Traits>(smem.v[stage], v, p.v_stride.seq, rows);
      if (ready) {
        cp_async_wait<1>();
        if (tile == 0) publish(q_full);
        publish(smem.k_full[stage]);
      }
      cp_async_wait<0>();
      publish(smem.v_full[stage]);
      ring.advance();
    }
  }
};

// By the producer warpgroup.
template <class Traits>
__device__ __forceinline__ void produce_listed(const GatherArgs& args, typename Traits::Shared& smem) {
  using T = typename Traits::Element;
  const lacuna_gather_forward_params& p = args.params;
  const ScoreRule rule = gather_rule(p.scale);
  ListedKeys<Traits> keys(p, smem);
  Ring<Traits::kQueryBuffers> queries;
  int turn = 0;
#pragma unroll 1
  for (int64_t index = block_index();; index += grid_blocks()) {
    const bool more = index < args.items;
    PairTile tile = {};
    if (more) {
      tile = pair_tile<kTileRows>(args, index);
      if (tile.rows == 0) continue;
    }
    const int buffer = queries.stage;
    mbarrier_wait(smem.q_empty[buffer], queries.parity ^ 1);
    PairWork& work = smem.work[buffer];
    if (thread_index() == 0) {
      work.index = more ? 0 : -1;
      work.keys = 1;
      work.tile = tile;
      work.local_end = local_rows(p.plan, tile.pair).queries_end;
      if (more) smem.source[turn].start(p, tile, rule);
    }
    work.rows[thread_index()] = query_row(p, tile, thread_index());
    named_barrier_sync(kGatherBarrier, kWarpgroupThreads);
    if (!more) {
      publish(smem.q_full[buffer]);
      break;
    }
    copy_listed<Traits>(
        smem.q[buffer],
        static_cast<const T*>(p.q) + tile.head.batch * p.q_stride.batch + tile.head.head * p.q_stride.head,
        p.q_stride.seq, work.rows);
    keys.copy_all(tile, smem.source[turn], smem.q_full[buffer]);
    queries.advance();
    turn ^= 1;
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
