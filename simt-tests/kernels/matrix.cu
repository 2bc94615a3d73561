// ldmatrix, stmatrix and mma.sync: fragment layouts, addresses, bank conflicts, divergence.
#include "common/swizzle.h"
#include "harness.h"
#include "ptx/ldmatrix.h"
#include "ptx/mma.h"
#include "ptx/shared.h"
#include "ptx/stmatrix.h"

namespace lacuna_simt {

namespace {

constexpr int kSteps = 2;
constexpr int kTiles = 3;

// source: A [16][32], B [24][32] (n-major) in 16-bit elements, then C [16][24] in f32; target: A B^T + C in f32.
// One warp; fragments are gathered as the PTX ISA draws them.
template <class T>
__device__ void product(const TestParams& p) {
  const uint32_t* const a = source_words(p);
  const uint32_t* const b = a + 16 * 16;
  const float* const c = static_cast<const float*>(p.source) + 16 * 16 + 24 * 16;
  const int g = thread_index() / 4;
  const int t = thread_index() % 4;
  uint32_t fragment_a[kSteps][4];
  uint32_t fragment_b[kSteps][kTiles][2];
  float sum[kTiles][4];
  for (int k = 0; k < kSteps; ++k) {
    for (int i = 0; i < 4; ++i) fragment_a[k][i] = a[16 * (g + 8 * (i % 2)) + 8 * k + t + 4 * (i / 2)];
    for (int n = 0; n < kTiles; ++n) {
      for (int i = 0; i < 2; ++i) fragment_b[k][n][i] = b[16 * (8 * n + g) + 8 * k + t + 4 * i];
    }
  }
  for (int n = 0; n < kTiles; ++n) {
    for (int i = 0; i < 4; ++i) sum[n][i] = c[24 * (g + 8 * (i / 2)) + 8 * n + 2 * t + i % 2];
  }
  mma_m16n8k16<T>(sum, fragment_a, fragment_b);
  float* const out = static_cast<float*>(p.target);
  for (int n = 0; n < kTiles; ++n) {
    for (int i = 0; i < 4; ++i) out[24 * (g + 8 * (i / 2)) + 8 * n + 2 * t + i % 2] = sum[n][i];
  }
}

__global__ void product_bf16(const TestParams p) { product<BFloat16>(p); }
__global__ void product_f16(const TestParams p) { product<Half>(p); }

// Widens 16-bit floats: source [count][16] patterns, target [count][16] f32. A's column 0 holds them, B's row 0 ones.
template <class T>
__device__ void widen(const TestParams& p) {
  const uint16_t* const patterns = static_cast<const uint16_t*>(p.source);
  const int g = thread_index() / 4;
  const int t = thread_index() % 4;
  const uint32_t one = IsBFloat16<T>::kValue ? 0x3f80 : 0x3c00;
  for (int64_t i = block_index(); i < p.count; i += grid_blocks()) {
    float sum[1][4] = {{-0.0f, -0.0f, -0.0f, -0.0f}};
    uint32_t a[1][4] = {};
    uint32_t b[1][1][2] = {};
    if (t == 0) {
      a[0][0] = patterns[16 * i + g];
      a[0][1] = patterns[16 * i + g + 8];
      b[0][0][0] = one;
    }
    mma_m16n8k16<T>(sum, a, b);
    float* const out = static_cast<float*>(p.target) + 16 * i;
    if (t == 0) {
      out[g] = sum[0][0];
      out[g + 8] = sum[0][2];
    }
  }
}

__global__ void widen_bf16(const TestParams p) { widen<BFloat16>(p); }
__global__ void widen_f16(const TestParams p) { widen<Half>(p); }

struct Matrices {
  uint16_t element[4][8][8];
};

// source: four 8x8 matrices; target: 4 words a lane.
template <bool kTranspose>
__device__ void load(const TestParams& p) {
  Matrices& smem = shared<Matrices>();
  const int lane = thread_index();
  memcpy(smem.element[lane / 8][lane % 8], static_cast<const uint16_t*>(p.source) + 8 * lane, 16);
  sync_warp();
  uint32_t d[1][4];
  const uint32_t address[1] = {shared_address(smem.element[lane / 8][lane % 8])};
  ldmatrix_x4<kTranspose>(d, address);
  for (int i = 0; i < 4; ++i) target_words(p)[4 * lane + i] = d[0][i];
}

__global__ void load_plain(const TestParams p) { load<false>(p); }
__global__ void load_transposed(const TestParams p) { load<true>(p); }

// Planted: lane 9 gives an address off by 8 bytes (variant 0), behind the arena (1), before it (2).
template <bool kPlanted>
__global__ void load_address(const TestParams p) {
  Matrices& smem = shared<Matrices>();
  const int lane = thread_index() % 32;
  memset(smem.element[lane / 8][lane % 8], 0, 16);
  sync_threads();
  uint32_t address[1] = {shared_address(smem.element[lane / 8][lane % 8])};
  if (kPlanted && lane == 9) {
    if (p.variant == 0) address[0] += 8;
    if (p.variant == 1) address[0] = shared_address(&smem) + static_cast<uint32_t>(p.smem_bytes);
    if (p.variant == 2) address[0] = shared_address(&smem) - 16;
  }
  uint32_t d[1][4];
  ldmatrix_x4<false>(d, address);
  target_words(p)[thread_index()] = d[0][0];
}

// source: 4 words a lane; target: four 8x8 matrices.
template <bool kTranspose>
__device__ void store(const TestParams& p) {
  Matrices& smem = shared<Matrices>();
  const int lane = thread_index();
  uint32_t d[4];
  for (int i = 0; i < 4; ++i) d[i] = source_words(p)[4 * lane + i];
  stmatrix_x4<kTranspose>(shared_address(smem.element[lane / 8][lane % 8]), d);
  sync_warp();
  memcpy(target_words(p) + 4 * lane, smem.element[lane / 8][lane % 8], 16);
}

__global__ void store_plain(const TestParams p) { store<false>(p); }
__global__ void store_transposed(const TestParams p) { store<true>(p); }

// Planted: lane 9 gives an address off by 8 bytes (variant 0), behind the arena (1), before it (2).
template <bool kPlanted>
__global__ void store_address(const TestParams p) {
  Matrices& smem = shared<Matrices>();
  const int lane = thread_index() % 32;
  uint32_t address = shared_address(smem.element[lane / 8][lane % 8]);
  if (kPlanted && lane == 9) {
    if (p.variant == 0) address += 8;
    if (p.variant == 1) address = shared_address(&smem) + static_cast<uint32_t>(p.smem_bytes);
    if (p.variant == 2) address = shared_address(&smem) - 16;
  }
  const uint32_t d[4] = {};
  stmatrix_x4<false>(address, d);
  sync_threads();
  target_words(p)[thread_index()] = smem.element[lane / 8][0][0];
}

struct Tile {
  uint16_t element[64 * 64];
};

// Eight x4 loads of a [64][64] tile whose rows are 128 bytes. Variant 0: rows as they lie; 1: swizzled; 2: every
// lane the same row; 3: four different rows of one bank group, each twice.
__global__ void conflicts(const TestParams p) {
  Tile& smem = shared<Tile>();
  const int lane = thread_index();
  for (int i = lane; i < 64 * 64; i += 32) smem.element[i] = static_cast<uint16_t>(i);
  sync_warp();
  uint32_t d[8][4];
  uint32_t address[8];
  for (int i = 0; i < 8; ++i) {
    int row = 8 * (i % 2 * 4 + lane / 8) + lane % 8;
    if (p.variant == 2) row = 0;
    if (p.variant == 3) row = lane % 4;
    const int at = p.variant == 1 ? swizzled<64>(row, i) : 64 * row + 8 * i;
    address[i] = shared_address(&smem.element[at]);
  }
  ldmatrix_x4<false>(d, address);
  for (int i = 0; i < 8; ++i) target_words(p)[8 * lane + i] = d[i][0];
}

// One x4 store into a [32][64] tile whose rows are 128 bytes. Variant 0: rows as they lie; 1: swizzled.
__global__ void store_conflicts(const TestParams p) {
  Tile& smem = shared<Tile>();
  const int lane = thread_index();
  const uint32_t d[4] = {};
  const int at = p.variant == 1 ? swizzled<64>(lane, 3) : 64 * lane + 24;
  stmatrix_x4<false>(shared_address(&smem.element[at]), d);
  sync_warp();
  target_words(p)[lane] = smem.element[at];
}

// Planted: half of the warp comes to a product at another line.
template <bool kPlanted>
__global__ void divergent_product(const TestParams p) {
  const uint32_t a[1][4] = {};
  const uint32_t b[1][1][2] = {};
  float sum[1][4] = {};
  if (!kPlanted || thread_index() % 32 < 16) {
    mma_m16n8k16<BFloat16>(sum, a, b);
  } else {
    mma_m16n8k16<BFloat16>(sum, a, b);
  }
  target_words(p)[thread_index()] = static_cast<uint32_t>(sum[0][0]);
}

const TestKernel kKernels[] = {
    {"product_bf16", nullptr, start<product_bf16>},
    {"product_f16", nullptr, start<product_f16>},
    {"widen_bf16", nullptr, start<widen_bf16>},
    {"widen_f16", nullptr, start<widen_f16>},
    {"load_plain", nullptr, start<load_plain>},
    {"load_transposed", nullptr, start<load_transposed>},
    {"load_address", start<load_address<true>>, start<load_address<false>>},
    {"store_plain", nullptr, start<store_plain>},
    {"store_transposed", nullptr, start<store_transposed>},
    {"store_address", start<store_address<true>>, start<store_address<false>>},
    {"conflicts", nullptr, start<conflicts>},
    {"store_conflicts", nullptr, start<store_conflicts>},
    {"divergent_product", start<divergent_product<true>>, start<divergent_product<false>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_matrix, lacuna_simt::kKernels)
