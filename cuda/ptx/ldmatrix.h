// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lane 8q + r gives the address of row r of matrix q (16-byte
// aligned); lane 4r + c receives elements 2c and 2c + 1 of row r (of column r with .trans).
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/product.h"
#endif

namespace LACUNA_NS {

// kCount loads of four matrices each: kCount instructions on the GPU, one collective on the SIMT host.
template <bool kTranspose, int kCount>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[kCount][4], const uint32_t (&address)[kCount],
                                            int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warp_ldmatrix(&d[0][0], address, kCount, kTranspose, line);
#else
  (void)line;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (kTranspose) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(d[i][0]), "=r"(d[i][1]), "=r"(d[i][2]), "=r"(d[i][3])
                   : "r"(address[i])
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(d[i][0]), "=r"(d[i][1]), "=r"(d[i][2]), "=r"(d[i][3])
                   : "r"(address[i])
                   : "memory");
    }
  }
#endif
}

}  // namespace LACUNA_NS
