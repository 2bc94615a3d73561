// Eight neighbouring elements of a row at once.
#pragma once

#include "ptx/cvt.h"

namespace LACUNA_NS {

template <class T>
struct alignas(16) Eight {
  T x[8];
};

// vectors: `from` is aligned to 16 bytes.
template <class T>
__device__ __forceinline__ void load_eight(float (&to)[8], const T* from, bool vectors) {
  Eight<T> eight;
  if (vectors) {
    eight = *reinterpret_cast<const Eight<T>*>(from);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) eight.x[i] = from[i];
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = to_float(eight.x[i]);
}

}  // namespace LACUNA_NS
