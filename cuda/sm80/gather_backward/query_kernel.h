// dq over a gather plan: the walk of the gather kernels over a tile's keys, with P from the LSE.
//
// Pairs of a causal plan add to f32 sums, level after level; its leaves add theirs and write dq. The pair of another
// plan writes it at once.
#pragma once

#include "sm80/backward/products.h"
#include "sm80/backward/query_kernel.h"
#include "sm80/gather/kernel.h"
#include "sm80/gather_backward/args.h"
#include "sm80/gather_backward/row_sums.h"

namespace LACUNA_NS {
namespace sm80 {

// Tiles are those of dq over block plans.
template <int kHeadDim_, class T>
struct GatherQueryTraits : QueryGradTraits<kHeadDim_, T> {
  using Base = QueryGradTraits<kHeadDim_, T>;
  static constexpr int kTileRows = Base::kTileRows;
  static constexpr int kTileKeys = Base::kTileKeys;
  static constexpr int kStages = Base::kStages;
  static constexpr int kChunks = kHeadDim_ / 8;
  static constexpr bool kKeep = Base::kTile.keep_rows;

  struct Shared {
    T k[kStages][kTileKeys * kHeadDim_];
    T v[kStages][kTileKeys * kHeadDim_];
    T query[kKeep ? 8 : 2 * kTileRows * kHeadDim_];  // q and dout, unless kept
    const T* base[2];                                // row 0 of k and of v: kept here, registers are short
    int rows[kTileRows];                             // query rows; -1: none
    int key_rows[kStages][kTileKeys];  // rows of k and v, of the tile being loaded and the one being listed; -1: none
    SortedKeys<kTileKeys> source;
    TileKeys<kTileKeys> keys[3];  // of the tile being multiplied, too

    __device__ __forceinline__ T* q() { return kKeep ? k[1] : query; }
    __device__ __forceinline__ T* dout() { return kKeep ? v[1] : query + kTileRows * kHeadDim_; }
  };

  static_assert(sizeof(Shared) <= 99 * 1024, "the tile must fit desktop cards");
};

// dq of the tile's rows, of which smem.rows[0 .. 63] are written but not yet visible to all. kCausal: as in attend().
template <class Traits, bool kCausal, class Keys>
__device__ __forceinline__ void query_gradients(typename Traits::Shared& smem, const GatherBackwardArgs& args,
                                                const GatherHead& head, const Keys& keys, const ScoreRule& rule,
                                                int ahead, Accumulator<Traits>& acc) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kSteps = Traits::kTile.steps;
  const lacuna_gather_forward_params& p = args.params.forward;
  const int warp = thread_index() / kWarpThreads;
  const bool lists = warp < (Traits::kTileKeys + kWarpThreads - 1) / kWarpThreads;
  if (thread_index() == 0) {
    smem.base[0] = static_cast<const T*>(p.k) + head.batch * p.k_stride.batch + head.kv_head * p.k_stride.head;
    smem.base[1] = static_cast<const T*>(p.v) + head.batch * p.v_stride.batch + head.kv_head * p.v_stride.head;
  }
  const auto load_tile = [&](int stage, int tile) {
    const auto& rows = smem.key_rows[tile % Traits::kStages];
    load_rows<Traits>(smem.k[stage], smem.base[0], p.k_stride.seq, rows, args.k_vectors);
    load_rows<Traits>(smem.v[stage], smem.base[1], p.v_stride.seq, rows, args.v_vectors);
  };

