// The list of a plan row, as the builders of schedules read it: contents are data.
#pragma once

#include "common/query_tile.h"

namespace LACUNA_NS {

// A plan row's list and what its query rows can see.
struct RowList {
  int32_t at;
  int32_t end;
  KeyRange visible;
};

__device__ __forceinline__ int32_t clamp_offset(int32_t offset, int32_t capacity) {
  return offset < 0 ? 0 : offset > capacity ? capacity : offset;
}

// Of plan row `row`, which holds query block `q_block`.
__device__ __forceinline__ RowList row_list(const lacuna_shape& shape, const lacuna_mask& mask,
                                            const lacuna_block_plan& plan, int64_t row, int q_block) {
  return RowList{clamp_offset(plan.row_offsets[row], plan.capacity),
                 clamp_offset(plan.row_offsets[row + 1], plan.capacity),
                 visible_to_rows(shape, mask, q_block * plan.block_q - plan.row_shift, plan.block_q)};
}

// Whether the block exists and holds a key that some row of the list can see.
__device__ __forceinline__ bool keeps_block(const lacuna_shape& shape, const lacuna_block_plan& plan,
                                            const RowList& list, int32_t block) {
  const int32_t blocks = (shape.kv_len + plan.block_k - 1) / plan.block_k;
  return block >= 0 && block < blocks && overlaps(list.visible, block * plan.block_k, plan.block_k);
}

}  // namespace LACUNA_NS
