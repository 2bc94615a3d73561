// The queries of a column, in the form the key kernel eats: tiles of kSlots slots, each 16 consecutive rows of one
// query head with the 16-key groups that they attend. The mirror image of key_source.h.
#pragma once

#include "common/column.h"

namespace LACUNA_NS {

template <int kSlots>
struct QuerySlots {
  int row[kSlots];        // first row of the slot, counted from the start of query block 0; -1: empty
  int head[kSlots];       // query head
  uint32_t keys[kSlots];  // bit g: keys [16 g, 16 g + 16) of the column are attended
};

// A cursor over a part of a column's positions. It lives in shared memory and one thread moves it, ahead of the tiles
// that the others multiply: loops stay rolled, since an unrolled one would take registers from all of them.
struct QuerySource {
  Column column;
  Range visible;      // plan rows that see some key of the column
  uint32_t existing;  // groups that hold a key
  int64_t left;       // positions of the part that are still to come, with those of this head
  int head;           // query head
  int head_end;
  int at;  // next entry of the head: a query block of a formula, a place in a list
  int end;
  Range blocks[kColumnGroups];  // formula: the query blocks that attend each KV block of the column
  int row;                      // next slot of the current query block
  int row_end;
  uint32_t keys;  // groups that the current query block attends

  // Part `piece` of `pieces` of the column.
  __device__ __forceinline__ void start(const lacuna_forward_params& p, const BackwardSchedule& schedule,
                                        const Column& of, int piece, int pieces) {
    column = of;
    const int first_key = column.tile * kColumnKeys;
    visible = visible_plan_rows(p.shape, p.mask, p.plan, first_key, kColumnKeys);
    existing = 0;
    for (int g = 0; g < kColumnGroups; ++g) existing |= (first_key + g * kGroupRows < p.shape.kv_len ? 1u : 0u) << g;
    const int group = p.shape.q_heads / p.shape.kv_heads;
    head = column.kv_head * group;
    head_end = head + group;
    row = row_end = 0;
    keys = 0;
    const int64_t length = column_length(p.shape, p.mask, p.plan, schedule, column);
    const int64_t begin = length / pieces * piece + length % pieces * piece / pieces;
    left = length / pieces * (piece + 1) + length % pieces * (piece + 1) / pieces - begin;
    enter_head(p, schedule);
    skip(p, schedule, begin);
  }

  __device__ __forceinline__ void enter_head(const lacuna_forward_params& p, const BackwardSchedule& schedule) {
    const int plan_head = plan_head_of(p.shape, p.plan, head);
    const Range entries = column_entries(p.shape, p.mask, p.plan, schedule, column, plan_head);
    at = entries.low;
    end = entries.high;
    if (p.plan.kind != LACUNA_PLAN_FORMULA) return;
    const int first = static_cast<int>(static_cast<int64_t>(column.tile) * kColumnKeys / p.plan.block_k);
#pragma unroll 1
    for (int i = 0; i < column_blocks(p.plan); ++i) {
      blocks[i] = formula_column(p.shape, p.mask, p.plan, plan_head, first + i);
    }
  }

  __device__ __forceinline__ void skip(const lacuna_forward_params& p, const BackwardSchedule& schedule,
                                       int64_t positions) {
    while (positions >= end - at && head + 1 < head_end) {
      positions -= end - at;
      ++head;
      enter_head(p, schedule);
    }
    at += static_cast<int>(positions);
  }

  // Fills the next tile; tile.row[0] is -1 when no query is left.
  template <int kSlots>
  __device__ __forceinline__ void next(const lacuna_forward_params& p, const BackwardSchedule& schedule,
                                       QuerySlots<kSlots>& tile) {
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      const bool more = row < row_end || next_block(p, schedule);
      tile.row[slot] = more ? row : -1;
      tile.head[slot] = head;
      tile.keys[slot] = more ? keys : 0;
      row += more ? kGroupRows : 0;
    }
  }

  // Steps to the next query block with a row that sees a key of the column.
  __device__ __forceinline__ bool next_block(const lacuna_forward_params& p, const BackwardSchedule& schedule) {
    while (left > 0) {
      if (at >= end) {
        if (++head >= head_end) return false;
        enter_head(p, schedule);
        continue;
      }
      --left;
      int block;
      const uint32_t wanted = next_entry(p, schedule, block);
      keys = keys_of_blocks(p.plan, wanted);
      if (keys == 0) continue;
      const int first = block * p.plan.block_q;
      const int low = visible.low / kGroupRows * kGroupRows;
      row = first > low ? first : low;
      row_end = first + p.plan.block_q < visible.high ? first + p.plan.block_q : visible.high;
      if (row < row_end) return true;
    }
    return false;
  }

  // The KV blocks of the column that the next entry's query block attends.
  __device__ __forceinline__ uint32_t next_entry(const lacuna_forward_params& p, const BackwardSchedule& schedule,
                                                 int& block) {
    if (p.plan.kind == LACUNA_PLAN_FORMULA) {
      block = at++;
      uint32_t wanted = 0;
#pragma unroll 1
      for (int i = 0; i < column_blocks(p.plan); ++i) {
        wanted |= (block >= blocks[i].low && block < blocks[i].high && attends(p, block, i) ? 1u : 0u) << i;
      }
      return wanted;
    }
    const uint32_t packed = schedule.entries[at++];
    block = static_cast<int>(packed >> 8);
    return block < plan_query_blocks(p.plan, p.shape.q_len) ? packed & 0xffu : 0;
  }

  // Whether a query block between those that attend the i-th KV block of the column does so itself.
  __device__ __forceinline__ bool attends(const lacuna_forward_params& p, int block, int i) const {
    const lacuna_block_formula& formula = p.plan.formula;
    if (formula.relative == 0) return true;
    const int plan_head = plan_head_of(p.shape, p.plan, head);
    const int kv_block = static_cast<int>(static_cast<int64_t>(column.tile) * kColumnKeys / p.plan.block_k) + i;
    return formula_attends(formula, formula_is_dense(formula, plan_head), formula_shift(formula, plan_head),
                           p.plan.first_row + block, kv_block);
  }

  __device__ __forceinline__ uint32_t keys_of_blocks(const lacuna_block_plan& plan, uint32_t wanted) const {
    const int per_block = kColumnGroups / column_blocks(plan);
    uint32_t groups = 0;
    for (int g = 0; g < kColumnGroups; ++g) groups |= (wanted >> (g / per_block) & 1u) << g;
    return groups & existing;
  }
};

}  // namespace LACUNA_NS
