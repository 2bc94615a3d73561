// Where the rows of a tensor of 16-bit elements start.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

// Whether every row starts at a multiple of `bytes`.
inline bool row_starts_aligned(const void* pointer, const lacuna_strides& stride, int bytes) {
  const int64_t elements = bytes / 2;
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0 && stride.batch % elements == 0 &&
         stride.head % elements == 0 && stride.seq % elements == 0;
}

}  // namespace LACUNA_NS
