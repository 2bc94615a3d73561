// dk and dv of columns that were cut into parts, from the partial sums of those. A block a slot; the block of a
// column's first slot does the work.
#include "common/alignment.h"
#include "common/backward_steps.h"
#include "common/column.h"
#include "common/validate.h"
#include "ptx/cvt.h"
#include "ptx/thread.h"

namespace LACUNA_NS {

namespace {

constexpr int kThreads = 256;

struct MergeArgs {
  lacuna_backward_params params;
  BackwardSchedule schedule;
  const float* partials;
};

template <class T>
__global__ void __launch_bounds__(kThreads) backward_merge_kernel(const __grid_constant__ MergeArgs args) {
  const BackwardSchedule& schedule = args.schedule;
  const lacuna_shape& shape = args.params.forward.shape;
  const int slot = block_index();
  const int index = schedule.slot_columns[slot];
  if (index < 0 || index >= schedule.columns) return;
  const Column column = column_at(shape, schedule, index);
  const int pieces = schedule.pieces[index];
  const int within = slot % schedule.slots;
  if (column.batch != slot / schedule.slots || schedule.first_slot[index] != within) return;
  if (pieces < 1 || pieces > schedule.slots - within) return;

  const int64_t size = static_cast<int64_t>(kColumnKeys) * shape.head_dim;
  const float* const first = args.partials + static_cast<int64_t>(slot) * 2 * size;
  for (int64_t i = thread_index(); i < 2 * size; i += kThreads) {
    const int row = static_cast<int>(i % size / shape.head_dim);
    const int64_t key = static_cast<int64_t>(column.tile) * kColumnKeys + row;
    if (key >= shape.kv_len) continue;
    float sum = 0.0f;
    for (int piece = 0; piece < pieces; ++piece) sum += first[piece * 2 * size + i];
    const bool is_dv = i >= size;
    const lacuna_strides& stride = is_dv ? args.params.dv_stride : args.params.dk_stride;
    T* const to = static_cast<T*>(is_dv ? args.params.dv : args.params.dk) + column.batch * stride.batch +
                  column.kv_head * stride.head + key * stride.seq;
    to[i % shape.head_dim] = from_float<T>(is_dv ? sum : sum * args.params.forward.scale);
  }
}

}  // namespace

int32_t backward_merge(const lacuna_backward_params& params, const BackwardSchedule& schedule,
                       const BackwardWorkspace& workspace, void* stream) {
  const MergeArgs args{params, schedule, workspace.partials};
  const int64_t blocks = static_cast<int64_t>(params.forward.shape.batch) * schedule.slots;
  if (params.forward.shape.dtype == LACUNA_F16) {
    return launch<backward_merge_kernel<Half>>("backward_merge_f16", blocks, kThreads, 0, stream, args);
  }
  return launch<backward_merge_kernel<BFloat16>>("backward_merge_bf16", blocks, kThreads, 0, stream, args);
}

}  // namespace LACUNA_NS
