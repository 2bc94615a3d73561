// dk and dv over a gather plan: 64 keys against the query rows that attend them, two warps for each 16 of the keys as
// in the key kernel of block plans.
//
// Sums go to f32 rows that no other block of the launch touches; samples, which many queries attend and which may be
// drawn twice, leave partial sums by part of the queries. What ends the sums of a key writes dk and dv: the leaves of a
// causal plan, the blocks of another.
#pragma once

#include "ptx/named_barrier.h"
#include "sm80/backward/key_kernel.h"
#include "sm80/backward/tile_table.h"
#include "sm80/gather_backward/key_work.h"
#include "sm80/gather_backward/row_sums.h"

namespace LACUNA_NS {
namespace sm80 {

// Tiles are those of dk and dv over block plans.
template <int kHeadDim_, class T>
struct GatherKeyTraits : KeyGradTraits<kHeadDim_, T> {
  using Base = KeyGradTraits<kHeadDim_, T>;
  using Quad = typename Base::Quad;
  static constexpr int kTileRows = Base::kTileRows;
  static constexpr int kStages = Base::kStages;
  static constexpr int kListed = 3;  // tiles of queries: being multiplied, being loaded, being listed

  struct Shared {
    T q[kStages][kTileRows * kHeadDim_];
    T dout[kStages][kTileRows * kHeadDim_];
    float lse[kStages][kTileRows];
    float delta[kStages][kTileRows];
    Quad probabilities[Base::kSlots][kColumnGroups][2][32];
    KeyWork work;
    int key_rows[kWorkKeys];             // rows of k and v; -1: none
    float weights[kWorkKeys];            // samples: added to the scores, in their units
    int range[kWorkKeys][2];             // places of queries, from .. to, of a leaf their rows: those that attend the
                                         // key, or, of samples, those that do not
    int query_rows[kListed][kTileRows];  // -1: none
  };

  static_assert(kTileRows == kWarpThreads, "a warp lists a tile of queries");
  static_assert(sizeof(Shared) <= 99 * 1024, "the tile must fit desktop cards");
};

// Row of this lane in query tile `tile`.
template <KeyList kList>
__device__ __forceinline__ int query_row(const KeyWork& work, const lacuna_shape& shape, int tile) {
  if (tile >= work.heads * work.tiles) return -1;
  const int head = tile / work.tiles;
  const int at = tile % work.tiles * kWarpThreads + thread_index() % kWarpThreads;
  if (at >= work.queries) return -1;
  const int place = work.first + at;
  const int row = kList == KeyList::kLeaf ? place : work.order[static_cast<int64_t>(head) * shape.q_len + place];
  return row >= work.rows.start && row < work.rows.start + work.rows.len ? row : -1;
}

// q, dout and the statistics of a listed tile of queries.
template <class Traits>
__device__ __forceinline__ void load_query_tile(typename Traits::Shared& smem, const GatherBackwardArgs& args,
                                                int stage, int tile) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kPieces = Traits::kTileRows * kDim / 8;
  const lacuna_gather_forward_params& p = args.params.forward;
  const KeyWork& work = smem.work;
  const int64_t batch = work.head.batch;
  const int64_t head = work.head.head + tile / work.tiles;
  const auto& rows = smem.query_rows[tile % Traits::kListed];
#pragma unroll 1
  for (int piece = thread_index(); piece < kPieces; piece += Traits::kThreads) {
    const int row = rows[piece / (kDim / 8)];
    const int chunk = piece % (kDim / 8);
    const int64_t from = row < 0 ? 0 : row;
    const int to = swizzled<kDim>(piece / (kDim / 8), chunk);
    const T* q = static_cast<const T*>(p.q) + batch * p.q_stride.batch + head * p.q_stride.head +
                 from * p.q_stride.seq + chunk * 8;
    const T* dout = static_cast<const T*>(args.params.dout) + batch * args.params.dout_stride.batch +
                    head * args.params.dout_stride.head + from * args.params.dout_stride.seq + chunk * 8;
    load_chunk(smem.q[stage] + to, q, row >= 0, args.q_vectors);
    load_chunk(smem.dout[stage] + to, dout, row >= 0, args.dout_vectors);
  }
  if (thread_index() < Traits::kTileRows) {
    const int row = rows[thread_index()];
    const int64_t at = (batch * p.shape.q_heads + head) * args.memory.stat_rows + row;
    smem.lse[stage][thread_index()] = row < 0 ? -minus_infinity() : args.memory.lse[at];
    smem.delta[stage][thread_index()] = row < 0 ? 0.0f : args.memory.delta[at];
  }
}

// Which pairs of 16 keys, those of `group`, and 16 queries with the rows `rows` a later round has, of this lane: bit
// 4 i + r is query i of four and key r. `head` is counted from the first that is walked.
template <class Shared>
__device__ __forceinline__ uint32_t later_pairs(const Shared& smem, int group, const int* rows, int64_t head,
                                                int q_len) {
  const LaterRounds& later = smem.work.later;
  const int lane = thread_index() % kWarpThreads;
  uint32_t hidden = 0;
#pragma unroll 1
  for (int round = 0; round < later.count; ++round) {
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
      const int query = rows[i / 2 * 8 + 2 * (lane % 4) + i % 2];
      if (query < 0) continue;
      const int start = later.start(round, head * q_len + query);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int key = smem.key_rows[group * kGroupRows + lane / 4 + 8 * r];
        if (key >= 0 && later.has(round, start, key)) hidden |= 1u << (4 * i + r);
      }
    }
  }
  return hidden;
}

