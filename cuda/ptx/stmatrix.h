// stmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: the inverse of ldmatrix. Lane 8q + r gives the address of row r of
// matrix q (16-byte aligned); lane 4r + c stores elements 2c and 2c + 1 of row r (of column r with .trans).
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/stmatrix.h"
#endif

namespace LACUNA_NS {

template <bool kTranspose>
__device__ __forceinline__ void stmatrix_x4(uint32_t address, const uint32_t (&d)[4], int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warp_stmatrix(address, d, kTranspose, line);
#else
  (void)line;
  if constexpr (kTranspose) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(d[0]),
                 "r"(d[1]), "r"(d[2]), "r"(d[3])
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(d[0]), "r"(d[1]),
                 "r"(d[2]), "r"(d[3])
                 : "memory");
  }
#endif
}

}  // namespace LACUNA_NS
