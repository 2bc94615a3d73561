// Where keys lie in k and v: in the sequence's own rows, or in the page that the block table names.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

constexpr int kSlotKeys = 16;  // keys of a slot; a page is whole slots

// 16 consecutive keys of k and v start at page * stride.batch + row * stride.seq.
struct KeyPlace {
  int page;  // or the sequence, where K and V are not paged; -1: nowhere, nobody attends the keys
  int row;
};

// Of the slot that starts at key `key`, a multiple of kSlotKeys below kv_len.
__device__ __forceinline__ KeyPlace key_place(const lacuna_shape& shape, int batch, int kv_head, int key) {
  if (shape.block_table == nullptr) return KeyPlace{batch, key};
  const int index = key / shape.page_size;
  const int page =
      shape.block_table[batch * shape.block_table_batch_stride + kv_head * shape.block_table_head_stride + index];
  return KeyPlace{page >= 0 && page < shape.pages ? page : -1, key - index * shape.page_size};
}

}  // namespace LACUNA_NS
