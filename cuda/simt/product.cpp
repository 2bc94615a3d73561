// mma.sync and ldmatrix. One register index over the 32 lanes of a fragment is an 8x8 row-major matrix: lane 4g + t
// holds row g, columns 2t and 2t + 1. So A needs widening only, C rows are gathered as they lie, and each B register
// is one 8x8 transpose. Products of two 16-bit floats are exact in f32; sums run over ascending k in f32.
#include "simt/product.h"

#include <stdio.h>
#include <string.h>

#include "simt/banks.h"
#include "simt/collective.h"
#include "simt/error.h"
#include "simt/memory.h"
#include "simt/widen.h"

namespace lacuna_simt {

namespace {

typedef float Row __attribute__((vector_size(32)));

struct Product {
  float* c;
  const uint32_t* a;
  const uint32_t* b;
  int n_tiles;
  int k_steps;
  bool bfloat16;
};

struct MatrixLoad {
  uint32_t* d;
  const uint32_t* address;
  int count;
  bool transpose;
};

template <bool kBFloat16>
inline void widen_pair(uint32_t pair, float* low, float* high) {
  *low = widen<kBFloat16>(pair & 0xffffu);
  *high = widen<kBFloat16>(pair >> 16);
}

constexpr int kMaxSteps = 16;  // k16 steps of one collective: a head dim of 256

// c[16][8] += a[k][16] * b[k][8] over ascending k; a holds the 16 rows of one k together.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
__attribute__((target_clones("avx512f", "arch=haswell", "default")))
#endif
void multiply(const float (*a)[16], const float (*b)[8], float (*c)[8], int depth) {
  for (int half = 0; half < 16; half += 8) {
    Row rows[8];
    for (int r = 0; r < 8; ++r) memcpy(&rows[r], c[half + r], sizeof(Row));
    for (int k = 0; k < depth; ++k) {
      Row row;
      memcpy(&row, b[k], sizeof row);
      for (int r = 0; r < 8; ++r) rows[r] += a[k][half + r] * row;
    }
    for (int r = 0; r < 8; ++r) memcpy(c[half + r], &rows[r], sizeof(Row));
  }
}

template <bool kBFloat16>
void multiply_fragments(Warp& warp, int line) {
  const Product* lanes[32];
  for (int lane = 0; lane < 32; ++lane) lanes[lane] = static_cast<const Product*>(warp.arguments[lane]);
  const int n_tiles = lanes[0]->n_tiles;
  const int k_steps = lanes[0]->k_steps;
  if (k_steps > kMaxSteps) fail(line, "mma.sync: %d k steps in one call, at most %d", k_steps, kMaxSteps);
  alignas(64) float a[16 * kMaxSteps][16];
  alignas(64) float b[16 * kMaxSteps][8];
  alignas(64) float c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const uint32_t* fragment = lanes[lane]->a;
    const int g = lane >> 2;
    for (int k = 2 * (lane & 3); k < 16 * k_steps; k += 16, fragment += 4) {
      widen_pair<kBFloat16>(fragment[0], &a[k][g], &a[k + 1][g]);
      widen_pair<kBFloat16>(fragment[1], &a[k][g + 8], &a[k + 1][g + 8]);
      widen_pair<kBFloat16>(fragment[2], &a[k + 8][g], &a[k + 9][g]);
      widen_pair<kBFloat16>(fragment[3], &a[k + 8][g + 8], &a[k + 9][g + 8]);
    }
  }
  for (int n = 0; n < n_tiles; ++n) {
    for (int lane = 0; lane < 32; ++lane) {
      const uint32_t* fragment = lanes[lane]->b + 2 * n;
      const float* from = lanes[lane]->c + 4 * n;
      const int g = lane >> 2;
      const int t = 2 * (lane & 3);
      for (int k = t; k < 16 * k_steps; k += 16, fragment += 2 * n_tiles) {
        widen_pair<kBFloat16>(fragment[0], &b[k][g], &b[k + 1][g]);
        widen_pair<kBFloat16>(fragment[1], &b[k + 8][g], &b[k + 9][g]);
      }
      memcpy(&c[g][t], from, 8);
      memcpy(&c[g + 8][t], from + 2, 8);
    }
    multiply(a, b, c, 16 * k_steps);
    for (int lane = 0; lane < 32; ++lane) {
      float* to = lanes[lane]->c + 4 * n;
      const int g = lane >> 2;
      const int t = 2 * (lane & 3);
      memcpy(to, &c[g][t], 8);
      memcpy(to + 2, &c[g + 8][t], 8);
    }
  }
  warp.block->worker->counters.mma_macs += uint64_t{16 * 8 * 16} * static_cast<uint64_t>(n_tiles * k_steps);
}

void finish_product(Warp& warp, uint32_t, int line) {
  if (static_cast<Product*>(warp.arguments[0])->bfloat16) {
    multiply_fragments<true>(warp, line);
  } else {
    multiply_fragments<false>(warp, line);
  }
}

// The row of shared memory that a lane points to.
inline const unsigned char* row_of(const Warp& warp, int lane, uint32_t address, int line) {
  const Block& block = *warp.block;
  const uint32_t offset = address - kSharedBase;
  if (address % 16 == 0 && offset < block.arena_bytes && block.arena_bytes - offset >= 16) return block.arena + offset;
  char what[32];
  snprintf(what, sizeof what, "ldmatrix: lane %d", lane);
  return shared_pointer(address, 16, 16, what, line);
}

void finish_load(Warp& warp, uint32_t, int line) {
  const MatrixLoad* lanes[32];
  uint32_t* d[32];
  for (int lane = 0; lane < 32; ++lane) {
    lanes[lane] = static_cast<const MatrixLoad*>(warp.arguments[lane]);
    d[lane] = lanes[lane]->d;
  }
  const int count = lanes[0]->count;
  const bool transpose = lanes[0]->transpose;
  uint64_t extra = 0;
  for (int i = 0; i < count; ++i) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint32_t addresses[8];
      uint16_t element[8][8];
      for (int row = 0; row < 8; ++row) {
        addresses[row] = lanes[8 * matrix + row]->address[i];
        memcpy(element[row], row_of(warp, 8 * matrix + row, addresses[row], line), 16);
      }
      extra += static_cast<uint64_t>(bank_conflicts(addresses));
      const int at = 4 * i + matrix;
      for (int row = 0; row < 8; ++row) {
        for (int pair = 0; pair < 4; ++pair) {
          uint32_t* const to = &d[4 * row + pair][at];
          if (transpose) {
            *to = element[2 * pair][row] | static_cast<uint32_t>(element[2 * pair + 1][row]) << 16;
          } else {
            memcpy(to, &element[row][2 * pair], 4);
          }
        }
      }
    }
  }
  warp.block->worker->counters.bank_conflicts += extra;
}

}  // namespace

void warp_product(float* c, const uint32_t* a, const uint32_t* b, int n_tiles, int k_steps, bool bfloat16, int line) {
  Product product{c, a, b, n_tiles, k_steps, bfloat16};
  collective("mma.sync", 0xffffffffu, &product, finish_product, line);
}

void warp_ldmatrix(uint32_t* d, const uint32_t* address, int count, bool transpose, int line) {
  MatrixLoad load{d, address, count, transpose};
  collective("ldmatrix", 0xffffffffu, &load, finish_load, line);
}

}  // namespace lacuna_simt
