// The end of a work item: denominators, LSE, and the output rows through shared memory.
#pragma once

#include "ptx/bulk.h"
#include "ptx/fence_proxy.h"
#include "ptx/stmatrix.h"
#include "ptx/tma.h"
#include "sm90/forward/attend.h"

namespace LACUNA_NS {
namespace sm90 {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// f32 rows of a split, normalised, straight from the registers.
template <class Traits>
__device__ __forceinline__ void write_partial(const lacuna_forward_params& p, int64_t row, int r, int lane,
                                              const float (&o)[Traits::kHeadDim / 2]) {
  float* to = p.partial_out + row * Traits::kHeadDim + 2 * (lane % 4);
#pragma unroll
  for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
    to[8 * n] = o[4 * n + 2 * r];
    to[8 * n + 1] = o[4 * n + 2 * r + 1];
  }
}

// A warp's 16 rows go over the rows of Q that it alone has read, and from there by TMA, which drops what lies outside
// the tensor.
template <class Traits>
__device__ __forceinline__ void write_tile(const ForwardArgs& args, const Work& work, uint32_t q, int warpgroup,
                                           int warp, int lane, const float (&o)[Traits::kHeadDim / 2]) {
  using T = typename Traits::Element;
  const int row = warp * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < Traits::kHeadDim / 16; ++k) {
    const uint32_t d[4] = {pack<T>(o[8 * k], o[8 * k + 1]), pack<T>(o[8 * k + 2], o[8 * k + 3]),
                           pack<T>(o[8 * k + 4], o[8 * k + 5]), pack<T>(o[8 * k + 6], o[8 * k + 7])};
    const int chunk = (k % 4 * 2 + lane / 16) ^ (row & 7);
    stmatrix_x4<false>(q + k / 4 * Traits::kPanelBytes + row * kPanelElements * 2 + chunk * 16, d);
  }
  fence_async_shared();
  sync_warp();
  if (lane != 0) return;
  for (int panel = 0; panel < Traits::kPanels; ++panel) {
    tma_store_4d(args.out, q + panel * Traits::kPanelBytes + warp * 16 * kPanelElements * 2, panel * kPanelElements,
                 work.first_row[warpgroup] + warp * 16, work.head[warpgroup], work.batch);
  }
  bulk_commit();
  bulk_wait_read<0>();
}

template <class Traits>
__device__ __forceinline__ void write_rows(const ForwardArgs& args, const Work& work, uint32_t q, int warpgroup,
                                           int warp, int lane, float factor, RowState& state,
                                           float (&o)[Traits::kHeadDim / 2]) {
  const lacuna_forward_params& p = args.params;
  const int head = work.head[warpgroup];
  quad_sum(state.sum);
  float inverse[2];
  float lse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = state.maximum[r] * factor;
    float total = state.sum[r];
    float rescale = 1.0f;
    if (p.sink != nullptr && work.split == 0) {
      const float sink = p.sink[head] * kLog2E;
      const float all = max_float(top, sink);
      const float base = all == minus_infinity() ? 0.0f : all;
      rescale = ex2(top - base);
      total = total * rescale + ex2(sink - base);
      top = base;
    }
    const bool empty = total == 0.0f;
    inverse[r] = empty ? 0.0f : rescale / total;
    lse[r] = empty ? minus_infinity() : (top + lg2(total)) * kLn2;
  }
  scale_rows(o, inverse);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = work.first_row[warpgroup] + warp * 16 + lane / 4 + 8 * r;
    if (row < 0 || row >= p.shape.q_len) continue;
    if (p.splits > 1) {
      const int64_t at =
          ((static_cast<int64_t>(work.split) * p.shape.batch + work.batch) * p.shape.q_heads + head) * p.shape.q_len +
          row;
      if (lane % 4 == 0) p.partial_lse[at] = lse[r];
      write_partial<Traits>(p, at, r, lane, o);
    } else if (lane % 4 == 0 && p.lse != nullptr) {
      p.lse[work.batch * p.lse_stride.batch + head * p.lse_stride.head + row * p.lse_stride.seq] = lse[r];
    }
  }
  if (p.splits == 1) write_tile<Traits>(args, work, q, warpgroup, warp, lane, o);
}

}  // namespace sm90
}  // namespace LACUNA_NS