// Hides the queries that do not attend a key. scores: the 16 keys of `group`, down, against 16 queries with the rows
// `rows`; `place` is that of the first, of a leaf its row.
template <KeyList kList, class Shared>
__device__ __forceinline__ void hide_queries(float (&scores)[2][4], const Shared& smem, int group, int place,
                                             const int* rows) {
  const LocalRows local = smem.work.local;
  const int lane = thread_index() % kWarpThreads;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int key = group * kGroupRows + lane / 4 + 8 * r;
    const bool is_local = kList != KeyList::kLeaf && smem.key_rows[key] >= local.keys_from;
    if (kList == KeyList::kBlock && !is_local && !smem.work.windows) continue;
    const int from = smem.range[key][0];
    const int to = smem.range[key][1];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int of_slot = 8 * (i >> 1) + 2 * (lane % 4) + (i & 1);
      const int at = place + of_slot;
      const bool in_range = at >= from && at < to;
      const bool is_hidden = (kList == KeyList::kSamples) == in_range;
      if (is_hidden || (is_local && rows[of_slot] < local.queries_end))
        scores[i >> 1][2 * r + (i & 1)] = minus_infinity();
    }
  }
}

// P^T of a slot of queries, in `scores`; what its partner needs of it goes to shared memory.
template <KeyList kList, class Traits>
__device__ __forceinline__ void listed_probabilities(float (&scores)[2][4], typename Traits::Shared& smem,
                                                     const ScoreRule& rule, int stage, int slot, int group, int place,
                                                     const int* rows, uint32_t hidden) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float& score = scores[i >> 2][i & 3];
    if (rule.transform) score = transformed(rule, score);
    if constexpr (kList == KeyList::kSamples) score += smem.weights[fragment_row(group * kGroupRows, i >> 1 & 1)];
  }
  hide_queries<kList>(scores, smem, group, place, rows);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if ((hidden >> (4 * (2 * (i >> 2) + (i & 1)) + (i >> 1 & 1)) & 1) != 0) scores[i >> 2][i & 3] = minus_infinity();
  }
  const float* lse = smem.lse[stage] + slot * kGroupRows + 2 * (thread_index() % 4);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    typename Traits::Quad quad;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = probability(rule, scores[n][i], lse[8 * n + (i & 1)]);
      quad.x[i] = scores[n][i];
    }
    smem.probabilities[slot][group][n][thread_index() % kWarpThreads] = quad;
  }
}

// Where the sums of a key are, or go.
template <class Traits>
__device__ __forceinline__ float* key_sums(const GatherBackwardArgs& args, const KeyWork& work, bool is_dv, int row) {
  const lacuna_shape& shape = args.params.forward.shape;
  const int64_t rows = (static_cast<int64_t>(work.head.batch) * shape.kv_heads + work.head.kv_head) * shape.kv_len;
  return (is_dv ? args.memory.dv : args.memory.dk) + (rows + row) * Traits::kHeadDim;
}

