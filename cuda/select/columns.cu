// The order in which the columns of a backward pass are worked on, and the parts that long ones are cut into: measured
// by a sequence's own entries, so that the sums do not depend on what else is in the batch.
#include "common/backward_steps.h"
#include "common/column.h"
#include "common/validate.h"
#include "select/scan.h"

namespace LACUNA_NS {

namespace {

constexpr int kLengthThreads = 128;

struct ColumnsArgs {
  lacuna_shape shape;
  lacuna_mask mask;
  lacuna_block_plan plan;
  BackwardSchedule schedule;
};

__global__ void __launch_bounds__(kLengthThreads) backward_lengths_kernel(const __grid_constant__ ColumnsArgs args) {
  const int64_t index = static_cast<int64_t>(block_index()) * kLengthThreads + thread_index();
  if (index >= args.schedule.columns) return;
  const Column column = column_at(args.shape, args.schedule, static_cast<int>(index));
  const int64_t length = column_length(args.shape, args.mask, args.plan, args.schedule, column);
  args.schedule.lengths[index] = length < 0x7fffffff ? static_cast<int32_t>(length) : 0x7fffffff;
}

struct PiecesShared {
  int64_t sums[kScanThreads];
};

// A block a sequence. No part has fewer than `entries` entries, and there are at most `slots` parts.
__global__ void __launch_bounds__(kScanThreads) backward_pieces_kernel(const __grid_constant__ ColumnsArgs args) {
  const BackwardSchedule& schedule = args.schedule;
  PiecesShared& smem = shared<PiecesShared>();
  const int thread = thread_index();
  const int count = args.shape.kv_heads * schedule.tiles;
  const int first = block_index() * count;
  const int begin = first + static_cast<int>(static_cast<int64_t>(count) * thread / kScanThreads);
  const int end = first + static_cast<int>(static_cast<int64_t>(count) * (thread + 1) / kScanThreads);

  int64_t total = 0;
  for (int column = begin; column < end; ++column) total += schedule.lengths[column];
  const int64_t before = block_scan(smem.sums, total);
  if (thread == kScanThreads - 1) smem.sums[0] = before + total;
  sync_threads();
  total = smem.sums[0];
  sync_threads();
  int64_t entries = kPieceRows / args.plan.block_q;
  if (schedule.slots > 0 && (total + schedule.slots - 1) / schedule.slots > entries) {
    entries = (total + schedule.slots - 1) / schedule.slots;
  }
  int64_t parts = 0;
  for (int column = begin; column < end; ++column) {
    const int64_t pieces = schedule.slots > 0 ? schedule.lengths[column] / entries : 1;
    schedule.pieces[column] = pieces < 2 ? 1 : static_cast<int32_t>(pieces);
    parts += pieces < 2 ? 0 : pieces;
  }
  int slot = static_cast<int>(block_scan(smem.sums, parts));
  if (thread == kScanThreads - 1) smem.sums[0] = slot + parts;
  sync_threads();
  int32_t* const slots = schedule.slot_columns + static_cast<int64_t>(block_index()) * schedule.slots;
  for (int column = begin; column < end; ++column) {
    const int pieces = schedule.pieces[column];
    schedule.first_slot[column] = pieces < 2 ? -1 : slot;
    for (int piece = 0; pieces >= 2 && piece < pieces; ++piece) slots[slot++] = column;
  }
  for (int64_t i = smem.sums[0] + thread; i < schedule.slots; i += kScanThreads) slots[i] = -1;
}

}  // namespace

int32_t schedule_columns(const lacuna_forward_params& params, const BackwardSchedule& schedule, void* stream) {
  const ColumnsArgs args{params.shape, params.mask, params.plan, schedule};
  const int64_t blocks = (static_cast<int64_t>(schedule.columns) + kLengthThreads - 1) / kLengthThreads;
  const ScanArgs scan{schedule.lengths, schedule.columns,      0x7fffffff,
                      schedule.sums,    schedule.overflow + 1, schedule.order};
  LACUNA_CHECK(launch<backward_lengths_kernel>("backward_lengths", blocks, kLengthThreads, 0, stream, args));
  LACUNA_CHECK(launch<scan_kernel<ScanArgs>>("backward_order", 1, kScanThreads, sizeof(ScanShared), stream, scan));
  return launch<backward_pieces_kernel>("backward_pieces", params.shape.batch, kScanThreads, sizeof(PiecesShared),
                                        stream, args);
}

}  // namespace LACUNA_NS
