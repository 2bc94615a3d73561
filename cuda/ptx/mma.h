// mma.sync.aligned.m16n8k16.row.col.f32.{f16,bf16}: C += A * B, one warp.
//
// Fragments, lane = 4 g + t: A[ks] = {(g, 2t..), (g+8, 2t..), (g, 2t+8..), (g+8, 2t+8..)} as packed pairs,
// B[ks][nt] = {(k = 2t.., n = g), (k = 2t+8.., n = g)}, C[nt] = {(g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1)}.
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/product.h"
#endif

namespace LACUNA_NS {

// A row of kN n8 tiles over kK k16 steps, k ascending. The GPU runs kK * kN instructions, the SIMT host one collective.
template <class T, int kK, int kN>
__device__ __forceinline__ void mma_m16n8k16(float (&c)[kN][4], const uint32_t (&a)[kK][4],
                                             const uint32_t (&b)[kK][kN][2], int line = __builtin_LINE()) {
#if LACUNA_SIMT
  warp_product(&c[0][0], &a[0][0], &b[0][0][0], kN, kK, IsBFloat16<T>::kValue, line);
#else
  (void)line;
#pragma unroll
  for (int k = 0; k < kK; ++k) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      if constexpr (IsBFloat16<T>::kValue) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
            : "r"(a[k][0]), "r"(a[k][1]), "r"(a[k][2]), "r"(a[k][3]), "r"(b[k][n][0]), "r"(b[k][n][1]));
      } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
            : "r"(a[k][0]), "r"(a[k][1]), "r"(a[k][2]), "r"(a[k][3]), "r"(b[k][n][0]), "r"(b[k][n][1]));
      }
    }
  }
#endif
}

}  // namespace LACUNA_NS
