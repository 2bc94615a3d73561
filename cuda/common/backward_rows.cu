// What the backward kernels need of each query row: its LSE and delta = rowsum(dout * out) - dlse. A warp a row.
#include "common/backward_steps.h"
#include "common/row_result.h"
#include "common/validate.h"
#include "ptx/cvt.h"
#include "ptx/shared.h"
#include "ptx/shuffle.h"

namespace LACUNA_NS {

namespace {

constexpr int kRowWarps = 4;
constexpr int kSinkThreads = 256;

struct RowsArgs {
  lacuna_backward_params params;
  BackwardWorkspace workspace;
};

__device__ __forceinline__ int64_t row_offset(const lacuna_strides& stride, int64_t batch, int64_t head, int64_t row) {
  return batch * stride.batch + head * stride.head + row * stride.seq;
}

template <class T>
__global__ void __launch_bounds__(kRowWarps * 32) backward_rows_kernel(const __grid_constant__ RowsArgs args) {
  const lacuna_forward_params& p = args.params.forward;
  const lacuna_shape& shape = p.shape;
  const int64_t index = static_cast<int64_t>(block_index()) * kRowWarps + thread_index() / kWarpThreads;
  const int lane = thread_index() % kWarpThreads;
  const int64_t head = index / args.workspace.stat_rows % shape.q_heads;
  const int64_t batch = index / args.workspace.stat_rows / shape.q_heads;
  if (batch >= shape.batch) return;
  const int64_t row = index % args.workspace.stat_rows - p.plan.row_shift;
  // Rows that are not there, or attend nothing, weigh nothing and change nothing.
  float lse = -minus_infinity();
  float delta = 0.0f;
  if (row >= 0 && row < shape.q_len) {
    const float given = p.lse[row_offset(p.lse_stride, batch, head, row)];
    if (given != minus_infinity()) {
      lse = given;
      const T* out = static_cast<const T*>(p.out) + row_offset(p.out_stride, batch, head, row);
      const T* dout = static_cast<const T*>(args.params.dout) + row_offset(args.params.dout_stride, batch, head, row);
      for (int d = lane; d < shape.head_dim; d += kWarpThreads) delta += to_float(out[d]) * to_float(dout[d]);
    }
  }
  delta = warp_sum(delta);
  if (lane != 0) return;
  if (args.params.dlse != nullptr && lse != -minus_infinity()) {
    delta -= args.params.dlse[row_offset(args.params.dlse_stride, batch, head, row)];
  }
  args.workspace.lse[index] = lse;
  args.workspace.delta[index] = delta;
}

struct SinkShared {
  float sums[kSinkThreads];
};

// dsink = -sum of exp(sink - lse) * delta. A block a head; sums meet in a tree.
__global__ void __launch_bounds__(kSinkThreads) backward_sink_kernel(const __grid_constant__ RowsArgs args) {
  const lacuna_forward_params& p = args.params.forward;
  const int head = block_index();
  const int thread = thread_index();
  SinkShared& smem = shared<SinkShared>();
  const float sink = p.sink[head];
  float sum = 0.0f;
  for (int batch = 0; batch < p.shape.batch; ++batch) {
    const int64_t first = (static_cast<int64_t>(batch) * p.shape.q_heads + head) * args.workspace.stat_rows;
    for (int row = thread; row < args.workspace.stat_rows; row += kSinkThreads) {
      sum -= ex2((sink - args.workspace.lse[first + row]) * kLog2E) * args.workspace.delta[first + row];
    }
  }
  smem.sums[thread] = sum;
  sync_threads();
  for (int half = kSinkThreads / 2; half > 0; half /= 2) {
    if (thread < half) smem.sums[thread] += smem.sums[thread + half];
    sync_threads();
  }
  if (thread == 0) args.params.dsink[head] = smem.sums[0];
}

}  // namespace

int32_t backward_rows(const lacuna_backward_params& params, const BackwardWorkspace& workspace, void* stream) {
  const lacuna_shape& shape = params.forward.shape;
  const int64_t rows = static_cast<int64_t>(shape.batch) * shape.q_heads * workspace.stat_rows;
  const int64_t blocks = (rows + kRowWarps - 1) / kRowWarps;
  const RowsArgs args{params, workspace};
  if (shape.dtype == LACUNA_F16) {
    return launch<backward_rows_kernel<Half>>("backward_rows_f16", blocks, kRowWarps * 32, 0, stream, args);
  }
  return launch<backward_rows_kernel<BFloat16>>("backward_rows_bf16", blocks, kRowWarps * 32, 0, stream, args);
}

int32_t backward_sink(const lacuna_backward_params& params, const BackwardWorkspace& workspace, void* stream) {
  const RowsArgs args{params, workspace};
  return launch<backward_sink_kernel>("backward_sink", params.forward.shape.q_heads, kSinkThreads, sizeof(SinkShared),
                                      stream, args);
}

}  // namespace LACUNA_NS
