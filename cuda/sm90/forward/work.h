// Work items of the Hopper forward kernel: which rows and heads a tile holds, and the order in which tiles are taken.
#pragma once

#include "common/formula_order.h"
#include "common/query_tile.h"
#include "common/sequence.h"
#include "ptx/tensor_map.h"

namespace LACUNA_NS {
namespace sm90 {

constexpr int kConsumers = 2;       // warpgroups that multiply
constexpr int kWarpgroupRows = 64;  // query rows of each
constexpr int kTileRows = kConsumers * kWarpgroupRows;
constexpr int kWarpgroupThreads = 128;
constexpr int kThreads = (kConsumers + 1) * kWarpgroupThreads;  // warpgroup 0 produces
constexpr int kPanelElements = 64;                              // 128 bytes: the span of the swizzle

// What the kernel is launched with: the caller's parameters and what the launcher derived from them.
struct ForwardArgs {
  TensorMap q;  // [batch, q_heads, q_len, head_dim], boxes of 64 rows by 64 elements; packed [1, q_heads, q_rows, ..]
  TensorMap k;  // [batch or pages, kv_heads, kv_len or page_size, head_dim], the same boxes; packed as q
  TensorMap v;  // as k
  TensorMap v_tail;  // paged: v with pages cut where the sequence ends, so that what lies behind loads as zeros
  TensorMap out;     // as q, boxes of 16 rows
  lacuna_forward_params params;
  int items;           // work items
  int head_rows;       // query rows of a head in a tile: 128, or 64 when two heads share it
  int heads;           // heads in a tile
  int head_sets;       // q_heads / heads
  FormulaOrder order;  // formulas; its heads are head sets
  int rows_per_head;   // lists: schedule rows of a (sequence, plan head)
};

// One work item, as the producer tells the consumers.
struct Work {
  int index;  // -1: no more
  int batch;
  int split;
  int keys;                   // 0: no key tile follows
  int head[kConsumers];       // query head of each warpgroup
  int first_row[kConsumers];  // row of the sequence of its row 0; q_len if it has none
  int q_len;                  // of the sequence, as kv_len
  int kv_len;
  int q_first;  // row of q, out and lse that holds its first query
};

// Lengths of an item's sequence: those of the shape where all sequences have them.
template <bool kRagged>
__device__ __forceinline__ const auto& lengths_of(const lacuna_forward_params& p, const Work& work) {
  if constexpr (kRagged) {
    return work;
  } else {
    return p.shape;
  }
}

struct Assignment {
  Work work;
  Sequence sequence;
  int kv_head;
  int plan_head;
  int schedule_row;
  int first_block;  // plan query block of tile row 0
};

// Formulas: the order of formula_order.h. Lists: rows of the schedule's order, longest first, with the heads and
// sequences that share a row side by side. False: the schedule names no such row.
template <bool kRagged>
__device__ __forceinline__ bool assign(const ForwardArgs& args, int index, Assignment& to) {
  const lacuna_forward_params& p = args.params;
  const lacuna_shape& shape = p.shape;
  to.work.index = index;
  to.work.split = index % p.splits;
  index /= p.splits;
  to.schedule_row = 0;
  int q_tile;
  int head_set;
  bool valid = true;
  if (p.plan.kind == LACUNA_PLAN_FORMULA) {
    const FormulaItem item = formula_item(args.order, shape.batch, index);
    q_tile = item.q_tile;
    to.work.batch = item.batch;
    head_set = item.head;
    to.plan_head = static_cast<int>(static_cast<int64_t>(head_set) * args.heads * p.plan.heads / shape.q_heads);
  } else {
    const int sets = args.head_sets / p.plan.heads;  // of one list
    const int set = index % sets;
    index /= sets;
    const int copies = shape.batch / p.plan.plan_batch;
    const int copy = index % copies;
    int row = p.schedule.order[index / copies];
    valid = row >= 0 && row < p.schedule.rows;
    row = valid ? row : 0;
    const int plan_row = row / args.rows_per_head;
    to.schedule_row = row;
    to.plan_head = plan_row % p.plan.heads;
    to.work.batch = copies > 1 ? copy : plan_row / p.plan.heads;
    head_set = to.plan_head * sets + set;
    q_tile = row % args.rows_per_head;
  }
  to.first_block = static_cast<int>(static_cast<int64_t>(q_tile) * args.head_rows / p.plan.block_q);
  const int head = head_set * args.heads;
  to.kv_head = static_cast<int>(static_cast<int64_t>(head) * shape.kv_heads / shape.q_heads);
  to.sequence = kRagged ? sequence_of(shape, p.plan, to.work.batch) : whole_sequence(shape, p.plan);
  to.work.q_len = to.sequence.q_len;
  to.work.kv_len = to.sequence.kv_len;
  to.work.q_first = to.sequence.q_first;
#pragma unroll
  for (int w = 0; w < kConsumers; ++w) {
    to.work.head[w] = head + (args.heads == 1 ? 0 : w);
    to.work.first_row[w] = q_tile * args.head_rows - to.sequence.row_shift + (args.heads == 1 ? w * kWarpgroupRows : 0);
  }
  return valid;
}

// Whether the sequence has a row in the tile.
__device__ __forceinline__ bool has_rows(const Work& work) {
  bool any = false;
#pragma unroll
  for (int w = 0; w < kConsumers; ++w) {
    any = any || (work.first_row[w] < work.q_len && work.first_row[w] + kWarpgroupRows > 0);
  }
  return any;
}

}  // namespace sm90
}  // namespace LACUNA_NS