  int listed = -1;
  if (lists) {
    list_tile<Traits>(smem, keys, 0, keys.row(0));
    list_tile<Traits>(smem, keys, 1, keys.row(1));
    listed = keys.row(2);
  }
  sync_threads();
  const T* q = static_cast<const T*>(p.q) + head.batch * p.q_stride.batch + head.head * p.q_stride.head;
  const T* dout = static_cast<const T*>(args.params.dout) + head.batch * args.params.dout_stride.batch +
                  head.head * args.params.dout_stride.head;
  load_rows<Traits>(smem.q(), q, p.q_stride.seq, smem.rows, args.q_vectors);
  load_rows<Traits>(smem.dout(), dout, args.params.dout_stride.seq, smem.rows, args.dout_vectors);
  cp_async_commit();
  load_tile(0, 0);
  cp_async_commit();
  LaneRows rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = smem.rows[fragment_row(warp * kGroupRows, r)];
    const int64_t at = (static_cast<int64_t>(head.batch) * p.shape.q_heads + head.head) * args.memory.stat_rows;
    rows.lse[r] = row < 0 ? -minus_infinity() : args.memory.lse[at + row];
    rows.delta[r] = row < 0 ? 0.0f : args.memory.delta[at + row];
  }
  cp_async_wait<1>();
  sync_threads();
  constexpr int kKept = Traits::kKeep ? kDim / 16 : 1;
  uint32_t query[kKept][4];
  uint32_t gradient[kKept][4];
  if constexpr (Traits::kKeep) {
    load_rows<kDim>(query, smem.q(), warp * kGroupRows);
    load_rows<kDim>(gradient, smem.dout(), warp * kGroupRows);
  }
  // Rows that are there come first.
  const bool wanted = smem.rows[warp * kGroupRows] >= 0;

  for (int step = 0; smem.keys[step % Traits::kKeyTiles].count > 0; ++step) {
    const int stage = step % Traits::kStages;
    const TileKeys<Traits::kTileKeys>& tile = smem.keys[step % Traits::kKeyTiles];
    // This tile has landed for everyone, and everyone has left the other stage.
    cp_async_wait<0>();
    sync_threads();
    if (smem.keys[(step + 1) % Traits::kKeyTiles].count > 0) load_tile(stage ^ 1, step + 1);
    cp_async_commit();
    if (lists) {
      list_tile<Traits>(smem, keys, step + 2, listed);
      listed = keys.row(step + 3);
    }
    sync_warp();
    int slots = wanted ? (tile.count + kSlotKeys - 1) / kSlotKeys : 0;
    const int before = ahead + warp * kGroupRows - step * Traits::kTileKeys;  // keys of the tile before the warp's rows
    if constexpr (kCausal) {
      const int last = before + kGroupRows - 1;  // key of the warp's last row
      const int reached = last < 0 ? 0 : last / kSlotKeys + 1;
      slots = reached < slots ? reached : slots;
    }
    uint32_t hidden = 0;
    if constexpr (!kCausal) hidden = later_pairs(keys, step, slots, smem.rows + warp * kGroupRows);
#pragma unroll 1
    for (int slot = 0; slot < slots; ++slot) {
      float scores[2][4];
      float dp[2][4];
      if constexpr (Traits::kKeep) {
        row_products<kDim, kSteps>(scores, query, smem.k[stage], slot * kSlotKeys);
        row_products<kDim, kSteps>(dp, gradient, smem.v[stage], slot * kSlotKeys);
      } else {
        row_products<kDim, kSteps>(scores, smem.q(), warp * kGroupRows, smem.k[stage], slot * kSlotKeys);
        row_products<kDim, kSteps>(dp, smem.dout(), warp * kGroupRows, smem.v[stage], slot * kSlotKeys);
      }
      if (rule.transform) {
#pragma unroll
        for (int i = 0; i < 8; ++i) scores[i >> 2][i & 3] = transformed(rule, scores[i >> 2][i & 3]);
      }
      if constexpr (kCausal) {
        mask_future(scores, slot * kSlotKeys - before);
      } else {
        weigh_slot(scores, tile, keys, step, slot, smem.rows + warp * kGroupRows, hidden);
      }
      score_gradients(scores, dp, rule, rows);
      uint32_t packed[1][4];
      pack_scores<T>(packed, scores);
      add_rows<kDim, Traits::kTile.columns>(acc.o, packed, smem.k[stage], slot * kSlotKeys);
    }
  }
  cp_async_wait<0>();
}

