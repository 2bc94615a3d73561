// The order in which the tiles of a formula plan are started: longest work first, heads that attend to everything
// before the sparse ones, so that no long tile starts when the others are nearly done.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

// K and V of the heads that run side by side should stay in L2: 40 MB on an A100, 50 MB on an H100.
constexpr int64_t kSectionBytes = int64_t{32} << 20;

// Heads here are what shares a tile: query heads, or sets of them.
struct FormulaOrder {
  int q_tiles;     // tiles of a head and sequence
  int heads;       // of a sequence
  int dense_from;  // heads from this one on attend to everything
  int section;     // (sequence, head) pairs taken together, whose K and V fit L2
};

struct FormulaItem {
  int batch;
  int head;
  int q_tile;
};

// `heads_in_tile` query heads share a tile.
inline FormulaOrder formula_order(const lacuna_forward_params& p, int heads_in_tile, int q_tiles) {
  FormulaOrder order = {};
  order.q_tiles = q_tiles;
  order.heads = p.shape.q_heads / heads_in_tile;
  // The first head whose plan head is dense.
  const int64_t dense_from =
      p.plan.formula.vertical_stride <= 1 || p.plan.formula.dense_from < 0 ? 0 : p.plan.formula.dense_from;
  const int64_t plan_heads = static_cast<int64_t>(p.plan.heads) * heads_in_tile;
  const int64_t first = (dense_from * p.shape.q_heads + plan_heads - 1) / plan_heads;
  order.dense_from = static_cast<int>(first < order.heads ? first : order.heads);
  const int64_t kv_bytes = int64_t{4} * p.shape.kv_len * p.shape.head_dim;  // of a KV head
  const int64_t kv_heads = kv_bytes > 0 && kv_bytes < kSectionBytes ? kSectionBytes / kv_bytes : 1;
  const int64_t pairs = static_cast<int64_t>(p.shape.batch) * order.heads;
  const int64_t section = kv_heads * (p.shape.q_heads / p.shape.kv_heads) / heads_in_tile;
  order.section = static_cast<int>(section < 1 ? 1 : section < pairs ? section : pairs);
  return order;
}

// Dense heads of all sequences, then the sparse ones; of each kind section by section, and in a section the last tiles
// (which see most under a causal mask) first, those of all its pairs side by side.
__host__ __device__ __forceinline__ FormulaItem formula_item(const FormulaOrder& order, int batch, int index) {
  int first_head = order.dense_from;
  int heads = order.heads - order.dense_from;
  const int dense_items = batch * heads * order.q_tiles;
  if (index >= dense_items) {
    index -= dense_items;
    first_head = 0;
    heads = order.dense_from;
  }
  const int pairs = batch * heads;
  const int first = index / (order.section * order.q_tiles) * order.section;
  const int width = pairs - first < order.section ? pairs - first : order.section;
  index -= first * order.q_tiles;
  const int pair = first + index % width;
  return FormulaItem{pair / heads, first_head + pair % heads, order.q_tiles - 1 - index / width};
}

}  // namespace LACUNA_NS
