// One kernel tile of query rows: which sequence, head and rows it is, and what its row groups may see.
#pragma once

#include "common/visible.h"

namespace LACUNA_NS {

constexpr int kGroupRows = 16;  // rows of one matrix instruction: the finest row group a plan can have

struct QueryTile {
  int batch;
  int head;  // query head
  int kv_head;
  int plan_head;
  int first_row;    // call row of tile row 0; negative when absolute blocks start before the first query
  int first_block;  // plan query block of tile row 0
};

__host__ __device__ __forceinline__ int plan_query_blocks(const lacuna_block_plan& plan, int q_len) {
  return (q_len + plan.row_shift + plan.block_q - 1) / plan.block_q;
}

// Position of call row `row` among the keys. `Lengths` has q_len and kv_len: a Sequence, or a shape where all
// sequences have its lengths.
template <class Lengths>
__host__ __device__ __forceinline__ int64_t key_position(const Lengths& lengths, int row) {
  return static_cast<int64_t>(row) + lengths.kv_len - lengths.q_len;
}

// Keys visible to call rows [first, first + rows) as far as those rows exist; an empty range if none does.
template <class Lengths>
__host__ __device__ __forceinline__ KeyRange visible_to_rows(const Lengths& lengths, const lacuna_mask& mask, int first,
                                                             int rows) {
  const int begin = first < 0 ? 0 : first;
  const int end = first + rows < lengths.q_len ? first + rows : lengths.q_len;
  if (begin >= end) return KeyRange{0, 0};
  return visible_keys(mask, lengths.kv_len, key_position(lengths, begin), key_position(lengths, end - 1));
}

__host__ __device__ __forceinline__ bool overlaps(const KeyRange& range, int first_key, int keys) {
  return first_key < range.high && range.low < first_key + keys;
}

}  // namespace LACUNA_NS