// The f32 sums of a row of dq.
__device__ __forceinline__ float* query_sums(const GatherBackwardArgs& args, const GatherHead& head, int row) {
  const lacuna_shape& shape = args.params.forward.shape;
  const int64_t rows = (static_cast<int64_t>(head.batch) * shape.q_heads + head.head) * shape.q_len;
  return args.memory.dq + (rows + row) * shape.head_dim;
}

template <class Traits>
__device__ __forceinline__ void write_dq(const GatherBackwardArgs& args, const GatherHead& head, int row, int r,
                                         const Accumulator<Traits>& acc) {
  using T = typename Traits::Element;
  const lacuna_strides& stride = args.params.dq_stride;
  T* const to =
      static_cast<T*>(args.params.dq) + head.batch * stride.batch + head.head * stride.head + row * stride.seq;
  write_row<Traits>(to, acc, r, args.params.forward.scale, args.dq_pairs);
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    gather_query_grad_kernel(const __grid_constant__ GatherBackwardArgs args) {
  const lacuna_gather_forward_params& p = args.params.forward;
  int64_t at;
  const GatherHead head = gather_head(p.shape, block_index(), static_cast<int64_t>(args.per_pair) << args.level, at);
  const PairTile work = pair_tile<Traits::kTileRows>(p.shape, p.plan, head, args.level, at, args.per_pair);
  if (work.rows == 0) return;
  auto& smem = shared<typename Traits::Shared>();
  if (thread_index() < Traits::kTileRows) {
    const int i = thread_index();
    const Segment& queries = work.pair.queries;
    int row = -1;
    if (i < work.rows) {
      const int64_t heads = (static_cast<int64_t>(work.level) * p.shape.batch + head.batch) * p.shape.q_heads;
      row = p.plan.q_order[(heads + head.head) * p.shape.q_len + queries.start + work.first + i];
    }
    smem.rows[i] = row >= queries.start && row < queries.start + queries.len ? row : -1;
  }
  const ScoreRule rule = gather_rule(p.scale);
  if (thread_index() == 0) smem.source.start(p, work, rule);
  sync_threads();
  Accumulator<Traits> acc = {};
  query_gradients<Traits, false>(smem, args, head, smem.source, rule, 0, acc);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = smem.rows[fragment_row(thread_index() / kWarpThreads * kGroupRows, r)];
    if (row < 0) continue;
    if (args.more_queries) {
      add_row<Traits>(query_sums(args, head, row), acc, r);
    } else {
      if (args.memory.dq != nullptr) take_row<Traits>(acc, query_sums(args, head, row), r);
      write_dq<Traits>(args, head, row, r, acc);
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    gather_leaf_query_grad_kernel(const __grid_constant__ GatherBackwardArgs args) {
  const lacuna_gather_forward_params& p = args.params.forward;
  const LeafTile work = leaf_tile<Traits::kTileRows>(p.shape, p.plan, args.leaf_tiles, block_index());
  if (!work.valid) return;
  auto& smem = shared<typename Traits::Shared>();
  const int leaf_end = work.leaf.start + work.leaf.len;
  const int end = leaf_end - work.first < Traits::kTileRows ? leaf_end : work.first + Traits::kTileRows;
  if (thread_index() < Traits::kTileRows) {
    const int row = work.first + thread_index();
    smem.rows[thread_index()] = row < end ? row : -1;
  }
  const LeafKeys<Traits::kTileKeys> keys{leaf_keys_start(p.plan, work.leaf), end};
  Accumulator<Traits> acc = {};
  query_gradients<Traits, true>(smem, args, work.head, keys, gather_rule(p.scale), work.first - keys.first, acc);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = work.first + fragment_row(thread_index() / kWarpThreads * kGroupRows, r);
    if (row >= end) continue;
    take_row<Traits>(acc, query_sums(args, work.head, row), r);
    write_dq<Traits>(args, work.head, row, r, acc);
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
