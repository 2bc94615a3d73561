// wgmma alone: every N of the wrappers, A from shared memory and from registers, B in both layouts, both types.
#include "checks/checks.h"
#include "harness/machine.h"
#include "harness/tile.h"
#include "ptx/shared.h"
#include "ptx/wgmma.h"

namespace facts {

namespace {

constexpr int kThreads = 128;
constexpr int kRows = 64;
constexpr int kDepth = 64;  // four k16 steps: one panel of A, and of a K-major B

template <class T>
struct ProductParams {
  const T* a;           // [64][64]
  const T* b;           // [n][64]
  const float* start;   // [64][n]
  float* accumulators;  // [128][n / 2]
  int accumulate;       // 0: the first product overwrites what the registers hold
};

template <class T>
struct ProductShared {
  alignas(1024) T a[kRows * kDepth];
  alignas(1024) T b[256 * kDepth];
};

template <class T, int kN, Major kMajor, bool kRegisters>
__global__ void __launch_bounds__(kThreads) product_kernel(const ProductParams<T> p) {
  auto& smem = shared<ProductShared<T>>();
  const int thread = thread_index();
  lay_out(p.a, kRows, kDepth, false, smem.a, kThreads);
  lay_out(p.b, kN, kDepth, kMajor == Major::kMn, smem.b, kThreads);
  sync_threads();
  uint32_t registers[kDepth / 16][4];
#pragma unroll
  for (int step = 0; step < kDepth / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = accumulator_row(thread, 2 * i);
      const int column = 16 * step + 8 * (i / 2) + 2 * (thread % 4);
      registers[step][i] = p.a[row * kDepth + column].bits | static_cast<uint32_t>(p.a[row * kDepth + column + 1].bits)
                                                                 << 16;
    }
  }
  float d[kN / 2];
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) d[i] = p.start[accumulator_row(thread, i) * kN + accumulator_column(thread, i)];
  const uint64_t a = wgmma_descriptor(shared_address(smem.a), 16, 1024, Swizzle::kSwizzle128);
  // MN-major: 64 rows of k in a panel, so that the next panel of columns lies 8192 bytes on.
  constexpr int kLeading = kMajor == Major::kMn ? kDepth * 128 : 16;
  const uint64_t b = wgmma_descriptor(shared_address(smem.b), kLeading, 1024, Swizzle::kSwizzle128);
  // 16 values of k: 32 bytes along a row, or 16 rows of 128 bytes.
  constexpr int kStepB = kMajor == Major::kMn ? 2048 : 32;
  wgmma_registers(d);
#pragma unroll
  for (int step = 0; step < kDepth / 16; ++step) wgmma_registers(registers[step]);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kDepth / 16; ++step) {
    const bool accumulate = p.accumulate != 0 || step > 0;
    if constexpr (kRegisters) {
      wgmma_rs<T, kMajor>(d, registers[step], advanced(b, step * kStepB), accumulate);
    } else {
      wgmma_ss<T, kMajor>(d, advanced(a, step * 32), advanced(b, step * kStepB), accumulate);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_registers(d);
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) p.accumulators[thread * (kN / 2) + i] = d[i];
}

template <class T, int kN, Major kMajor, bool kRegisters>
void check_one(Finding& finding) {
  const Matrix a = integers(1, kRows, kDepth, 7);
  const Matrix b = integers(2, kN, kDepth, 7);
  const Matrix start = integers(3, kRows, kN, 100);
  const Matrix product = product_transposed(a, b);
  const Buffer<T> device_a(elements<T>(a));
  const Buffer<T> device_b(elements<T>(b));
  const Buffer<float> device_start(floats(start));
  for (int accumulate = 0; accumulate < 2; ++accumulate) {
    const Buffer<float> accumulators(size_t{kThreads} * kN / 2);
    const ProductParams<T> params = {device_a.data(), device_b.data(), device_start.data(), accumulators.data(),
                                     accumulate};
    run<product_kernel<T, kN, kMajor, kRegisters>>("products", 1, kThreads, sizeof(ProductShared<T>), params);
    Matrix expected = product;
    for (size_t i = 0; accumulate != 0 && i < expected.values.size(); ++i) expected.values[i] += start.values[i];
    char what[64];
    snprintf(what, sizeof what, "m64n%dk16 %s, accumulate %d", kN, type_name<T>(), accumulate);
    compare_accumulators(finding, what, accumulators.values(), kThreads, expected);
  }
}

template <Major kMajor, bool kRegisters, int... kN>
void check_each(Finding& finding) {
  (check_one<BFloat16, kN, kMajor, kRegisters>(finding), ...);
  (check_one<Half, kN, kMajor, kRegisters>(finding), ...);
}

template <Major kMajor, bool kRegisters>
void check_all(Finding& finding) {
  check_each<kMajor, kRegisters, 8, 16, 32, 64, 96, 128, 192, 256>(finding);
}

constexpr Fact kFacts[] = {
    {"wgmma_ss_k_major", "A and B from shared memory, B K-major, 128-byte swizzle: N = 8 to 256, bf16 and f16",
     check_all<Major::kK, false>},
    {"wgmma_ss_mn_major", "the same with B MN-major: panels of 64 columns at the leading offset, 2048 bytes a k16 step",
     check_all<Major::kMn, false>},
    {"wgmma_rs_k_major", "A from registers, B K-major", check_all<Major::kK, true>},
    {"wgmma_rs_mn_major", "A from registers, B MN-major", check_all<Major::kMn, true>},
};

}  // namespace

List<Fact> product_facts() { return list_of(kFacts); }

}  // namespace facts
