// Portable attention over a gather plan: the pairs in sorted order, and the leaves of a causal plan, which merge what
// the pairs left.
#pragma once

#include "common/gather_partials.h"
#include "sm80/forward/write.h"
#include "sm80/gather/attend.h"

namespace LACUNA_NS {
namespace sm80 {

struct GatherArgs : GatherTiles {
  bool q_vectors;  // rows start on 16-byte boundaries: cp.async serves them
  bool k_vectors;
  bool v_vectors;
  bool out_pairs;  // output rows start on 4-byte boundaries
};

template <class T>
__device__ __forceinline__ KeyTensors<T> key_tensors(const GatherArgs& args, const GatherHead& head) {
  const lacuna_gather_forward_params& p = args.params;
  return KeyTensors<T>{static_cast<const T*>(p.k) + head.batch * p.k_stride.batch + head.kv_head * p.k_stride.head,
                       static_cast<const T*>(p.v) + head.batch * p.v_stride.batch + head.kv_head * p.v_stride.head,
                       p.k_stride.seq,
                       p.v_stride.seq,
                       args.k_vectors,
                       args.v_vectors};
}

template <class T>
__device__ __forceinline__ const T* query_rows(const GatherArgs& args, const GatherHead& head) {
  const lacuna_gather_forward_params& p = args.params;
  return static_cast<const T*>(p.q) + head.batch * p.q_stride.batch + head.head * p.q_stride.head;
}

template <class Traits>
__device__ __forceinline__ void write_final(const GatherArgs& args, const GatherHead& head, int row, int r,
                                            float factor, float lse, const Accumulator<Traits>& acc) {
  using T = typename Traits::Element;
  const lacuna_gather_forward_params& p = args.params;
  write_row<Traits>(
      static_cast<T*>(p.out) + head.batch * p.out_stride.batch + head.head * p.out_stride.head + row * p.out_stride.seq,
      acc, r, factor, args.out_pairs);
  if (thread_index() % 4 == 0 && p.lse != nullptr) {
    p.lse[head.batch * p.lse_stride.batch + head.head * p.lse_stride.head + row * p.lse_stride.seq] = lse;
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    gather_forward_kernel(const __grid_constant__ GatherArgs args) {
  using T = typename Traits::Element;
  const lacuna_gather_forward_params& p = args.params;
  const PairTile work = pair_tile<Traits::kTileRows>(args, block_index());
  if (work.rows == 0) return;
  auto& smem = shared<typename Traits::Shared>();
  if (thread_index() < Traits::kTileRows) {
    const int i = thread_index();
    const Segment& queries = work.pair.queries;
    int row = -1;
    if (i < work.rows) {
      const int64_t heads = (static_cast<int64_t>(work.level) * p.shape.batch + work.head.batch) * p.shape.q_heads;
      row = p.plan.q_order[(heads + work.head.head) * p.shape.q_len + queries.start + work.first + i];
    }
    smem.rows[i] = row >= queries.start && row < queries.start + queries.len ? row : -1;
  }
  const ScoreRule rule = gather_rule(p.scale);
  if (thread_index() == 0) smem.source.start(p, work, rule);
  sync_threads();
  RowState state = empty_rows();
  Accumulator<Traits> acc = {};
  attend<Traits, false>(smem, query_rows<T>(args, work.head), p.q_stride.seq, args.q_vectors,
                        key_tensors<T>(args, work.head), smem.source, rule, 0, state, acc);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = smem.rows[fragment_row(thread_index() / kWarpThreads * kGroupRows, r)];
    if (row < 0) continue;
    const RowResult result = row_result(state.maximum[r] * rule.factor, state.sum[r]);
    if (args.partial) {
      const int64_t at = partial_index(p, work.head, work.level, partial_place(work.pair, row));
      write_row<Traits>(p.partial_out + at * Traits::kHeadDim, acc, r, result.factor);
      if (thread_index() % 4 == 0) p.partial_lse[at] = result.lse;
    } else {
      write_final<Traits>(args, work.head, row, r, result.factor, result.lse, acc);
    }
  }
}

// Merges row r with its partials and writes it.
template <class Traits>
__device__ __forceinline__ void merge_row(const GatherArgs& args, const LeafTile& work, int row, int r,
                                          const RowResult& own, Accumulator<Traits>& acc) {
  const float* partials = args.params.partial_out + 2 * (thread_index() % 4);
  const RowResult merged = merge_partials(
      args.params, work.head, row, own,
      [&](float factor) {
#pragma unroll
        for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
          acc.o[n][2 * r] *= factor;
          acc.o[n][2 * r + 1] *= factor;
        }
      },
      [&](float weight, int64_t at) {
        const float* from = partials + at * Traits::kHeadDim;
#pragma unroll
        for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
          acc.o[n][2 * r] += weight * from[8 * n];
          acc.o[n][2 * r + 1] += weight * from[8 * n + 1];
        }
      });
  write_final<Traits>(args, work.head, row, r, merged.factor, merged.lse, acc);
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    gather_leaf_forward_kernel(const __grid_constant__ GatherArgs args) {
  using T = typename Traits::Element;
  const lacuna_gather_forward_params& p = args.params;
  const LeafTile work = leaf_tile<Traits::kTileRows>(p.shape, p.plan, args.leaf_tiles, block_index());
  if (!work.valid) return;
  auto& smem = shared<typename Traits::Shared>();
  const int leaf_end = work.leaf.start + work.leaf.len;
  const int end = leaf_end - work.first < Traits::kTileRows ? leaf_end : work.first + Traits::kTileRows;
  if (thread_index() < Traits::kTileRows) {
    const int row = work.first + thread_index();
    smem.rows[thread_index()] = row < end ? row : -1;
  }
  const ScoreRule rule = gather_rule(p.scale);
  const LeafKeys<Traits::kTileKeys> keys{leaf_keys_start(p.plan, work.leaf), end};
  RowState state = empty_rows();
  Accumulator<Traits> acc = {};
  attend<Traits, true>(smem, query_rows<T>(args, work.head), p.q_stride.seq, args.q_vectors,
                       key_tensors<T>(args, work.head), keys, rule, work.first - keys.first, state, acc);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = work.first + fragment_row(thread_index() / kWarpThreads * kGroupRows, r);
    if (row >= end) continue;
    merge_row<Traits>(args, work, row, r, row_result(state.maximum[r] * rule.factor, state.sum[r]), acc);
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
