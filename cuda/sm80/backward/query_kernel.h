// dq: the forward kernel's walk over a query tile's keys, with P from the LSE in place of an online softmax.
//
// A block owns 64 query rows of one head, a warp 16 of them, whose q and dout it keeps. For each slot of 16 keys it
// makes S = q k^T and dP = dout v^T, then dS = P * (dP - delta), and adds dS k.
#pragma once

#include "sm80/backward/args.h"
#include "sm80/backward/probability.h"
#include "sm80/backward/products.h"
#include "sm80/backward/tile_table.h"
#include "sm80/forward/kernel.h"

namespace LACUNA_NS {
namespace sm80 {

// What a lane knows of its two fragment rows.
struct LaneRows {
  float lse[2];
  float delta[2];
};

// `row`: the warp's first row in the statistics of its head.
__device__ __forceinline__ LaneRows lane_rows(const BackwardArgs& args, const QueryTile& tile, int row) {
  const lacuna_forward_params& p = args.forward.params;
  const int64_t head = static_cast<int64_t>(tile.batch) * p.shape.q_heads + tile.head;
  LaneRows rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t at = head * args.workspace.stat_rows + fragment_row(row, r);
    rows.lse[r] = args.workspace.lse[at];
    rows.delta[r] = args.workspace.delta[at];
  }
  return rows;
}

// Turns the scores of a slot and dP into dS, in `scores`.
__device__ __forceinline__ void score_gradients(float (&scores)[2][4], const float (&dp)[2][4], const ScoreRule& rule,
                                                const LaneRows& rows) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float& score = scores[i >> 2][i & 3];
    const float p = probability(rule, score, rows.lse[i >> 1 & 1]);
    score = sloped(rule, score, p) * (dp[i >> 2][i & 3] - rows.delta[i >> 1 & 1]);
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    query_grad_kernel(const __grid_constant__ BackwardArgs args) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kSlots = Traits::kSlots;
  constexpr int kSteps = Traits::kTile.steps;
  const lacuna_forward_params& p = args.forward.params;
  const Assignment work = assignment<false>(args.forward, block_index(), Traits::kTileRows);
  if (!work.valid) return;
  const QueryTile& tile = work.tile;
  auto& smem = shared<typename Traits::Shared>();
  const int warp = thread_index() / 32;

  const T* q = static_cast<const T*>(p.q) + tile.batch * p.q_stride.batch + tile.head * p.q_stride.head;
  const T* dout =
      static_cast<const T*>(args.dout) + tile.batch * args.dout_stride.batch + tile.head * args.dout_stride.head;
  const T* k = static_cast<const T*>(p.k) + tile.kv_head * p.k_stride.head;
  const T* v = static_cast<const T*>(p.v) + tile.kv_head * p.v_stride.head;
  const auto load_tile = [&](int stage, const KeyTile<kSlots>& keys) {
    load_slots<Traits::kThreads, kDim>(smem.k[stage], k, p.k_stride, keys, p.shape.kv_len, args.forward.k_vectors);
    load_slots<Traits::kThreads, kDim>(smem.v[stage], v, p.v_stride, keys, p.shape.kv_len, args.forward.v_vectors);
  };

  if (thread_index() == 0) {
    smem.source.start(p, tile, work.sequence, work.schedule_row, 0);
    smem.source.next(p, smem.keys[0]);
    smem.source.next(p, smem.keys[1]);
  }
  load_queries<Traits::kThreads, kDim, Traits::kTileRows>(smem.q(), q, p.q_stride.seq, tile.first_row, p.shape.q_len,
                                                          args.forward.q_vectors);
  load_queries<Traits::kThreads, kDim, Traits::kTileRows>(smem.dout(), dout, args.dout_stride.seq, tile.first_row,
                                                          p.shape.q_len, args.dout_vectors);
  cp_async_commit();
  sync_threads();
  if (smem.keys[0].key[0] >= 0) load_tile(0, smem.keys[0]);
  cp_async_commit();
  const int warp_row = tile.first_row + warp * kGroupRows;
  const LaneRows rows = lane_rows(args, tile, warp_row + p.plan.row_shift);

  cp_async_wait<1>();
  sync_threads();
  constexpr int kKept = Traits::kTile.keep_rows ? kDim / 16 : 1;
  uint32_t query[kKept][4];
  uint32_t gradient[kKept][4];
  if constexpr (Traits::kTile.keep_rows) {
    load_rows<kDim>(query, smem.q(), warp * kGroupRows);
    load_rows<kDim>(gradient, smem.dout(), warp * kGroupRows);
  }

  const ScoreRule rule = score_rule(p);
  const KeyRange unmasked = common_keys(p.shape, p.mask, warp_row);
  Accumulator<Traits> acc = {};

  for (int step = 0; smem.keys[step % Traits::kKeyTiles].key[0] >= 0; ++step) {
    const int stage = step % Traits::kStages;
    const KeyTile<kSlots>& keys = smem.keys[step % Traits::kKeyTiles];
    const KeyTile<kSlots>& following = smem.keys[(step + 1) % Traits::kKeyTiles];
    // This tile has landed for everyone, and everyone has left the other stage.
    cp_async_wait<0>();
    sync_threads();
    if (following.key[0] >= 0) load_tile(stage ^ 1, following);
    cp_async_commit();
    if (thread_index() == 0) smem.source.next(p, smem.keys[(step + 2) % Traits::kKeyTiles]);
    sync_warp();

#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      if ((keys.rows[slot] >> warp & 1) == 0) continue;
      float scores[2][4];
      float dp[2][4];
      if constexpr (Traits::kTile.keep_rows) {
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
      const int key = keys.key[slot];
      if (key < unmasked.low || key + kSlotKeys > unmasked.high) mask_slot(scores, p.shape, p.mask, warp_row, key);
      score_gradients(scores, dp, rule, rows);
      uint32_t packed[1][4];
      pack_scores<T>(packed, scores);
      add_rows<kDim, Traits::kTile.columns>(acc.o, packed, smem.k[stage], slot * kSlotKeys);
    }
  }
  cp_async_wait<0>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = fragment_row(warp_row, r);
    if (row < 0 || row >= p.shape.q_len) continue;
    T* const to = static_cast<T*>(args.dq) + tile.batch * args.dq_stride.batch + tile.head * args.dq_stride.head +
                  row * args.dq_stride.seq;
    write_row<Traits>(to, acc, r, p.scale, args.forward.out_pairs);
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
