// dk and dv: a column of 64 keys against the query rows of its group's heads that attend it.
//
// Two warps own 16 keys. The value warp keeps K, makes S^T = k q^T and P^T, and adds P^T dout to dv; the gradient warp
// keeps V, makes dP^T = v dout^T, takes P from its partner, and adds dS^T q to dk. Transposed products need no
// transposition: the accumulators of S^T are the A fragment of the second product as they lie.
#pragma once

#include "ptx/named_barrier.h"
#include "sm80/backward/args.h"
#include "sm80/backward/key_tile.h"
#include "sm80/backward/probability.h"
#include "sm80/backward/products.h"

namespace LACUNA_NS {
namespace sm80 {

// P^T of a slot, in `scores`; what its partner needs of it goes to shared memory.
template <class Traits>
__device__ __forceinline__ void slot_probabilities(float (&scores)[2][4], typename Traits::Shared& smem,
                                                   const lacuna_forward_params& p, const ScoreRule& rule, int stage,
                                                   int slot, int row, int first_key) {
  if (rule.transform) {
#pragma unroll
    for (int i = 0; i < 8; ++i) scores[i >> 2][i & 3] = transformed(rule, scores[i >> 2][i & 3]);
  }
  mask_column(scores, p, row, first_key);
  const float* lse = smem.lse[stage] + slot * kGroupRows + 2 * (thread_index() % 4);
  const int group = thread_index() / 32 % kColumnGroups;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    typename Traits::Quad quad;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float score = scores[n][i];
      scores[n][i] = probability(rule, score, lse[8 * n + (i & 1)]);
      quad.x[i] = sloped(rule, score, scores[n][i]);
    }
    smem.probabilities[slot][group][n][thread_index() % 32] = quad;
  }
}

// Turns dP^T of a slot into dS^T.
template <class Traits>
__device__ __forceinline__ void slot_gradients(float (&dp)[2][4], const typename Traits::Shared& smem, int stage,
                                               int slot) {
  const float* delta = smem.delta[stage] + slot * kGroupRows + 2 * (thread_index() % 4);
  const int group = thread_index() / 32 % kColumnGroups;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const typename Traits::Quad quad = smem.probabilities[slot][group][n][thread_index() % 32];
#pragma unroll
    for (int i = 0; i < 4; ++i) dp[n][i] = quad.x[i] * (dp[n][i] - delta[8 * n + (i & 1)]);
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    key_grad_kernel(const __grid_constant__ BackwardArgs args) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kSlots = Traits::kSlots;
  constexpr int kSteps = Traits::kTile.steps;
  constexpr int kColumns = Traits::kTile.columns;
  const lacuna_forward_params& p = args.forward.params;
  const ColumnWork work = column_work(args, block_index());
  if (!work.valid) return;
  auto& smem = shared<typename Traits::Shared>();
  // At head dim 256 registers are short: what is cheap to find is found anew, or lies in shared memory.
  const int group = thread_index() / 32 % kColumnGroups;
  const bool makes_dv = thread_index() / 32 < kColumnGroups;

  if (thread_index() == 0) {
    smem.source.start(p, args.schedule, work.column, work.piece, work.pieces);
    smem.source.next(p, args.schedule, smem.slots[0]);
    smem.source.next(p, args.schedule, smem.slots[1]);
  }
  // K and V fill the two stages of q and of dout, one after the other.
  load_keys<Traits>(smem.q[0], p.k, p.k_stride, p, work.column, args.forward.k_vectors);
  load_keys<Traits>(smem.dout[0], p.v, p.v_stride, p, work.column, args.forward.v_vectors);
  cp_async_commit();
  cp_async_wait<0>();
  sync_threads();
  uint32_t keys[kDim / 16][4];
  load_rows<kDim>(keys, makes_dv ? smem.q[0] : smem.dout[0], group * kGroupRows);
  sync_threads();
  load_query_slots<Traits>(smem, args, work.column.batch, 0, smem.slots[0]);
  cp_async_commit();

  const ScoreRule rule = score_rule(p);
  const auto first_key = [&] { return smem.source.column.tile * kColumnKeys + group * kGroupRows; };
  Accumulator<Traits> acc = {};

  for (int step = 0; smem.slots[step % Traits::kQueryTiles].row[0] >= 0; ++step) {
    const int stage = step % Traits::kStages;
    const QuerySlots<kSlots>& slots = smem.slots[step % Traits::kQueryTiles];
    // This tile has landed for everyone, and everyone has left the other stage and the probabilities.
    cp_async_wait<0>();
    sync_threads();
    load_query_slots<Traits>(smem, args, smem.source.column.batch, stage ^ 1,
                             smem.slots[(step + 1) % Traits::kQueryTiles]);
    cp_async_commit();
    if (thread_index() == 0) {
      smem.source.next(p, args.schedule, smem.slots[(step + 2) % Traits::kQueryTiles]);
    }
    sync_warp();

    const T* const first_rows = makes_dv ? smem.q[stage] : smem.dout[stage];
    const T* const second_rows = makes_dv ? smem.dout[stage] : smem.q[stage];
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      if ((slots.keys[slot] >> group & 1) == 0) continue;
      float products[2][4];
      row_products<kDim, kSteps>(products, keys, first_rows, slot * kGroupRows);
      const int turn = 1 + slot * kColumnGroups + group;
      if (makes_dv) {
        slot_probabilities<Traits>(products, smem, p, rule, stage, slot, slots.row[slot] - p.plan.row_shift,
                                   first_key());
        named_barrier_arrive(turn, 64);
      } else {
        named_barrier_sync(turn, 64);
        slot_gradients<Traits>(products, smem, stage, slot);
      }
      uint32_t packed[1][4];
      pack_scores<T>(packed, products);
      add_rows<kDim, kColumns>(acc.o, packed, second_rows, slot * kGroupRows);
    }
  }
  cp_async_wait<0>();
  write_column<Traits>(args, column_work(args, block_index()), acc, makes_dv, first_key());
}

}  // namespace sm80
}  // namespace LACUNA_NS