template <KeyList kList, class Traits>
__device__ __forceinline__ void write_keys(const GatherBackwardArgs& args, const typename Traits::Shared& smem,
                                           Accumulator<Traits>& acc, bool is_dv, int group) {
  using T = typename Traits::Element;
  const lacuna_gather_backward_params& b = args.params;
  const KeyWork& work = smem.work;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int key = fragment_row(group * kGroupRows, r);
    if constexpr (kList == KeyList::kSamples) {
      float* const to = args.memory.samples + ((work.sample + key) * 2 + (is_dv ? 1 : 0)) * Traits::kHeadDim;
      write_row<Traits>(to, acc, r, 1.0f);
    } else {
      const int row = smem.key_rows[key];
      if (row < 0) continue;
      float* const sums = key_sums<Traits>(args, work, is_dv, row);
      if (kList == KeyList::kBlock && args.more_keys) {
        add_row<Traits>(sums, acc, r);
        continue;
      }
      take_row<Traits>(acc, sums, r);
      const lacuna_strides& stride = is_dv ? b.dv_stride : b.dk_stride;
      T* const to = static_cast<T*>(is_dv ? b.dv : b.dk) + work.head.batch * stride.batch +
                    work.head.kv_head * stride.head + row * stride.seq;
      write_row<Traits>(to, acc, r, is_dv ? 1.0f : b.forward.scale, is_dv ? args.dv_pairs : args.dk_pairs);
    }
  }
}

// Thread 0 writes down the work, 64 threads the keys. False: there is none.
template <KeyList kList, class Traits>
__device__ __forceinline__ bool start_keys(typename Traits::Shared& smem, const GatherBackwardArgs& args,
                                           int64_t index) {
  constexpr int kRows = Traits::kTileRows;
  KeyWork work;
  WorkKeys keys;
  if constexpr (kList == KeyList::kBlock) keys = block_work<kRows>(args, index, work);
  if constexpr (kList == KeyList::kSamples) keys = sample_work<kRows>(args, index, work);
  if constexpr (kList == KeyList::kLeaf) keys = leaf_work<kRows>(args, index, work);
  if (keys.count == 0) return false;
  const int i = thread_index();
  if (i == 0) smem.work = work;
  if (i < kWorkKeys) {
    int row = -1;
    if (i < keys.count) row = kList == KeyList::kLeaf ? keys.low + i : keys.rows[i];
    smem.key_rows[i] = row >= keys.keys.start && row < keys.keys.start + keys.keys.len ? row : -1;
    int(&range)[2] = smem.range[i];
    if constexpr (kList == KeyList::kLeaf) {
      range[0] = row;
      range[1] = row >= keys.queries_end - args.params.forward.plan.local ? keys.local_end : keys.queries_end;
    } else {
      int place = keys.low + i;
      if constexpr (kList == KeyList::kSamples) {
        place = i < keys.count ? keys.places[i] : -1;
        const float weight = keys.weights != nullptr && i < keys.count ? keys.weights[i] : keys.weight;
        smem.weights[i] = weight / weight_unit(gather_rule(args.params.forward.scale));
      }
      const bool inside = place >= 0 && place < keys.keys.len;
      range[0] = inside ? keys.query_from(place) : 0;
      range[1] = inside ? keys.query_end(place) : 0;
    }
  }
  return true;
}

