// The loop of the gather kernels: FlashAttention-2's structure as in the forward kernel, over tiles of listed rows.
//
// While a tile is multiplied, the next one is in flight, the one after that is written down, and the indices of the
// one after that are on their way from global memory.
#pragma once

#include "common/online_softmax.h"
#include "common/score_rule.h"
#include "sm80/forward/load.h"
#include "sm80/forward/products.h"
#include "sm80/gather/traits.h"

namespace LACUNA_NS {
namespace sm80 {

// Writes down tile `tile`, to which this thread adds `row`. Called by the warps of the first kTileKeys threads; those
// beyond add nothing (-1).
template <class Traits, class Keys>
__device__ __forceinline__ void list_tile(typename Traits::Shared& smem, const Keys& keys, int tile, int row) {
  const int thread = thread_index();
  if (Traits::kTileKeys >= kWarpThreads || thread < Traits::kTileKeys) {
    smem.key_rows[tile % Traits::kStages][thread] = row;
  }
  const uint32_t present = ballot(row >= 0);
  const uint32_t local = ballot(keys.is_local(row));
  auto& to = smem.keys[tile % Traits::kKeyTiles];
  if (thread % kWarpThreads == 0) {
    to.present[thread / kWarpThreads] = present;
    to.local[thread / kWarpThreads] = local;
  }
  if (thread == 0) {
    to.weight = keys.weight_of(tile);
    to.count = keys.count(tile);
  }
}

// kRows rows of a tensor, by index, into a tile; absent ones become zeros.
template <class Traits, int kRows>
__device__ __forceinline__ void load_rows(typename Traits::Element* tile, const typename Traits::Element* from,
                                          int64_t stride, const int (&rows)[kRows], bool vectors) {
  constexpr int kThreads = Traits::kThreads;
  constexpr int kChunks = Traits::kChunks;
  static_assert(kRows * kChunks % kThreads == 0, "threads share the chunks evenly");
#pragma unroll
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int piece = i * kThreads + thread_index();
    const int row = rows[piece / kChunks];
    const int chunk = piece % kChunks;
    load_chunk(tile + swizzled<Traits::kHeadDim>(piece / kChunks, chunk),
               from + (row < 0 ? 0 : row) * stride + chunk * 8, row >= 0, vectors);
  }
}

// k and v of one sequence and head.
template <class T>
struct KeyTensors {
  const T* k;
  const T* v;
  int64_t k_stride;  // of rows
  int64_t v_stride;
  bool k_vectors;
  bool v_vectors;
};

// Which pairs of a tile a later round has, of this lane: bit 8 slot + 4 r + i is row r and key i of four. rows: of the
// warp.
template <int kTileKeys>
__device__ __forceinline__ uint32_t later_pairs(const SortedKeys<kTileKeys>& source, int tile, int slots,
                                                const int* rows) {
  static_assert(kTileKeys <= 4 * kSlotKeys, "a bit for each pair of a lane");
  uint32_t hidden = 0;
#pragma unroll 1
  for (int round = 0; round < source.later.count; ++round) {
    int start[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = rows[fragment_row(0, r)];
      start[r] = row < 0 ? 0 : source.later.start(round, row);
    }
#pragma unroll 1
    for (int i = 0; i < 4 * slots; ++i) {
      const int row = source.row_of(tile, i / 4 * kSlotKeys + 8 * (i / 2 % 2) + 2 * (thread_index() % 4) + i % 2);
      if (row < 0) continue;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (source.later.has(round, start[r], row)) hidden |= 1u << (i / 4 * 8 + 4 * r + i % 4);
      }
    }
  }
  return hidden;
}

// Adds the weights of a slot of tile `tile` of `source` and hides what is absent, local to a row's leaf, or in
// `hidden`, which is what later_pairs() gave. rows: of the warp.
template <int kTileKeys>
__device__ __forceinline__ void weigh_slot(float (&scores)[2][4], const TileKeys<kTileKeys>& keys,
                                           const SortedKeys<kTileKeys>& source, int tile, int slot, const int* rows,
                                           uint32_t hidden) {
  const float weight = keys.weight;
  if (weight != 0.0f) {
#pragma unroll
    for (int i = 0; i < 8; ++i) scores[i >> 2][i & 3] += weight;
  }
  const uint32_t present = keys.present[slot / 2] >> (slot % 2 * kSlotKeys) & 0xffffu;
  if (const float* weights = source.weights_of(tile)) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = 8 * (i >> 1) + 2 * (thread_index() % 4) + (i & 1);
      const float own = (present >> key & 1) != 0 ? weights[slot * kSlotKeys + key] / source.unit : 0.0f;
      scores[i >> 1][i & 1] += own;
      scores[i >> 1][2 + (i & 1)] += own;
    }
  }
  const uint32_t local = keys.local[slot / 2] >> (slot % 2 * kSlotKeys) & 0xffffu;
  hidden >>= 8 * slot;
  if (present == 0xffffu && local == 0 && (hidden & 0xffu) == 0) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool near = local != 0 && rows[fragment_row(0, r)] < source.local.queries_end;
    const uint32_t mine = (near ? present & ~local : present) >> (2 * (thread_index() % 4));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool seen = (mine >> (8 * (i >> 1) + (i & 1)) & ~(hidden >> (4 * r + i)) & 1) != 0;
      if (!seen) scores[i >> 1][2 * r + (i & 1)] = minus_infinity();
    }
  }
}

