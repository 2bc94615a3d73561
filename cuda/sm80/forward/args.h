// What the forward kernel is launched with: the caller's parameters and what the launcher derived from them.
#pragma once

#include "common/formula_order.h"
#include "common/query_tile.h"
#include "common/sequence.h"
#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {
namespace sm80 {

struct ForwardArgs {
  lacuna_forward_params params;
  FormulaOrder order;  // formulas
  int tiles_per_row;   // lists: kernel tiles of a schedule row
  int rows_per_head;   // lists: schedule rows of a (sequence, plan head)
  bool q_vectors;      // rows start on 16-byte boundaries: cp.async serves them
  bool k_vectors;
  bool v_vectors;
  bool out_pairs;  // output rows start on 4-byte boundaries
};

struct Assignment {
  QueryTile tile;
  Sequence sequence;
  int schedule_row;
  int split;
  bool valid;  // false: the block has nothing to do
};

// The work of block `index`. Formula plans: the order of formula_order.h, then splits.
// Lists: rows of the schedule's order (longest first), then the sequences and heads that share the row.
template <bool kRagged>
__device__ __forceinline__ Assignment assignment(const ForwardArgs& args, int index, int tile_rows) {
  const lacuna_forward_params& p = args.params;
  const lacuna_shape& shape = p.shape;
  Assignment work;
  work.split = index % p.splits;
  index /= p.splits;
  work.schedule_row = 0;
  work.valid = true;
  int q_tile;
  if (p.plan.kind == LACUNA_PLAN_FORMULA) {
    const FormulaItem item = formula_item(args.order, shape.batch, index);
    q_tile = item.q_tile;
    work.tile.head = item.head;
    work.tile.batch = item.batch;
    work.tile.plan_head = static_cast<int>(static_cast<int64_t>(work.tile.head) * p.plan.heads / shape.q_heads);
  } else {
    const int group = shape.q_heads / p.plan.heads;
    const int head_in_group = index % group;
    index /= group;
    const int tile_in_row = args.tiles_per_row - 1 - index % args.tiles_per_row;
    index /= args.tiles_per_row;
    const int copies = shape.batch / p.plan.plan_batch;
    const int copy = index % copies;
    const int row = p.schedule.order[index / copies];
    work.valid = row >= 0 && row < p.schedule.rows;
    const int plan_row = row / args.rows_per_head;
    work.schedule_row = row;
    work.tile.plan_head = plan_row % p.plan.heads;
    work.tile.head = work.tile.plan_head * group + head_in_group;
    work.tile.batch = copies > 1 ? copy : plan_row / p.plan.heads;
    q_tile = row % args.rows_per_head * args.tiles_per_row + tile_in_row;
  }
  work.tile.kv_head = static_cast<int>(static_cast<int64_t>(work.tile.head) * shape.kv_heads / shape.q_heads);
  work.sequence = kRagged ? sequence_of(shape, p.plan, work.tile.batch) : whole_sequence(shape, p.plan);
  work.tile.first_row = q_tile * tile_rows - work.sequence.row_shift;
  work.tile.first_block = static_cast<int>(static_cast<int64_t>(q_tile) * tile_rows / p.plan.block_q);
  work.valid = work.valid && work.tile.first_row < work.sequence.q_len && work.tile.first_row + tile_rows > 0;
  return work;
}

}  // namespace sm80
}  // namespace LACUNA_NS
