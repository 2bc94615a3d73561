// wgmma of every shape, layout and type, and its speed.
#include <utility>

#include "warpgroup_tile.h"

namespace lacuna_simt {

namespace {

constexpr int kDepth = 64;
constexpr int kOperandA = 64 * kDepth * 2;

// What `variant` says: N / 8 in bits 0-5, the swizzle in bits 6-7, then flags.
struct Shape {
  int n;
  Swizzle swizzle;
  bool mn_major;
  bool a_in_registers;
  bool half;
  bool accumulate;

  explicit Shape(int64_t variant)
      : n(static_cast<int>(variant & 63) * 8),
        swizzle(static_cast<Swizzle>(variant >> 6 & 3)),
        mn_major((variant >> 8 & 1) != 0),
        a_in_registers((variant >> 9 & 1) != 0),
        half((variant >> 10 & 1) != 0),
        accumulate((variant >> 11 & 1) != 0) {}
};

template <class T, Major kMajor, int kCount>
__device__ void issue(const Shape& shape, float (&d)[kCount], const uint32_t (&a)[kDepth / 16][4], uint32_t a_address,
                      uint32_t b_address) {
  const int span = span_bytes(shape.swizzle);
  for (int step = 0; step < kDepth / 16; ++step) {
    const int panel = 32 * step / span;
    const int within = 32 * step % span;
    const uint64_t from_a =
        wgmma_descriptor(a_address + static_cast<uint32_t>(panel * 64 * span), 16, 8 * span, shape.swizzle);
    uint64_t from_b;
    if (kMajor == Major::kMn) {
      from_b = advanced(wgmma_descriptor(b_address, kDepth * span, 8 * span, shape.swizzle), 16 * span * step);
    } else {
      from_b = wgmma_descriptor(b_address + static_cast<uint32_t>(panel * shape.n * span), 16, 8 * span, shape.swizzle);
      from_b = advanced(from_b, within);
    }
    const bool accumulate = shape.accumulate || step > 0;
    if (shape.a_in_registers) {
      wgmma_rs<T, kMajor>(d, a[step], from_b, accumulate);
    } else {
      wgmma_ss<T, kMajor>(d, advanced(from_a, within), from_b, accumulate);
    }
  }
}

template <int kCount>
__device__ void issue_any(const Shape& shape, float* d, const uint32_t (&a)[kDepth / 16][4], uint32_t a_address,
                          uint32_t b_address) {
  float(&array)[kCount] = *reinterpret_cast<float(*)[kCount]>(d);
  if (shape.half && shape.mn_major) issue<Half, Major::kMn>(shape, array, a, a_address, b_address);
  if (shape.half && !shape.mn_major) issue<Half, Major::kK>(shape, array, a, a_address, b_address);
  if (!shape.half && shape.mn_major) issue<BFloat16, Major::kMn>(shape, array, a, a_address, b_address);
  if (!shape.half && !shape.mn_major) issue<BFloat16, Major::kK>(shape, array, a, a_address, b_address);
}

template <int... kEighths>
__device__ void issue_n(std::integer_sequence<int, kEighths...>, const Shape& shape, float* d,
                        const uint32_t (&a)[kDepth / 16][4], uint32_t a_address, uint32_t b_address) {
  (void)((shape.n == 8 * (kEighths + 1) && (issue_any<4 * (kEighths + 1)>(shape, d, a, a_address, b_address), true)) ||
         ...);
}

// source: A [64][64], B [n][64] in 16-bit elements, C [64][n] in f32; target: A B^T (+ C).
__global__ void product(const TestParams p) {
  const Shape shape(p.variant);
  unsigned char* const smem = &shared<unsigned char>();
  const uint16_t* const a = static_cast<const uint16_t*>(p.source);
  const uint16_t* const b = a + 64 * kDepth;
  const float* const c = reinterpret_cast<const float*>(b + shape.n * kDepth);
  lay_out(p, a, 64, kDepth, false, shape.swizzle, smem);
  lay_out(p, b, shape.n, kDepth, shape.mn_major, shape.swizzle, smem + kOperandA);
  fence_async_shared();
  sync_threads();
  float d[128];
  uint32_t registers[kDepth / 16][4];
  for (int step = 0; step < kDepth / 16; ++step) load_a_registers(registers[step], a, kDepth, 16 * step);
  for (int i = 0; i < shape.n / 2; ++i) d[i] = shape.accumulate ? c[accumulator_at(i, shape.n)] : 12345.0f;
  wgmma_fence();
  issue_n(std::make_integer_sequence<int, 32>(), shape, d, registers, shared_address(smem),
          shared_address(smem + kOperandA));
  wgmma_commit();
  wgmma_wait<0>();
  float* const out = static_cast<float*>(p.target);
  for (int i = 0; i < shape.n / 2; ++i) out[accumulator_at(i, shape.n)] = d[i];
}

// `count` products of 64 x 128 x 128 in each warpgroup, from the operands that the first 64 KB of shared memory hold.
__global__ void repeated(const TestParams p) {
  unsigned char* const smem = &shared<unsigned char>();
  for (int i = thread_index(); i < 192 * 128; i += static_cast<int>(p.threads)) {
    store_shared(reinterpret_cast<uint16_t*>(smem) + i, static_cast<uint16_t>(0x3f80 + i % 64));
  }
  fence_async_shared();
  sync_threads();
  const uint64_t a = wgmma_descriptor(shared_address(smem), 16, 1024, Swizzle::kSwizzle128);
  const uint64_t b = wgmma_descriptor(shared_address(smem + 16384), 16, 1024, Swizzle::kSwizzle128);
  float d[64];
  for (int64_t index = 0; index < p.count; ++index) {
    wgmma_fence();
    for (int step = 0; step < 8; ++step) {
      const uint64_t from_a = advanced(a, step / 4 * 8192 + step % 4 * 32);
      const uint64_t from_b = advanced(b, step / 4 * 16384 + step % 4 * 32);
      wgmma_ss<BFloat16, Major::kK>(d, from_a, from_b, step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
  }
  static_cast<float*>(p.target)[thread_index()] = d[0];
}

const TestKernel kKernels[] = {
    {"product", nullptr, start<product>},
    {"repeated", nullptr, start<repeated>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_warpgroup_shapes, lacuna_simt::kKernels)