// Hides keys behind the query: `ahead` is the first key of the slot less the first row of the warp.
__device__ __forceinline__ void mask_future(float (&scores)[2][4], int ahead) {
  if (ahead + kSlotKeys - 1 <= 0) return;
  const int lane = thread_index() % kWarpThreads;
  const int first = ahead + 2 * (lane % 4) - lane / 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int key = first + 8 * (i >> 2) + (i & 1);
    if (key > 8 * (i >> 1 & 1)) scores[i >> 2][i & 3] = minus_infinity();
  }
}

// Attention of the tile's query rows, of which smem.rows[0 .. 63] are written but not yet visible to all. kCausal:
// query rows and keys stand for positions, tile row 0 at `ahead` of the first key.
template <class Traits, bool kCausal, class Keys>
__device__ __forceinline__ void attend(typename Traits::Shared& smem, const typename Traits::Element* q,
                                       int64_t q_stride, bool q_vectors,
                                       const KeyTensors<typename Traits::Element>& from, const Keys& keys,
                                       const ScoreRule& rule, int ahead, RowState& state, Accumulator<Traits>& acc) {
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kSlots = Traits::kSlots;
  const int warp = thread_index() / kWarpThreads;
  const bool lists = warp < Traits::kTileKeys / kWarpThreads;
  const auto load_tile = [&](int stage, int tile) {
    const auto& rows = smem.key_rows[tile % Traits::kStages];
    load_rows<Traits>(smem.k[stage], from.k, from.k_stride, rows, from.k_vectors);
    load_rows<Traits>(smem.v[stage], from.v, from.v_stride, rows, from.v_vectors);
  };

  int listed = -1;
  if (lists) {
    list_tile<Traits>(smem, keys, 0, keys.row(0));
    list_tile<Traits>(smem, keys, 1, keys.row(1));
    listed = keys.row(2);
  }
  sync_threads();
  load_rows<Traits>(smem.q, q, q_stride, smem.rows, q_vectors);
  cp_async_commit();
  load_tile(0, 0);
  cp_async_commit();
  cp_async_wait<1>();
  sync_threads();
  uint32_t query[kDim / 16][4];
  if constexpr (Traits::kTile.keep_query) {
    uint32_t address[kDim / 16];
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      address[i] = piece_address<kDim, false>(smem.q, warp * kGroupRows, 16 * i);
    }
    ldmatrix_x4<false>(query, address);
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
    // Slots that some row of the warp may see: those up to its last row.
    int slots = wanted ? (tile.count + kSlotKeys - 1) / kSlotKeys : 0;
    const int before = ahead + warp * kGroupRows - step * Traits::kTileKeys;  // keys of the tile before the warp's rows
    if constexpr (kCausal) {
      const int last = before + kGroupRows - 1;  // key of the warp's last row
      const int reached = last < 0 ? 0 : last / kSlotKeys + 1;
      slots = reached < slots ? reached : slots;
    }
    if (slots == 0) continue;
    uint32_t hidden = 0;
    if constexpr (!kCausal) hidden = later_pairs(keys, step, slots, smem.rows + warp * kGroupRows);

    float scores[kSlots][2][4];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot < slots) {
        query_key<Traits>(scores[slot], query, smem, stage, slot, warp);
        if (rule.transform) {
#pragma unroll
          for (int i = 0; i < 8; ++i) scores[slot][i >> 2][i & 3] = transformed(rule, scores[slot][i >> 2][i & 3]);
        }
        if constexpr (kCausal) {
          mask_future(scores[slot], slot * kSlotKeys - before);
        } else {
          weigh_slot(scores[slot], tile, keys, step, slot, smem.rows + warp * kGroupRows, hidden);
        }
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) scores[slot][i >> 2][i & 3] = minus_infinity();
      }
    }
    float rescale[2];
    softmax_step(reinterpret_cast<float(&)[8 * kSlots]>(scores), rule.factor, state, rescale);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc.o[n][i] *= rescale[i >> 1];
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot < slots) probability_value<Traits>(acc, scores[slot], smem, stage, slot);
    }
  }
  cp_async_wait<0>();
  quad_sum(state.sum);
}

}  // namespace sm80
}  // namespace LACUNA_NS
