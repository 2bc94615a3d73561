// Rows of q, k and v from global memory into swizzled shared-memory tiles.
#pragma once

#include "common/key_source.h"
#include "common/swizzle.h"
#include "ptx/cp_async.h"
#include "ptx/shared.h"
#include "ptx/thread.h"

namespace LACUNA_NS {
namespace sm80 {

// One 16-byte chunk; zeros if !present. Rows that are not 16-byte aligned take the second, slower path: plain loads,
// visible after the barrier that the stage needs anyway.
template <class T>
__device__ __forceinline__ void load_chunk(T* destination, const T* source, bool present, bool vectors) {
  if (vectors) {
    cp_async_16(shared_address(destination), source, present ? 16 : 0);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) destination[i] = present ? source[i] : T{0};
  }
}

// The 16 rows of each slot, kColumns elements each, of the KV head whose page 0 (or sequence 0) starts at `head`. Keys
// at or beyond kv_len and empty slots become zeros.
template <int kThreads, int kColumns, int kSlots, class T>
__device__ __forceinline__ void load_slots(T* tile, const T* head, const lacuna_strides& stride,
                                           const KeyTile<kSlots>& keys, int kv_len, bool vectors) {
  constexpr int kChunks = kColumns / 8;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const bool present = keys.key[slot] >= 0;
    const int first = keys.key[slot];
    const KeyPlace place = present ? keys.place[slot] : KeyPlace{0, 0};
    const T* from = head + place.page * stride.batch + place.row * stride.seq;
#pragma unroll
    for (int i = 0; i < (kSlotKeys * kChunks + kThreads - 1) / kThreads; ++i) {
      const int piece = i * kThreads + thread_index();
      if (kSlotKeys * kChunks % kThreads != 0 && piece >= kSlotKeys * kChunks) break;
      const int row = piece / kChunks;
      const int chunk = piece % kChunks;
      load_chunk(tile + swizzled<kColumns>(slot * kSlotKeys + row, chunk), from + row * stride.seq + chunk * 8,
                 present && first + row < kv_len, vectors);
    }
  }
}

// kRows query rows from call row `first` on; rows outside [0, q_len) become zeros.
template <int kThreads, int kColumns, int kRows, class T>
__device__ __forceinline__ void load_queries(T* tile, const T* rows, int64_t stride, int first, int q_len,
                                             bool vectors) {
  constexpr int kChunks = kColumns / 8;
  static_assert(kRows * kChunks % kThreads == 0, "threads share the chunks evenly");
#pragma unroll
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int piece = i * kThreads + thread_index();
    const int row = piece / kChunks;
    const int chunk = piece % kChunks;
    const bool present = first + row >= 0 && first + row < q_len;
    const int64_t from = present ? first + row : 0;
    load_chunk(tile + swizzled<kColumns>(row, chunk), rows + from * stride + chunk * 8, present, vectors);
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
