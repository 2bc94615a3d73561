// Portable forward attention: FlashAttention-2's structure (Dao, 2023) on mma.sync, ldmatrix and cp.async.
//
// A block owns 64 query rows of one head, a warp 16 of them. Keys arrive as tiles of 16-key slots in two stages: while
// one tile is multiplied, the next is in flight. A slot that no row of a warp wants costs that warp no matrix work, so
// that query blocks of any size share a tile exactly, whatever their lists.
#pragma once

#include "common/online_softmax.h"
#include "common/row_result.h"
#include "common/score_rule.h"
#include "sm80/forward/args.h"
#include "sm80/forward/load.h"
#include "sm80/forward/products.h"
#include "sm80/forward/tile_table.h"
#include "sm80/forward/write.h"

namespace LACUNA_NS {
namespace sm80 {

// Keys that every row of the warp sees: slots inside need no mask.
template <class Lengths>
__device__ __forceinline__ KeyRange common_keys(const Lengths& lengths, const lacuna_mask& mask, int warp_row) {
  const int64_t first = key_position(lengths, warp_row);
  const int64_t last = first + kGroupRows - 1;
  return KeyRange{visible_keys(mask, lengths.kv_len, last, last).low,
                  visible_keys(mask, lengths.kv_len, first, first).high};
}

// scores: products of the slot's 16 keys, as two n8 tiles.
template <class Lengths>
__device__ __forceinline__ void mask_slot(float (&scores)[2][4], const Lengths& lengths, const lacuna_mask& mask,
                                          int warp_row, int first_key) {
  const int column = first_key + 2 * (thread_index() % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t position = key_position(lengths, fragment_row(warp_row, r));
    const KeyRange range = visible_keys(mask, lengths.kv_len, position, position);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = column + 8 * (i >> 1) + (i & 1);
      if (key < range.low || key >= range.high) scores[i >> 1][2 * r + (i & 1)] = minus_infinity();
    }
  }
}

// Lengths and places of the block's sequence: those of the shape, or read from shared memory where they are needed,
// since they would cost every thread's registers.
template <class Traits>
__device__ __forceinline__ const auto& lengths_of(const lacuna_forward_params& p, const typename Traits::Shared& smem) {
  if constexpr (Traits::kRagged) {
    return smem.source.sequence;
  } else {
    return p.shape;
  }
}

template <class Traits>
__device__ __forceinline__ const QueryTile& tile_of(const Assignment& work, const typename Traits::Shared& smem) {
  return Traits::kRagged ? smem.source.tile : work.tile;
}

// Divides by the denominator and writes the rows: final ones, or f32 partials of a split.
template <class Traits>
__device__ __forceinline__ void write_rows(const ForwardArgs& args, const typename Traits::Shared& smem,
                                           const Assignment& work, int warp_row, float factor, RowState& state,
                                           Accumulator<Traits>& acc) {
  using T = typename Traits::Element;
  const lacuna_forward_params& p = args.params;
  const QueryTile& tile = tile_of<Traits>(work, smem);
  quad_sum(state.sum);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = fragment_row(warp_row, r);
    const RowResult result = row_result(p, tile.head, work.split, factor, state.maximum[r], state.sum[r]);
    const float inverse = result.factor;
    if (row < 0 || row >= lengths_of<Traits>(p, smem).q_len) continue;
    const int to = Traits::kRagged ? smem.source.sequence.q_first + row : row;
    if (thread_index() % 4 == 0) write_lse(p, work.split, tile.batch, tile.head, to, result.lse);
    if (p.splits > 1) {
      write_row<Traits>(p.partial_out + partial_row(p, work.split, tile.batch, tile.head, to) * Traits::kHeadDim, acc,
                        r, inverse);
    } else {
      write_row<Traits>(static_cast<T*>(p.out) + tile.batch * p.out_stride.batch + tile.head * p.out_stride.head +
                            to * p.out_stride.seq,
                        acc, r, inverse, args.out_pairs);
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    forward_kernel(const __grid_constant__ ForwardArgs args) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kSlots = Traits::kSlots;
  const lacuna_forward_params& p = args.params;
  const Assignment work = assignment<Traits::kRagged>(args, block_index(), Traits::kTileRows);
  if (!work.valid) return;
  const QueryTile& tile = work.tile;
  auto& smem = shared<typename Traits::Shared>();
  const auto& lengths = lengths_of<Traits>(p, smem);
  const int warp = thread_index() / 32;

  const T* q = static_cast<const T*>(p.q) + tile.batch * p.q_stride.batch + tile.head * p.q_stride.head +
               (Traits::kRagged ? work.sequence.q_first * p.q_stride.seq : 0);
  const T* k = static_cast<const T*>(p.k) + tile.kv_head * p.k_stride.head;
  const T* v = static_cast<const T*>(p.v) + tile.kv_head * p.v_stride.head;
  const auto load_tile = [&](int stage, const KeyTile<kSlots>& keys) {
    load_slots<Traits::kThreads, kDim>(smem.k[stage], k, p.k_stride, keys, lengths.kv_len, args.k_vectors);
    load_slots<Traits::kThreads, kDim>(smem.v[stage], v, p.v_stride, keys, lengths.kv_len, args.v_vectors);
  };

  if (thread_index() == 0) {
    smem.source.start(p, tile, work.sequence, work.schedule_row, work.split);
    smem.source.next(p, smem.keys[0]);
    smem.source.next(p, smem.keys[1]);
  }
  load_queries<Traits::kThreads, kDim, Traits::kTileRows>(smem.q, q, p.q_stride.seq, tile.first_row,
                                                          work.sequence.q_len, args.q_vectors);
  cp_async_commit();
  sync_threads();
  if (smem.keys[0].key[0] >= 0) load_tile(0, smem.keys[0]);
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

  const ScoreRule rule = score_rule(p);
  const auto warp_row = [&] { return tile_of<Traits>(work, smem).first_row + warp * kGroupRows; };
  // With lengths on the device it is found anew for each tile: two registers less.
  const auto unmasked_keys = [&] { return common_keys(lengths, p.mask, warp_row()); };
  const KeyRange always = Traits::kRagged ? KeyRange{0, 0} : unmasked_keys();
  RowState state = empty_rows();
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

    float scores[kSlots][2][4];
    const KeyRange unmasked = Traits::kRagged ? unmasked_keys() : always;
    bool any = false;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      if ((keys.rows[slot] >> warp & 1) != 0) {
        any = true;
        query_key<Traits>(scores[slot], query, smem, stage, slot, warp);
        if (rule.transform) {
#pragma unroll
          for (int i = 0; i < 8; ++i) scores[slot][i >> 2][i & 3] = transformed(rule, scores[slot][i >> 2][i & 3]);
        }
        const int key = keys.key[slot];
        if (key < unmasked.low || key + kSlotKeys > unmasked.high)
          mask_slot(scores[slot], lengths, p.mask, warp_row(), key);
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) scores[slot][i >> 2][i & 3] = minus_infinity();
      }
    }
    if (any) {
      float rescale[2];
      softmax_step(reinterpret_cast<float(&)[8 * kSlots]>(scores), rule.factor, state, rescale);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc.o[n][i] *= rescale[i >> 1];
      }
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        if ((keys.rows[slot] >> warp & 1) != 0) probability_value<Traits>(acc, scores[slot], smem, stage, slot);
      }
    }
  }
  cp_async_wait<0>();
  write_rows<Traits>(args, smem, work, warp_row(), rule.factor, state, acc);
}

}  // namespace sm80
}  // namespace LACUNA_NS
