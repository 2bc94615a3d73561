// Vectors run over the rows of the accumulator: there are always 64, and each element of B is broadcast as it lies.
// Products of two 16-bit floats are exact in f32; sums run over ascending k in f32, one k at a time.
#include "simt/wgmma_product.h"

#include <string.h>

#include "simt/widen.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define LACUNA_WIDE_CLONES __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define LACUNA_WIDE_CLONES
#endif

namespace lacuna_simt {

namespace {

// Some rows of a column, aligned.
typedef float Rows4 __attribute__((vector_size(16), may_alias));
typedef float Rows8 __attribute__((vector_size(32), may_alias));
typedef float Rows16 __attribute__((vector_size(64), may_alias));

constexpr int kTileColumns = 8;

// A tile of one vector of rows and kTileColumns columns at a time: as many accumulators as there are registers for,
// in vectors that are registers (compilers take larger ones apart badly).
template <class Rows, bool kMnMajor>
inline __attribute__((always_inline)) void multiply_tiles(const WgmmaScratch& scratch, float* c, int columns,
                                                          bool accumulate) {
  const int stride_k = kMnMajor ? columns : 1;
  const int stride_column = kMnMajor ? 1 : kWgmmaDepth;
  constexpr int kRows = sizeof(Rows) / sizeof(float);
  for (int column = 0; column < columns; column += kTileColumns) {
    for (int row = 0; row < kWgmmaRows; row += kRows) {
      const float* b = scratch.b + stride_column * column;
      Rows* const tile = reinterpret_cast<Rows*>(c + kWgmmaRows * column + row);
      constexpr int kNextColumn = kWgmmaRows / kRows;
      Rows sum[kTileColumns] = {};
      if (accumulate) {
#pragma GCC unroll 8
        for (int j = 0; j < kTileColumns; ++j) sum[j] = tile[kNextColumn * j];
      }
      for (int k = 0; k < kWgmmaDepth; ++k, b += stride_k) {
        const Rows a = *reinterpret_cast<const Rows*>(&scratch.a[k][row]);
#pragma GCC unroll 8
        for (int j = 0; j < kTileColumns; ++j) sum[j] += a * b[stride_column * j];
      }
#pragma GCC unroll 8
      for (int j = 0; j < kTileColumns; ++j) tile[kNextColumn * j] = sum[j];
    }
  }
}

template <class Rows>
inline __attribute__((always_inline)) void multiply(const WgmmaScratch& scratch, bool b_mn_major, float* c, int columns,
                                                    bool accumulate) {
  if (b_mn_major) {
    multiply_tiles<Rows, true>(scratch, c, columns, accumulate);
  } else {
    multiply_tiles<Rows, false>(scratch, c, columns, accumulate);
  }
}

using Multiply = void(const WgmmaScratch& scratch, bool b_mn_major, float* c, int columns, bool accumulate);

void multiply_by_4(const WgmmaScratch& scratch, bool b_mn_major, float* c, int columns, bool accumulate) {
  multiply<Rows4>(scratch, b_mn_major, c, columns, accumulate);
}

#if defined(__x86_64__)
__attribute__((target("avx"))) void multiply_by_8(const WgmmaScratch& scratch, bool b_mn_major, float* c, int columns,
                                                  bool accumulate) {
  multiply<Rows8>(scratch, b_mn_major, c, columns, accumulate);
}
__attribute__((target("avx512f"))) void multiply_by_16(const WgmmaScratch& scratch, bool b_mn_major, float* c,
                                                       int columns, bool accumulate) {
  multiply<Rows16>(scratch, b_mn_major, c, columns, accumulate);
}

Multiply* widest() {
  if (__builtin_cpu_supports("avx512f")) return multiply_by_16;
  return __builtin_cpu_supports("avx") ? multiply_by_8 : multiply_by_4;
}
#else
Multiply* widest() { return multiply_by_4; }
#endif

template <bool kBFloat16>
inline __attribute__((always_inline)) void widen_chunks(float* to, const unsigned char* shared_memory,
                                                        const Chunk* chunks, int count) {
  for (int i = 0; i < count; ++i) {
    uint16_t bits[8];
    memcpy(bits, shared_memory + 16 * size_t{chunks[i]}, sizeof bits);
    for (int j = 0; j < 8; ++j) to[8 * i + j] = widen<kBFloat16>(bits[j]);
  }
}

LACUNA_WIDE_CLONES void widen_chunks_bf16(float* to, const unsigned char* shared_memory, const Chunk* chunks,
                                          int count) {
  widen_chunks<true>(to, shared_memory, chunks, count);
}
LACUNA_WIDE_CLONES void widen_chunks_f16(float* to, const unsigned char* shared_memory, const Chunk* chunks,
                                         int count) {
  widen_chunks<false>(to, shared_memory, chunks, count);
}

// values[row][k] of one k to a[k][row].
void turn(const float (*values)[kWgmmaDepth], float (*a)[kWgmmaRows]) {
  for (int row = 0; row < kWgmmaRows; ++row) {
    for (int k = 0; k < kWgmmaDepth; ++k) a[k][row] = values[row][k];
  }
}

// Row of the accumulator that a thread's register 0 belongs to, and its first column of the even pair.
inline int first_row(int thread) { return thread / 32 * 16 + thread % 32 / 4; }
inline int first_column(int thread) { return 2 * (thread % 4); }

template <bool kBFloat16>
void widen_registers(float (*a)[kWgmmaRows], const uint32_t (*registers)[4]) {
  for (int thread = 0; thread < 128; ++thread) {
    for (int i = 0; i < 4; ++i) {
      const int row = first_row(thread) + 8 * (i % 2);
      const int k = first_column(thread) + 8 * (i / 2);
      a[k][row] = widen<kBFloat16>(registers[thread][i] & 0xffffu);
      a[k + 1][row] = widen<kBFloat16>(registers[thread][i] >> 16);
    }
  }
}

}  // namespace

void widen_b(WgmmaScratch& scratch, const unsigned char* shared_memory, const Chunk* chunks, int count, bool bfloat16) {
  (bfloat16 ? widen_chunks_bf16 : widen_chunks_f16)(scratch.b, shared_memory, chunks, count);
}

void widen_a(WgmmaScratch& scratch, const unsigned char* shared_memory, const Chunk* chunks, bool bfloat16) {
  alignas(64) float values[kWgmmaRows][kWgmmaDepth];
  (bfloat16 ? widen_chunks_bf16 : widen_chunks_f16)(values[0], shared_memory, chunks, kWgmmaRows * kWgmmaDepth / 8);
  turn(values, scratch.a);
}

void widen_a(WgmmaScratch& scratch, const uint32_t (*registers)[4], bool bfloat16) {
  (bfloat16 ? widen_registers<true> : widen_registers<false>)(scratch.a, registers);
}

void multiply_wgmma(const WgmmaScratch& scratch, bool b_mn_major, float* c, int columns, bool accumulate) {
  static Multiply* const chosen = widest();
  chosen(scratch, b_mn_major, c, columns, accumulate);
}

void scatter_accumulators(const float* d, int thread, float* c, int columns) {
  c += kWgmmaRows * first_column(thread) + first_row(thread);
  for (int column = 0; column < columns; column += 8, d += 4, c += 8 * kWgmmaRows) {
    c[0] = d[0];
    c[kWgmmaRows] = d[1];
    c[8] = d[2];
    c[kWgmmaRows + 8] = d[3];
  }
}

void gather_accumulators(float* d, int thread, const float* c, int columns) {
  c += kWgmmaRows * first_column(thread) + first_row(thread);
  for (int column = 0; column < columns; column += 8, d += 4, c += 8 * kWgmmaRows) {
    d[0] = c[0];
    d[1] = c[kWgmmaRows];
    d[2] = c[8];
    d[3] = c[kWgmmaRows + 8];
  }
}

}  // namespace lacuna_simt
