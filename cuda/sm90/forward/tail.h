// Boxes of V that cross the end of a sequence whose length is on the device: the producer warp copies their rows, and
// makes those behind the end zeros. What lies there belongs to another sequence, or to nobody, and a NaN times a
// probability of 0 would be NaN. There is at most one such box an item, unless a list names a block twice.
#pragma once

#include "common/swizzle.h"
#include "ptx/cp_async.h"
#include "ptx/fence_proxy.h"
#include "sm90/forward/tile_table.h"

namespace LACUNA_NS {
namespace sm90 {

// Element offset of a 16-byte chunk of a row in a tile of K or V.
__device__ __forceinline__ int key_chunk(int row, int chunk) {
  constexpr int kPanelChunks = kPanelElements / 8;
  return chunk / kPanelChunks * kTileKeys * kPanelElements + swizzled<kPanelElements>(row, chunk % kPanelChunks);
}

// `count` rows of `from` and zeros behind them, into the rows of a tile from `first` on; until finish_tails they may be
// on their way.
template <class Traits>
__device__ __forceinline__ void copy_tail(typename Traits::Element* tile, int first,
                                          const typename Traits::Element* from, int64_t row_stride, int count) {
  constexpr int kChunks = Traits::kHeadDim / 8;
#pragma unroll 4
  for (int i = 0; i < kBoxKeys * kChunks / kWarpThreads; ++i) {
    const int at = i * kWarpThreads + thread_index();
    const int row = at / kChunks;
    const int chunk = at % kChunks;
    const bool present = row < count;
    cp_async_16(shared_address(tile + key_chunk(first + row, chunk)),
                from + (present ? row * row_stride + chunk * 8 : 0), present ? 16 : 0);
  }
  cp_async_commit();
}

// What the warp has copied has landed, and asynchronous readers see it once lane 0 arrives.
__device__ __forceinline__ void finish_tails() {
  cp_async_wait<0>();
  fence_async_shared();
  sync_warp();
}

}  // namespace sm90
}  // namespace LACUNA_NS
