// What the pairs of a causal gather plan leave, f32 (O, LSE) of each row, and how a row of a leaf merges it.
#pragma once

#include "common/gather_tiles.h"
#include "common/row_result.h"

namespace LACUNA_NS {

// Index of a row in partial_lse; times head_dim in partial_out.
__device__ __forceinline__ int64_t partial_index(const lacuna_gather_forward_params& p, const GatherHead& head,
                                                 int level, int place) {
  const int64_t heads = (static_cast<int64_t>(level) * p.shape.batch + head.batch) * p.shape.q_heads + head.head;
  return heads * partial_rows_of_head(p.shape, p.plan) + place;
}

// Calls visit with the partial of each level that a row has one at, from the root down: where it is in the second half.
template <class Visit>
__device__ __forceinline__ void for_partials(const lacuna_gather_forward_params& p, const GatherHead& head, int row,
                                             Visit visit) {
  Segment node{0, p.shape.q_len};
  for (int level = 0; level < p.plan.levels; ++level) {
    if (!has_halves(node.len, p.plan.min_seq_len)) return;
    const int first = node.len - node.len / 2;
    const bool second = row >= node.start + first;
    if (second) {
      const GatherPair pair{{node.start + first, node.len / 2}, {node.start, first}};
      const int64_t at = partial_index(p, head, level, partial_place(pair, row));
      for (int round = 0; round < p.plan.rounds; ++round) visit(at + round * partial_rows(p.shape, p.plan));
    }
    node = second ? Segment{node.start + first, node.len / 2} : Segment{node.start, first};
  }
}

// Merges a row of a leaf with its partials, as merge.cu does: in f32, in the order of the parts. `scale` multiplies the
// row's own output, `add` adds a partial one with its weight; the result's factor is still to be applied.
template <class Scale, class Add>
__device__ __forceinline__ RowResult merge_partials(const lacuna_gather_forward_params& p, const GatherHead& head,
                                                    int row, const RowResult& own, Scale scale, Add add) {
  float top = own.lse;
  for_partials(p, head, row, [&](int64_t at) { top = max_float(top, p.partial_lse[at]); });
  const float base = top == minus_infinity() ? 0.0f : top;
  float total = ex2((own.lse - base) * kLog2E);
  scale(own.factor * total);
  for_partials(p, head, row, [&](int64_t at) {
    const float weight = ex2((p.partial_lse[at] - base) * kLog2E);
    total += weight;
    // A part that attended nothing weighs nothing, whatever its row holds.
    if (weight != 0.0f) add(weight, at);
  });
  if (total == 0.0f) return RowResult{0.0f, minus_infinity()};
  return RowResult{1.0f / total, base + lg2(total) * kLn2};
}

}  // namespace LACUNA_NS
