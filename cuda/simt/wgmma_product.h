// The arithmetic of wgmma: 64 x N in f32 += 64 x 16 times 16 x N of 16-bit floats.
#pragma once

#include <stdint.h>

#include "simt/wgmma_operand.h"

namespace lacuna_simt {

// Operands widened to f32. A is turned so that the 64 rows of one k lie together; B stays as it lies in shared memory,
// [column][k] when K-major and [k][column] when MN-major.
struct WgmmaScratch {
  alignas(64) float a[kWgmmaDepth][kWgmmaRows];
  alignas(64) float b[kMaxWgmmaColumns * kWgmmaDepth];
};

// A from the chunks of k_major_chunks, or from the registers of 128 threads.
void widen_a(WgmmaScratch& scratch, const unsigned char* shared_memory, const Chunk* chunks, bool bfloat16);
void widen_a(WgmmaScratch& scratch, const uint32_t (*registers)[4], bool bfloat16);
void widen_b(WgmmaScratch& scratch, const unsigned char* shared_memory, const Chunk* chunks, int count, bool bfloat16);

// c[column][row] = A B, or += with `accumulate`, over ascending k in f32. c is 64-byte aligned.
void multiply_wgmma(const WgmmaScratch& scratch, bool b_mn_major, float* c, int columns, bool accumulate);

// One thread's accumulators to and from c[column][row].
void scatter_accumulators(const float* d, int thread, float* c, int columns);
void gather_accumulators(float* d, int thread, const float* c, int columns);

}  // namespace lacuna_simt
