// The keys of a query tile, in the form the kernels eat: tiles of kSlots slots, each 16 consecutive keys with the
// 16-row groups that want them. Blocks of any size, from a formula or from a schedule's entries, become slots; slots
// that no row of the tile can see, or whose page is not there, are left out.
#pragma once

#include "common/block_formula.h"
#include "common/key_place.h"
#include "common/sequence.h"

namespace LACUNA_NS {

template <int kSlots>
struct KeyTile {
  int key[kSlots];         // first key of the slot; -1: empty
  uint32_t rows[kSlots];   // bit r: rows [16 r, 16 r + 16) of the query tile want it
  KeyPlace place[kSlots];  // where the slot's keys lie in k and v
};

// A cursor over the keys of a query tile; kRagged: lengths are on the device. It lives in shared memory and one thread
// moves it, ahead of the tiles that the others multiply: that keeps its state out of every thread's registers.
template <int kTileRows, bool kRagged = false>
struct KeySource {
  QueryTile tile;
  Sequence sequence;  // kRagged
  KeyRange visible;   // to some row of the tile
  int groups;         // plan query blocks in the tile
  int first_group;    // lists: the bit of an entry that stands for the tile's first query block
  int at;             // formula: next candidate block; lists: next entry
  int end;
  int key;  // next slot of the current block
  int key_end;
  uint32_t rows;      // who wants the current block
  uint32_t existing;  // row groups that hold a row of the sequence

  __device__ __forceinline__ const auto& lengths(const lacuna_forward_params& p) const {
    if constexpr (kRagged) {
      return sequence;
    } else {
      return p.shape;
    }
  }

  // Split `split` of params.splits of the tile's keys. `schedule_row` is for list plans; it may serve more tiles.
  __device__ __forceinline__ void start(const lacuna_forward_params& p, const QueryTile& query_tile, const Sequence& of,
                                        int schedule_row, int split) {
    tile = query_tile;
    if constexpr (kRagged) sequence = of;
    visible = visible_to_rows(lengths(p), p.mask, tile.first_row, kTileRows);
    groups = p.plan.block_q < kTileRows ? kTileRows / p.plan.block_q : 1;
    first_group = at = end = key = key_end = 0;
    rows = existing = 0;
    for (int r = 0; r < kTileRows / kGroupRows; ++r) {
      const int row = tile.first_row + r * kGroupRows;
      if (row + kGroupRows > 0 && row < lengths(p).q_len) existing |= 1u << r;
    }
    if (visible.low >= visible.high) return;
    if (p.plan.kind == LACUNA_PLAN_FORMULA) {
      const int first = visible.low / p.plan.block_k;
      const int count = (visible.high + p.plan.block_k - 1) / p.plan.block_k - first;
      at = first + split_start(count, split, p.splits);
      end = first + split_start(count, split + 1, p.splits);
      return;
    }
    at = p.schedule.offsets[schedule_row];
    end = p.schedule.offsets[schedule_row + 1];
    first_group = tile.first_block % (p.schedule.tile_q / p.plan.block_q);
    if (p.splits > 1) cut_entries(p, split);
  }

  __device__ __forceinline__ static int split_start(int count, int split, int splits) {
    return static_cast<int>(static_cast<int64_t>(count) * split / splits);
  }

  // Narrows [at, end) to a split. Only the entries that this tile wants count: what a row holds for other tiles does
  // not move the cut, so the width of the schedule's rows does not show in the results.
  __device__ __forceinline__ void cut_entries(const lacuna_forward_params& p, int split) {
    int count = end - at;
    if (p.schedule.tile_q > kTileRows) {
      count = 0;
      for (int entry = at; entry < end; ++entry) count += tile_groups(p.schedule.entries[entry]) != 0 ? 1 : 0;
    }
    const int begin = split_start(count, split, p.splits);
    const int stop = split_start(count, split + 1, p.splits);
    at = entry_after(p, at, begin);
    end = entry_after(p, at, stop - begin);
  }

  // The entry after `wanted` more that this tile wants, from `entry` on.
  __device__ __forceinline__ int entry_after(const lacuna_forward_params& p, int entry, int wanted) const {
    if (p.schedule.tile_q <= kTileRows) return entry + wanted;
    for (; wanted > 0 && entry < end; ++entry) wanted -= tile_groups(p.schedule.entries[entry]) != 0 ? 1 : 0;
    return entry;
  }

  // The bits of an entry that stand for query blocks of this tile, the first at bit 0.
  __device__ __forceinline__ uint32_t tile_groups(uint32_t entry) const {
    return (entry & 0xffu) >> first_group & ((1u << groups) - 1);
  }

  // Fills the next tile; keys.key[0] is -1 when no key is left.
  template <int kSlots>
  __device__ __forceinline__ void next(const lacuna_forward_params& p, KeyTile<kSlots>& keys) {
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      const bool more = next_slot(p, keys.place[slot]);
      keys.key[slot] = more ? key : -1;
      keys.rows[slot] = more ? rows : 0;
      key += more ? kSlotKeys : 0;
    }
  }

  // Steps to the next slot that lies in a page; true: it starts at `key`.
  __device__ __forceinline__ bool next_slot(const lacuna_forward_params& p, KeyPlace& place) {
    while (key < key_end || next_block(p)) {
      place = key_place(p.shape, tile.batch, tile.kv_head, key);
      if constexpr (kRagged) place.row += sequence.k_first;
      if (place.page >= 0) return true;
      key += kSlotKeys;
    }
    return false;
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
      const int first_row = kRagged ? sequence.first_row : p.plan.first_row;
      FormulaWalk walk{at, end, formula_shift(p.plan.formula, tile.plan_head), first_row + tile.first_block};
      const bool more = formula_next(lengths(p), p.mask, p.plan, tile, groups, walk, entry);
      at = walk.next;
      return more;
    }
    while (at < end) {
      const uint32_t packed = p.schedule.entries[at++];
      entry.block = static_cast<int>(packed >> 8);
      entry.groups = tile_groups(packed);
      if constexpr (kRagged) entry.groups = seen(p, entry);
      if (entry.groups != 0) return true;
    }
    return false;
  }

  // The groups of an entry that see some of its keys: schedules leave that to the kernel where lengths are on the
  // device.
  __device__ __forceinline__ uint32_t seen(const lacuna_forward_params& p, const BlockEntry& entry) const {
    uint32_t seeing = 0;
    for (int g = 0; g < groups; ++g) {
      const KeyRange range = visible_to_rows(sequence, p.mask, tile.first_row + g * p.plan.block_q, p.plan.block_q);
      if (overlaps(range, entry.block * p.plan.block_k, p.plan.block_k)) seeing |= 1u << g;
    }
    return entry.groups & seeing;
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
