// Walking a formula plan: the blocks it names, in ascending order, without index memory. One thread walks while the
// others multiply: loops stay rolled, since an unrolled one would take registers from all of them.
#pragma once

#include "common/query_tile.h"

namespace LACUNA_NS {

// A block of keys and the row groups that want it: bit g for plan query block first_block + g of the tile.
struct BlockEntry {
  int block;
  uint32_t groups;
};

struct FormulaWalk {
  int next;  // candidate KV block
  int end;
  int shift;        // (block or distance + shift) % vertical_stride == 0: vertical
  int first_query;  // absolute query block of group 0
};

__host__ __device__ __forceinline__ bool formula_is_dense(const lacuna_block_formula& formula, int plan_head) {
  return formula.vertical_stride <= 1 || plan_head >= formula.dense_from;
}

__host__ __device__ __forceinline__ int formula_shift(const lacuna_block_formula& formula, int plan_head) {
  const int64_t slides = plan_head / formula.heads_per_step;
  return static_cast<int>((slides * formula.head_step + formula.head_offset) % formula.vertical_stride);
}

// Blocks between KV block `block` and the window of query block `query`, 0 inside; both sides of an empty window count.
__host__ __device__ __forceinline__ int formula_distance(const lacuna_block_formula& formula, int query, int block) {
  const int64_t left = static_cast<int64_t>(query) - block - formula.local_blocks + 1;
  const int64_t right = static_cast<int64_t>(block) - query - formula.local_after;
  return static_cast<int>((left > 0 ? left : 0) + (right > 0 ? right : 0));
}

// Does query block `query` (absolute) attend KV block `block`, the token mask aside?
__host__ __device__ __forceinline__ bool formula_attends(const lacuna_block_formula& formula, bool dense, int shift,
                                                         int query, int block) {
  if (dense || block < formula.sink_blocks) return true;
  if (block <= query ? query - block < formula.local_blocks : block - query <= formula.local_after) return true;
  // Blocks and distances are below 2^31, as the shift is.
  const uint32_t at = formula.relative != 0 ? formula_distance(formula, query, block) : block;
  return (at + static_cast<uint32_t>(shift)) % static_cast<uint32_t>(formula.vertical_stride) == 0;
}

// The first block >= `block` that query block `query` attends by the window or by its distance from it, or one before
// it that it does not attend.
__host__ __device__ __forceinline__ int64_t formula_skip_relative(const lacuna_block_formula& formula, int shift,
                                                                  int query, int64_t block) {
  const uint32_t stride = static_cast<uint32_t>(formula.vertical_stride);
  const int64_t window = static_cast<int64_t>(query) - formula.local_blocks + (formula.local_after < 0 ? 0 : 1);
  const uint32_t excess =
      (formula_distance(formula, query, static_cast<int>(block)) + static_cast<uint32_t>(shift)) % stride;
  if (block < window) return block + excess < window ? block + excess : window;
  if (excess == 0 || block <= static_cast<int64_t>(query) + (formula.local_after > 0 ? formula.local_after : 0)) {
    return block;
  }
  return block + (stride - excess);
}

// The first block >= `block` that some query block in [first, last] attends, or one before it that none does.
__host__ __device__ __forceinline__ int formula_skip(const lacuna_block_formula& formula, int shift, int first,
                                                     int last, int block) {
  if (block < formula.sink_blocks) return block;
  const int64_t here = block;
  int64_t next = 0x7fffffff;
  if (formula.relative != 0) {
#pragma unroll 1
    for (int query = first; query <= last; ++query) {
      const int64_t own = formula_skip_relative(formula, shift, query, here);
      next = own < next ? own : next;
    }
    return static_cast<int>(next);
  }
  const int64_t remainder = (here + shift) % formula.vertical_stride;
  const int64_t column = remainder == 0 ? here : here + formula.vertical_stride - remainder;
  next = column < next ? column : next;
  const int64_t right = formula.local_after > 0 ? formula.local_after : 0;
  if (formula.local_blocks + right > 0 && block <= last + right) {
    const int64_t local = static_cast<int64_t>(first) - formula.local_blocks + 1;
    const int64_t from = local > block ? local : block;
    next = from < next ? from : next;
  }
  return static_cast<int>(next);
}

// Next block of the walk that some row group wants and can see; false at the end. `groups` query blocks of
// plan.block_q rows each belong to the tile.
template <class Lengths>
__host__ __device__ __forceinline__ bool formula_next(const Lengths& lengths, const lacuna_mask& mask,
                                                      const lacuna_block_plan& plan, const QueryTile& tile, int groups,
                                                      FormulaWalk& walk, BlockEntry& entry) {
  const lacuna_block_formula& formula = plan.formula;
  const bool dense = formula_is_dense(formula, tile.plan_head);
  while (walk.next < walk.end) {
    if (!dense) {
      walk.next = formula_skip(formula, walk.shift, walk.first_query, walk.first_query + groups - 1, walk.next);
      if (walk.next >= walk.end) return false;
    }
    entry.block = walk.next++;
    entry.groups = 0;
#pragma unroll 1
    for (int g = 0; g < groups; ++g) {
      if (!formula_attends(formula, dense, walk.shift, walk.first_query + g, entry.block)) continue;
      const KeyRange range = visible_to_rows(lengths, mask, tile.first_row + g * plan.block_q, plan.block_q);
      if (overlaps(range, entry.block * plan.block_k, plan.block_k)) entry.groups |= 1u << g;
    }
    if (entry.groups != 0) return true;
  }
  return false;
}

}  // namespace LACUNA_NS
