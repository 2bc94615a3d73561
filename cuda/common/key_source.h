// The keys of a query tile, in the form the kernels eat: tiles of kSlots slots, each 16 consecutive keys with the
// 16-row groups that want them. Blocks of any size, from a formula or from a schedule's entries, become slots; slots
// that no row of the tile can see are left out.
#pragma once

#include "common/block_formula.h"

namespace LACUNA_NS {

constexpr int kSlotKeys = 16;

template <int kSlots>
struct KeyTile {
  int key[kSlots];        // first key of the slot; -1: empty
  uint32_t rows[kSlots];  // bit r: rows [16 r, 16 r + 16) of the query tile want it
};

// A cursor over the keys of a query tile. It lives in shared memory and one thread moves it, ahead of the tiles that
// the others multiply: that keeps its state out of every thread's registers.
template <int kTileRows>
struct KeySource {
  QueryTile tile;
  KeyRange visible;  // to some row of the tile
  int groups;        // plan query blocks in the tile
  int at;            // formula: next candidate block; lists: next entry
  int end;
  int key;  // next slot of the current block
  int key_end;
  uint32_t rows;      // who wants the current block
  uint32_t existing;  // row groups that hold a row of the sequence

  // Split `split` of params.splits of the tile's keys. `schedule_row` is for list plans.
  __device__ __forceinline__ void start(const lacuna_forward_params& p, const QueryTile& query_tile, int schedule_row,
                                        int split) {
    tile = query_tile;
    visible = visible_to_rows(p.shape, p.mask, tile.first_row, kTileRows);
    groups = p.plan.block_q < kTileRows ? kTileRows / p.plan.block_q : 1;
    at = end = key = key_end = 0;
    rows = existing = 0;
    for (int r = 0; r < kTileRows / kGroupRows; ++r) {
      const int row = tile.first_row + r * kGroupRows;
      if (row + kGroupRows > 0 && row < p.shape.q_len) existing |= 1u << r;
    }
    if (visible.low >= visible.high) return;
    int64_t first;
    int64_t count;
    if (p.plan.kind == LACUNA_PLAN_FORMULA) {
      first = visible.low / p.plan.block_k;
      count = (visible.high + p.plan.block_k - 1) / p.plan.block_k - first;
    } else {
      first = p.schedule.offsets[schedule_row];
      count = p.schedule.offsets[schedule_row + 1] - first;
    }
    at = static_cast<int>(first + count * split / p.splits);
    end = static_cast<int>(first + count * (split + 1) / p.splits);
  }

  // Fills the next tile; keys.key[0] is -1 when no key is left.
  template <int kSlots>
  __device__ __forceinline__ void next(const lacuna_forward_params& p, KeyTile<kSlots>& keys) {
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      const bool more = key < key_end || next_block(p);
      keys.key[slot] = more ? key : -1;
      keys.rows[slot] = more ? rows : 0;
      key += more ? kSlotKeys : 0;
    }
  }

  // Steps to the next block with a visible slot.
  __device__ __forceinline__ bool next_block(const lacuna_forward_params& p) {
    BlockEntry entry;
    while (next_entry(p, entry)) {
      const int first = entry.block * p.plan.block_k;
      const int low = visible.low / kSlotKeys * kSlotKeys;
      key = first > low ? first : low;
      key_end = first + p.plan.block_k < visible.high ? first + p.plan.block_k : visible.high;
      if (key >= key_end) continue;
      rows = rows_of_groups(entry.groups);
      return true;
    }
    return false;
  }

  __device__ __forceinline__ bool next_entry(const lacuna_forward_params& p, BlockEntry& entry) {
    if (p.plan.kind == LACUNA_PLAN_FORMULA) {
      FormulaWalk walk{at, end, formula_shift(p.plan.formula, tile.plan_head), p.plan.first_row + tile.first_block};
      const bool more = formula_next(p.shape, p.mask, p.plan, tile, groups, walk, entry);
      at = walk.next;
      return more;
    }
    if (at >= end) return false;
    const uint32_t packed = p.schedule.entries[at++];
    entry.block = static_cast<int>(packed >> 8);
    entry.groups = packed & 0xffu;
    return true;
  }

  __device__ __forceinline__ uint32_t rows_of_groups(uint32_t wanting) const {
    constexpr int kRowGroups = kTileRows / kGroupRows;
    const int per_group = kRowGroups / groups;
    uint32_t wanted = 0;
    for (int r = 0; r < kRowGroups; ++r) wanted |= (wanting >> (r / per_group) & 1u) << r;
    return wanted & existing;
  }
};

}  // namespace LACUNA_NS
