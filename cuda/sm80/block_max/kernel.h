// The largest attention probability of each block of queries and keys, given the rows' LSE: the second of two passes
// over Q K^T, without V (the first one, attention itself, yields the LSE). Its shape is that of the portable forward
// kernel, whose fragments it uses.
//
// A thread block owns the map's rows of 64 query rows (128 if a query block has as many) of one map head. It walks
// their visible keys once for each query head of the group and each 64 rows, and one thread owns each cell: maxima meet
// in a fixed place, without atomics. Probabilities rise with scores, so a row takes the maximum of its raw scores, and
// one exponential serves a whole block.
#pragma once

#include "ptx/maximum.h"
#include "sm80/block_max/traits.h"
#include "sm80/forward/kernel.h"

namespace LACUNA_NS {
namespace sm80 {

// Where a thread block works.
struct BlockMaxWork {
  int batch;
  int map_head;
  int q_tile;
  int first_row;  // call row of its row 0; negative when absolute blocks start before the first query
  int begin;      // first key that it visits, a multiple of the key tile and of block_k
  int steps;      // key tiles that it visits
  int sub_tiles;  // pieces of 64 query rows
};

template <class Traits>
__device__ __forceinline__ BlockMaxWork block_max_work(const BlockMaxArgs& args, int index) {
  const lacuna_block_max_params& p = args.params;
  BlockMaxWork work;
  work.q_tile = args.q_tiles - 1 - index % args.q_tiles;  // the last one sees most
  index /= args.q_tiles;
  work.map_head = index % p.heads;
  work.batch = index / p.heads;
  work.sub_tiles = p.block_q > Traits::kTileRows ? p.block_q / Traits::kTileRows : 1;
  const int rows = Traits::kTileRows * work.sub_tiles;
  work.first_row = work.q_tile * rows - p.row_shift;
  const KeyRange range = visible_to_rows(p.shape, p.mask, work.first_row, rows);
  const int unit = p.block_k > Traits::kTileKeys ? p.block_k : Traits::kTileKeys;
  work.begin = range.low / unit * unit;
  work.steps = range.low < range.high ? (range.high - work.begin + Traits::kTileKeys - 1) / Traits::kTileKeys : 0;
  return work;
}

// What a lane knows of its two fragment rows.
struct BlockMaxRows {
  float lse[2];
  bool live[2];  // the row exists and attends to something
};

__device__ __forceinline__ BlockMaxRows block_max_rows(const lacuna_block_max_params& p, int batch, int head,
                                                       int warp_row) {
  BlockMaxRows rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = fragment_row(warp_row, r);
    const bool present = row >= 0 && row < p.shape.q_len;
    rows.lse[r] = present ? p.lse[batch * p.lse_stride.batch + head * p.lse_stride.head + row * p.lse_stride.seq]
                          : minus_infinity();
    rows.live[r] = rows.lse[r] != minus_infinity();
  }
  return rows;
}

// Adds the scores of a slot that the lane's rows see to their maxima. `masked`: some row may not see all of it.
__device__ __forceinline__ void add_slot(float (&best)[2], const float (&scores)[2][4],
                                         const lacuna_block_max_params& p, int warp_row, int first_key, bool masked) {
  const int column = first_key + 2 * (thread_index() % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    KeyRange range{first_key, first_key + kSlotKeys};
    if (masked) {
      const int64_t position = key_position(p.shape, fragment_row(warp_row, r));
      range = visible_keys(p.mask, p.shape.kv_len, position, position);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = column + 8 * (i >> 1) + (i & 1);
      const float score = scores[i >> 1][2 * r + (i & 1)];
      if (key >= range.low && key < range.high) best[r] = max_keeping_nan(best[r], p.scale < 0.0f ? -score : score);
    }
  }
}

// The probability of a row's best score, 0 if it has none. One rounding before the exponential: the difference is
// small where it matters.
__device__ __forceinline__ float best_probability(float best, float scale, float lse, bool live) {
  if (!live || best == minus_infinity()) return 0.0f;
  return ex2(product(fused(best, scale, -lse), kLog2E));
}

// Writes the maxima of block `block` of a key tile: one for each row (block_q 1), or one for the warp.
__device__ __forceinline__ void write_maxima(float* maxima, int slots, const lacuna_block_max_params& p,
                                             const BlockMaxRows& rows, const float (&best)[2], int block) {
  const float scale = p.scale < 0.0f ? -p.scale : p.scale;
  const int warp = thread_index() / 32;
  float probability[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) probability[r] = best_probability(best[r], scale, rows.lse[r], rows.live[r]);
  if (p.block_q > 1) {
    const float largest = warp_max_keeping_nan(max_keeping_nan(probability[0], probability[1]));
    if (thread_index() % 32 == 0) maxima[warp * slots + block] = largest;
    return;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float largest = quad_max_keeping_nan(probability[r]);
    if (thread_index() % 4 == 0) maxima[fragment_row(warp * kGroupRows, r) * slots + block] = largest;
  }
}

// Moves the maxima of a key tile into the map: the first ones are stored, later ones (of other query heads, of the next
// 64 rows, of the rest of a block that is longer than the tile) join what the same thread left there.
template <class Traits>
__device__ __forceinline__ void merge_maxima(const BlockMaxArgs& args, const BlockMaxWork& work, const float* maxima,
                                             float* map, int pass, int first_key) {
  const lacuna_block_max_params& p = args.params;
  const int cell_rows = p.block_q < Traits::kTileRows ? p.block_q : Traits::kTileRows;
  const int cells = Traits::kTileRows / cell_rows;
  const int units = cell_rows < kGroupRows ? 1 : cell_rows / kGroupRows;
  const int blocks = p.block_k < Traits::kTileKeys ? Traits::kTileKeys / p.block_k : 1;
  const bool first = pass == 0 && first_key % p.block_k == 0;
  for (int i = thread_index(); i < cells * blocks; i += Traits::kThreads) {
    const int cell = i / blocks;
    const int block = i % blocks;
    const int q_block = work.q_tile * cells + cell;
    const int kv_block = first_key / p.block_k + block;
    if (q_block >= args.q_blocks || kv_block >= args.kv_blocks) continue;
    float largest = maxima[cell * units * Traits::kSlots + block];
    for (int unit = 1; unit < units; ++unit) {
      largest = max_keeping_nan(largest, maxima[(cell * units + unit) * Traits::kSlots + block]);
    }
    float* const to = map + static_cast<int64_t>(q_block) * args.kv_blocks + kv_block;
    *to = first ? largest : max_keeping_nan(*to, largest);
  }
}

// Zeros for the blocks of this thread block's rows that it does not visit.
template <class Traits>
__device__ __forceinline__ void clear_unvisited(const BlockMaxArgs& args, const BlockMaxWork& work, float* map) {
  const lacuna_block_max_params& p = args.params;
  const int cells = p.block_q < Traits::kTileRows ? Traits::kTileRows / p.block_q : 1;
  const int low = work.begin / p.block_k;
  const int high = (work.begin + work.steps * Traits::kTileKeys + p.block_k - 1) / p.block_k;
  for (int cell = 0; cell < cells; ++cell) {
    const int q_block = work.q_tile * cells + cell;
    if (q_block >= args.q_blocks) break;
    float* const row = map + static_cast<int64_t>(q_block) * args.kv_blocks;
    for (int i = thread_index(); i < args.kv_blocks; i += Traits::kThreads) {
      if (i < low || i >= high) row[i] = 0.0f;
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    block_max_kernel(const __grid_constant__ BlockMaxArgs args) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kKeys = Traits::kTileKeys;
  const lacuna_block_max_params& p = args.params;
  const BlockMaxWork work = block_max_work<Traits>(args, block_index());
  auto& smem = shared<typename Traits::Shared>();
  const int warp = thread_index() / 32;
  const int group = p.shape.q_heads / p.heads;
  float* const map =
      p.map + (static_cast<int64_t>(work.batch) * p.heads + work.map_head) * args.q_blocks * args.kv_blocks;
  clear_unvisited<Traits>(args, work, map);
  if (work.steps == 0) return;

  for (int pass = 0; pass < group * work.sub_tiles; ++pass) {
    const int head = work.map_head * group + pass / work.sub_tiles;
    const int kv_head = static_cast<int>(static_cast<int64_t>(head) * p.shape.kv_heads / p.shape.q_heads);
    const int first_row = work.first_row + pass % work.sub_tiles * Traits::kTileRows;
    const T* q = static_cast<const T*>(p.q) + work.batch * p.q_stride.batch + head * p.q_stride.head;
    const T* k = static_cast<const T*>(p.k) + work.batch * p.k_stride.batch + kv_head * p.k_stride.head;
    const auto load_keys = [&](int step) {
      load_queries<Traits::kThreads, kDim, kKeys>(smem.k[step % Traits::kStages], k, p.k_stride.seq,
                                                  work.begin + step * kKeys, p.shape.kv_len, args.k_vectors);
    };
    load_queries<Traits::kThreads, kDim, Traits::kTileRows>(smem.q, q, p.q_stride.seq, first_row, p.shape.q_len,
                                                            args.q_vectors);
    load_keys(0);
    cp_async_commit();
    const int warp_row = first_row + warp * kGroupRows;
    const BlockMaxRows rows = block_max_rows(p, work.batch, head, warp_row);
    const KeyRange visible = visible_to_rows(p.shape, p.mask, warp_row, kGroupRows);
    const KeyRange common = common_keys(p.shape, p.mask, warp_row);
    cp_async_wait<0>();
    sync_threads();
    uint32_t query[kDim / 16][4];
    if constexpr (Traits::kTile.keep_query) {
      uint32_t address[kDim / 16];
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) address[i] = piece_address<kDim, false>(smem.q, warp * kGroupRows, 16 * i);
      ldmatrix_x4<false>(query, address);
    }

    for (int step = 0; step < work.steps; ++step) {
      // This tile has landed for everyone, and everyone has left the other stage and written its maxima.
      cp_async_wait<0>();
      sync_threads();
      if (step + 1 < work.steps) load_keys(step + 1);
      cp_async_commit();
      const int first_key = work.begin + step * kKeys;
      if (step > 0) merge_maxima<Traits>(args, work, &smem.maxima[(step - 1) % 2][0][0], map, pass, first_key - kKeys);
      sync_warp();

      float best[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
      for (int slot = 0; slot < Traits::kSlots; ++slot) {
        const int key = first_key + slot * kSlotKeys;
        if (overlaps(visible, key, kSlotKeys)) {
          float scores[2][4];
          query_key<Traits>(scores, query, smem, step % Traits::kStages, slot, warp);
          add_slot(best, scores, p, warp_row, key, key < common.low || key + kSlotKeys > common.high);
        }
        if ((key + kSlotKeys) % p.block_k == 0 || slot == Traits::kSlots - 1) {
          write_maxima(&smem.maxima[step % 2][0][0], Traits::kSlots, p, rows, best, slot * kSlotKeys / p.block_k);
          best[0] = best[1] = minus_infinity();
        }
      }
    }
    cp_async_wait<0>();
    sync_threads();
    const int last = work.steps - 1;
    merge_maxima<Traits>(args, work, &smem.maxima[last % 2][0][0], map, pass, work.begin + last * kKeys);
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
