// The end of a work item: denominators, LSE, and the output rows through shared memory.
#pragma once

#include "common/row_result.h"
#include "common/swizzle.h"
#include "ptx/bulk.h"
#include "ptx/fence_proxy.h"
#include "ptx/stmatrix.h"
#include "ptx/tma.h"
#include "sm90/forward/attend.h"

namespace LACUNA_NS {
namespace sm90 {

// A row in f32, normalised, straight from the registers; `to` is where it begins.
template <class Traits>
__device__ __forceinline__ void write_partial(float* to, int r, int lane, const float (&o)[Traits::kHeadDim / 2]) {
  to += 2 * (lane % 4);
#pragma unroll
  for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
    to[8 * n] = o[4 * n + 2 * r];
    to[8 * n + 1] = o[4 * n + 2 * r + 1];
  }
}

// A warp's 16 rows go over the rows of Q that it alone has read. `tile`: Q of the warpgroup.
template <class Traits>
__device__ __forceinline__ void stage_rows(typename Traits::Element* tile, int warp, int lane,
                                           const float (&o)[Traits::kHeadDim / 2]) {
  using T = typename Traits::Element;
  const uint32_t to = shared_address(tile);
  const int row = warp * 16 + lane % 16;
#pragma unroll
  for (int k = 0; k < Traits::kHeadDim / 16; ++k) {
    const uint32_t d[4] = {pack<T>(o[8 * k], o[8 * k + 1]), pack<T>(o[8 * k + 2], o[8 * k + 3]),
                           pack<T>(o[8 * k + 4], o[8 * k + 5]), pack<T>(o[8 * k + 6], o[8 * k + 7])};
    const int chunk = (k % 4 * 2 + lane / 16) ^ (row & 7);
    stmatrix_x4<false>(to + k / 4 * Traits::kPanelBytes + row * kPanelElements * 2 + chunk * 16, d);
  }
}

// Ordinary stores of a warp's staged rows: row i goes to row row_of(i) of `out`, or nowhere if that is negative.
template <class Traits, class RowOf>
__device__ __forceinline__ void copy_staged(typename Traits::Element* out, int64_t stride,
                                            const typename Traits::Element* tile, int warp, int lane, RowOf row_of) {
  using T = typename Traits::Element;
  struct alignas(16) Chunk {
    T elements[8];
  };
  constexpr int kChunks = Traits::kHeadDim / 8;
  constexpr int kPanelChunks = kPanelElements / 8;
#pragma unroll 2
  for (int i = 0; i < 16 * kChunks / kWarpThreads; ++i) {
    const int at = i * kWarpThreads + lane;
    const int row = at / kChunks;
    const int chunk = at % kChunks;
    const int64_t to = row_of(row);
    if (to < 0) continue;
    const T* from = tile + chunk / kPanelChunks * (Traits::kPanelBytes / 2) +
                    swizzled<kPanelElements>(warp * 16 + row, chunk % kPanelChunks);
    *reinterpret_cast<Chunk*>(out + to * stride + chunk * 8) = *reinterpret_cast<const Chunk*>(from);
  }
}

// A warp's 16 rows by TMA, which drops what lies outside the tensor. Where other rows follow those of the sequence, the
// last ones leave by ordinary stores.
template <class Traits>
__device__ __forceinline__ void write_tile(const ForwardArgs& args, const Work& work, typename Traits::Element* tile,
                                           int warpgroup, int warp, int lane, const float (&o)[Traits::kHeadDim / 2]) {
  using T = typename Traits::Element;
  const lacuna_forward_params& p = args.params;
  stage_rows<Traits>(tile, warp, lane, o);
  fence_async_shared();
  sync_warp();
  const int head = work.head[warpgroup];
  const int first = work.first_row[warpgroup] + warp * 16;
  const bool packed = Traits::kRagged && p.shape.cu_seqlens_q != nullptr;
  if ((packed || Traits::kLeaves) && (first < 0 || first + 16 > work.q_len)) {
    T* out = static_cast<T*>(p.out) + work.batch * p.out_stride.batch + head * p.out_stride.head;
    copy_staged<Traits>(out, p.out_stride.seq, tile, warp, lane, [&](int i) -> int64_t {
      return first + i >= 0 && first + i < work.q_len ? work.q_first + first + i : -1;
    });
    return;
  }
  if (lane != 0) return;
  const uint32_t from = shared_address(tile) + warp * 16 * kPanelElements * 2;
  for (int panel = 0; panel < Traits::kPanels; ++panel) {
    tma_store_4d(args.out, from + panel * Traits::kPanelBytes, panel * kPanelElements,
                 Traits::kRagged ? work.q_first + first : first, head, packed ? 0 : work.batch);
  }
  bulk_commit();
  bulk_wait_read<0>();
}

template <class Traits>
__device__ __forceinline__ void write_rows(const ForwardArgs& args, const Work& work, typename Traits::Element* tile,
                                           int warpgroup, int warp, int lane, float factor, RowState& state,
                                           float (&o)[Traits::kHeadDim / 2]) {
  const lacuna_forward_params& p = args.params;
  const int head = work.head[warpgroup];
  const int q_len = lengths_of<Traits::kRagged>(p, work).q_len;
  quad_sum(state.sum);
  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const RowResult result = row_result(p, head, work.split, factor, state.maximum[r], state.sum[r]);
    inverse[r] = result.factor;
    const int row = work.first_row[warpgroup] + warp * 16 + lane / 4 + 8 * r;
    if (lane % 4 == 0 && row >= 0 && row < q_len) {
      write_lse(p, work.split, work.batch, head, Traits::kRagged ? work.q_first + row : row, result.lse);
    }
  }
  scale_rows(o, inverse);
  if (p.splits == 1) {
    write_tile<Traits>(args, work, tile, warpgroup, warp, lane, o);
    return;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = work.first_row[warpgroup] + warp * 16 + lane / 4 + 8 * r;
    if (row < 0 || row >= q_len) continue;
    write_partial<Traits>(p.partial_out + partial_row(p, work.split, work.batch, head, row) * Traits::kHeadDim, r, lane,
                          o);
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