template <KeyList kList, class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    gather_key_grad_kernel(const __grid_constant__ GatherBackwardArgs args) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kSlots = Traits::kSlots;
  constexpr int kSteps = Traits::kTile.steps;
  const lacuna_gather_forward_params& p = args.params.forward;
  auto& smem = shared<typename Traits::Shared>();
  if (!start_keys<kList, Traits>(smem, args, block_index())) return;
  const int group = thread_index() / kWarpThreads % kColumnGroups;
  const bool makes_dv = thread_index() / kWarpThreads < kColumnGroups;
  const bool lists = thread_index() < kWarpThreads;
  sync_threads();

  int listed = -1;
  if (lists) {
    smem.query_rows[0][thread_index()] = query_row<kList>(smem.work, p.shape, 0);
    smem.query_rows[1][thread_index()] = query_row<kList>(smem.work, p.shape, 1);
    listed = query_row<kList>(smem.work, p.shape, 2);
  }
  // K and V fill the two stages of q and of dout, one after the other.
  {
    const KeyWork& work = smem.work;
    const T* k = static_cast<const T*>(p.k) + work.head.batch * p.k_stride.batch + work.head.kv_head * p.k_stride.head;
    const T* v = static_cast<const T*>(p.v) + work.head.batch * p.v_stride.batch + work.head.kv_head * p.v_stride.head;
#pragma unroll 1
    for (int piece = thread_index(); piece < kWorkKeys * kDim / 8; piece += Traits::kThreads) {
      const int row = smem.key_rows[piece / (kDim / 8)];
      const int chunk = piece % (kDim / 8);
      const int64_t from = row < 0 ? 0 : row;
      const int to = swizzled<kDim>(piece / (kDim / 8), chunk);
      load_chunk(smem.q[0] + to, k + from * p.k_stride.seq + chunk * 8, row >= 0, args.k_vectors);
      load_chunk(smem.dout[0] + to, v + from * p.v_stride.seq + chunk * 8, row >= 0, args.v_vectors);
    }
  }
  cp_async_commit();
  cp_async_wait<0>();
  sync_threads();
  uint32_t keys[kDim / 16][4];
  load_rows<kDim>(keys, makes_dv ? smem.q[0] : smem.dout[0], group * kGroupRows);
  sync_threads();
  if (smem.work.tiles > 0) load_query_tile<Traits>(smem, args, 0, 0);
  cp_async_commit();

  const ScoreRule rule = gather_rule(p.scale);
  Accumulator<Traits> acc = {};

  for (int step = 0; step < smem.work.heads * smem.work.tiles; ++step) {
    const int stage = step % Traits::kStages;
    // This tile has landed for everyone, and everyone has left the other stage and the probabilities.
    cp_async_wait<0>();
    sync_threads();
    if (step + 1 < smem.work.heads * smem.work.tiles) load_query_tile<Traits>(smem, args, stage ^ 1, step + 1);
    cp_async_commit();
    if (lists) {
      smem.query_rows[(step + 2) % Traits::kListed][thread_index()] = listed;
      listed = query_row<kList>(smem.work, p.shape, step + 3);
    }
    sync_warp();

    const T* const first_rows = makes_dv ? smem.q[stage] : smem.dout[stage];
    const T* const second_rows = makes_dv ? smem.dout[stage] : smem.q[stage];
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      const int at = step % smem.work.tiles * Traits::kTileRows + slot * kGroupRows;
      if (at >= smem.work.queries) continue;
      const int place = smem.work.first + at;
      if (kList == KeyList::kLeaf && place + kGroupRows <= smem.work.first + group * kGroupRows) continue;
      float products[2][4];
      row_products<kDim, kSteps>(products, keys, first_rows, slot * kGroupRows);
      const int turn = 1 + slot * kColumnGroups + group;
      if (makes_dv) {
        const int* const rows = smem.query_rows[step % Traits::kListed] + slot * kGroupRows;
        uint32_t hidden = 0;
        if (kList != KeyList::kLeaf) hidden = later_pairs(smem, group, rows, step / smem.work.tiles, p.shape.q_len);
        listed_probabilities<kList, Traits>(products, smem, rule, stage, slot, group, place, rows, hidden);
        named_barrier_arrive(turn, 64);
      } else {
        named_barrier_sync(turn, 64);
        slot_gradients<Traits>(products, smem, stage, slot);
      }
      uint32_t packed[1][4];
      pack_scores<T>(packed, products);
      add_rows<kDim, Traits::kTile.columns>(acc.o, packed, second_rows, slot * kGroupRows);
    }
  }
  cp_async_wait<0>();
  write_keys<kList, Traits>(args, smem, acc, makes_dv, group);
}

}  // namespace sm80
}  // namespace LACUNA_NS
