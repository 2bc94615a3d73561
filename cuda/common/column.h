// A column of the backward pass: 64 keys of one sequence and KV head, and the entries (query blocks) that attend it.
#pragma once

#include "common/backward_memory.h"
#include "common/block_formula.h"

namespace LACUNA_NS {

constexpr int kColumnGroups = kColumnKeys / kGroupRows;  // 16-key groups: the finest KV block

struct Column {
  int batch;
  int kv_head;
  int tile;
};

__device__ __forceinline__ Column column_at(const lacuna_shape& shape, const BackwardSchedule& schedule, int index) {
  const int head = index / schedule.tiles;
  return Column{head / shape.kv_heads, head % shape.kv_heads, index % schedule.tiles};
}

__device__ __forceinline__ int plan_head_of(const lacuna_shape& shape, const lacuna_block_plan& plan, int head) {
  return static_cast<int>(static_cast<int64_t>(head) * plan.heads / shape.q_heads);
}

// Rows, entries or blocks [low, high).
struct Range {
  int low;
  int high;
};

// Call rows that see one of the keys [first, last]; the inverse of visible_keys.
__device__ __forceinline__ Range visible_rows(const lacuna_shape& shape, const lacuna_mask& mask, int first, int last) {
  const int64_t shift = static_cast<int64_t>(shape.kv_len) - shape.q_len;
  int64_t low = 0;
  int64_t high = shape.q_len;
  if (mask.causal != 0 && first - shift > low) low = first - shift;
  if (mask.window_right >= 0 && first - shift - mask.window_right > low) low = first - shift - mask.window_right;
  if (mask.window_left >= 0 && last - shift + mask.window_left + 1 < high) high = last - shift + mask.window_left + 1;
  if (high < low) high = low;
  return Range{low > shape.q_len ? shape.q_len : static_cast<int>(low), high < 0 ? 0 : static_cast<int>(high)};
}

// The same, as rows counted from the start of query block 0.
__device__ __forceinline__ Range visible_plan_rows(const lacuna_shape& shape, const lacuna_mask& mask,
                                                   const lacuna_block_plan& plan, int first_key, int keys) {
  const int end = first_key + keys < shape.kv_len ? first_key + keys : shape.kv_len;
  const Range rows = first_key < end ? visible_rows(shape, mask, first_key, end - 1) : Range{0, 0};
  return rows.low < rows.high ? Range{rows.low + plan.row_shift, rows.high + plan.row_shift} : Range{0, 0};
}

// Query blocks of a formula plan that attend KV block `block`. They follow each other, but for columns relative to the
// window: then these are all that see the block, and formula_attends has the last word.
__device__ __forceinline__ Range formula_column(const lacuna_shape& shape, const lacuna_mask& mask,
                                                const lacuna_block_plan& plan, int plan_head, int block) {
  const lacuna_block_formula& formula = plan.formula;
  const Range rows = visible_plan_rows(shape, mask, plan, block * plan.block_k, plan.block_k);
  if (rows.low >= rows.high) return Range{0, 0};
  int64_t low = rows.low / plan.block_q;
  int64_t high = (rows.high + plan.block_q - 1) / plan.block_q;
  const bool whole = formula_is_dense(formula, plan_head) || block < formula.sink_blocks || formula.relative != 0 ||
                     (block + static_cast<int64_t>(formula_shift(formula, plan_head))) % formula.vertical_stride == 0;
  if (!whole) {
    const int64_t diagonal = static_cast<int64_t>(block) - plan.first_row;
    const int64_t local_start = diagonal - (formula.local_after > 0 ? formula.local_after : 0);
    const int64_t local_end = diagonal + formula.local_blocks;
    low = local_start > low ? local_start : low;
    high = local_end < high ? local_end : high;
  }
  return low < high ? Range{static_cast<int>(low), static_cast<int>(high)} : Range{0, 0};
}

// KV blocks that a column holds, or lies in.
__device__ __forceinline__ int column_blocks(const lacuna_block_plan& plan) {
  return plan.block_k < kColumnKeys ? kColumnKeys / plan.block_k : 1;
}

// The entries of a column that are those of plan head `plan_head`: query blocks of a formula, places in a list.
__device__ __forceinline__ Range column_entries(const lacuna_shape& shape, const lacuna_mask& mask,
                                                const lacuna_block_plan& plan, const BackwardSchedule& schedule,
                                                const Column& column, int plan_head) {
  if (plan.kind == LACUNA_PLAN_LISTS) {
    const int64_t head = (plan.plan_batch == 1 ? 0 : static_cast<int64_t>(column.batch) * plan.heads) + plan_head;
    const int64_t row = head * schedule.units + column.tile / (schedule.unit / kColumnKeys);
    const int low = schedule.offsets[row] < 0 ? 0 : schedule.offsets[row];
    const int high = schedule.offsets[row + 1] > schedule.capacity ? schedule.capacity : schedule.offsets[row + 1];
    return low < high ? Range{low, high} : Range{0, 0};
  }
  const int blocks = column_blocks(plan);
  const int first = static_cast<int>(static_cast<int64_t>(column.tile) * kColumnKeys / plan.block_k);
  Range all{0x7fffffff, 0};
#pragma unroll 1
  for (int i = 0; i < blocks; ++i) {
    const Range one = formula_column(shape, mask, plan, plan_head, first + i);
    if (one.low >= one.high) continue;
    all.low = one.low < all.low ? one.low : all.low;
    all.high = one.high > all.high ? one.high : all.high;
  }
  return all.low < all.high ? all : Range{0, 0};
}

// Positions of a column: entries of all query heads of its group.
__device__ __forceinline__ int64_t column_length(const lacuna_shape& shape, const lacuna_mask& mask,
                                                 const lacuna_block_plan& plan, const BackwardSchedule& schedule,
                                                 const Column& column) {
  const int group = shape.q_heads / shape.kv_heads;
  const int first = column.kv_head * group;
  if (plan.heads <= shape.kv_heads) {
    const Range entries = column_entries(shape, mask, plan, schedule, column, plan_head_of(shape, plan, first));
    return static_cast<int64_t>(entries.high - entries.low) * group;
  }
  int64_t length = 0;
#pragma unroll 1
  for (int head = first; head < first + group; ++head) {
    const Range entries = column_entries(shape, mask, plan, schedule, column, plan_head_of(shape, plan, head));
    length += entries.high - entries.low;
  }
  return length;
}

}  // namespace LACUNA_NS
