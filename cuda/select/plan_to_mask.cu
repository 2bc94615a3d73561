// The dense mask of a plan, a thread a plan row: formulas are walked with the function the forward kernel walks them
// with, lists are filtered by the rule the schedule filters them with.
#include "common/block_formula.h"
#include "common/validate.h"
#include "families.h"
#include "ptx/thread.h"

namespace LACUNA_NS {

namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) plan_to_mask_kernel(const __grid_constant__ lacuna_plan_to_mask_params p) {
  const lacuna_block_plan& plan = p.plan;
  const int q_blocks = plan_query_blocks(plan, p.shape.q_len);
  const int kv_blocks = (p.shape.kv_len + plan.block_k - 1) / plan.block_k;
  const int64_t rows = static_cast<int64_t>(plan.plan_batch) * plan.heads * q_blocks;
  const int64_t row = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  if (row >= rows) return;
  uint8_t* mask = p.block_mask + row * kv_blocks;
  for (int block = 0; block < kv_blocks; ++block) mask[block] = 0;

  const int q_block = static_cast<int>(row % q_blocks);
  QueryTile tile = {};
  tile.plan_head = static_cast<int>(row / q_blocks % plan.heads);
  tile.first_row = q_block * plan.block_q - plan.row_shift;
  tile.first_block = q_block;
  const KeyRange visible = visible_to_rows(p.shape, p.mask, tile.first_row, plan.block_q);
  if (plan.kind == LACUNA_PLAN_FORMULA) {
    FormulaWalk walk{0, kv_blocks, formula_shift(plan.formula, tile.plan_head), plan.first_row + q_block};
    BlockEntry entry;
    while (formula_next(p.shape, p.mask, plan, tile, 1, walk, entry)) mask[entry.block] = 1;
  } else {
    const int32_t begin = plan.row_offsets[row] < 0 ? 0 : plan.row_offsets[row];
    const int32_t end = plan.row_offsets[row + 1] > plan.capacity ? plan.capacity : plan.row_offsets[row + 1];
    for (int32_t at = begin; at < end; ++at) {
      const int32_t block = plan.indices[at];
      if (block >= 0 && block < kv_blocks && overlaps(visible, block * plan.block_k, plan.block_k)) mask[block] = 1;
    }
  }
}

}  // namespace

int32_t plan_to_mask(const lacuna_plan_to_mask_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "plan_to_mask: null argument");
  const lacuna_plan_to_mask_params& p = *params;
  LACUNA_CHECK(check_shape(p.shape));
  LACUNA_CHECK(check_mask(p.mask, p.shape));
  LACUNA_CHECK(check_plan(p.plan, p.shape));
  LACUNA_REQUIRE(p.block_mask != nullptr || p.shape.kv_len == 0, "block_mask is null");
  const int64_t rows =
      static_cast<int64_t>(p.plan.plan_batch) * p.plan.heads * plan_query_blocks(p.plan, p.shape.q_len);
  return launch<plan_to_mask_kernel>("plan_to_mask", (rows + kThreads - 1) / kThreads, kThreads, 0, stream, p);
}

}  // namespace LACUNA_NS
