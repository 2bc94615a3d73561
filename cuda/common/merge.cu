// Merging partial results of disjoint key sets by their LSE, a warp a row, in the order of the splits.
#include "common/validate.h"
#include "families.h"
#include "ptx/cvt.h"
#include "ptx/math.h"
#include "ptx/thread.h"

namespace LACUNA_NS {

namespace {

constexpr int kRowWarps = 4;

template <class T>
__global__ void __launch_bounds__(kRowWarps * 32) merge_kernel(const __grid_constant__ lacuna_merge_params p) {
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.len;
  const int64_t row = static_cast<int64_t>(block_index()) * kRowWarps + thread_index() / kWarpThreads;
  if (row >= rows) return;
  const int lane = thread_index() % kWarpThreads;

  float top = minus_infinity();
  for (int s = 0; s < p.splits; ++s) top = max_float(top, p.partial_lse[s * rows + row]);
  const float base = top == minus_infinity() ? 0.0f : top;
  float total = 0.0f;
  for (int s = 0; s < p.splits; ++s) total += ex2((p.partial_lse[s * rows + row] - base) * kLog2E);
  const bool empty = total == 0.0f;

  const int64_t batch = row / p.len / p.heads;
  const int64_t head = row / p.len % p.heads;
  const int64_t token = row % p.len;
  T* out = static_cast<T*>(p.out) + batch * p.out_stride.batch + head * p.out_stride.head + token * p.out_stride.seq;
  for (int d = lane; d < p.head_dim; d += kWarpThreads) {
    float sum = 0.0f;
    for (int s = 0; s < p.splits; ++s) {
      const float weight = ex2((p.partial_lse[s * rows + row] - base) * kLog2E);
      // A part that attended nothing weighs nothing, whatever its rows hold.
      if (weight != 0.0f) sum += weight * p.partial_out[(s * rows + row) * p.head_dim + d];
    }
    out[d] = from_float<T>(empty ? 0.0f : sum / total);
  }
  if (lane == 0 && p.lse != nullptr) {
    p.lse[batch * p.lse_stride.batch + head * p.lse_stride.head + token * p.lse_stride.seq] =
        empty ? minus_infinity() : base + lg2(total) * kLn2;
  }
}

}  // namespace

int32_t merge(const lacuna_merge_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "merge: null argument");
  const lacuna_merge_params& p = *params;
  LACUNA_REQUIRE(p.splits >= 1 && p.splits <= LACUNA_MAX_SPLITS, "splits must be in 1..=%d, got %d", LACUNA_MAX_SPLITS,
                 p.splits);
  LACUNA_REQUIRE(p.batch >= 1 && p.heads >= 1 && p.len >= 1 && p.head_dim >= 1,
                 "batch, heads, len and head_dim must be >= 1, got %d, %d, %d, %d", p.batch, p.heads, p.len,
                 p.head_dim);
  LACUNA_REQUIRE(p.out_dtype == LACUNA_F16 || p.out_dtype == LACUNA_BF16, "dtype must be f16 (0) or bf16 (1), got %d",
                 p.out_dtype);
  LACUNA_REQUIRE(p.partial_out != nullptr && p.partial_lse != nullptr && p.out != nullptr,
                 "partial_out, partial_lse or out is null");
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.len;
  const int64_t blocks = (rows + kRowWarps - 1) / kRowWarps;
  if (p.out_dtype == LACUNA_F16) return launch<merge_kernel<Half>>("merge_f16", blocks, kRowWarps * 32, 0, stream, p);
  return launch<merge_kernel<BFloat16>>("merge_bf16", blocks, kRowWarps * 32, 0, stream, p);
}

}  // namespace LACUNA_NS
