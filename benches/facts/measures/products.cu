// wgmma at full rate on every multiprocessor, operands in shared memory: single shapes, and the two products of the
// forward kernel without softmax or loads.
#include "harness/tile.h"
#include "measures/clock.h"
#include "measures/measures.h"
#include "measures/timing.h"
#include "sm90/forward/attend.h"

namespace facts {

namespace {

constexpr int kThreads = 256;  // two warpgroups, as the forward kernel's consumers
constexpr int kDepth = 64;     // one panel of k
constexpr double kSpan = 1.0;  // seconds

struct RateParams {
  float* out;       // [blocks][256], so that nothing is dropped
  int64_t* cycles;  // of block 0
  int iterations;
  uint32_t seed;  // 0: operands of zeros
};

// About normal values in bf16, or zeros. Full of different bits: power, and so the clock, depends on the data.
__device__ __forceinline__ void fill_operands(BFloat16* to, int count, uint32_t seed) {
  for (int i = thread_index(); i < count; i += kThreads) {
    const uint32_t bits = mixed(static_cast<uint32_t>(i) + seed * 0x9e3779b9u);
    // Sign and mantissa by chance, exponents from 2^-3 to 2^0.
    const uint32_t value = (bits & 0x807Fu) | (124 + (bits >> 16 & 3)) << 7;
    store_shared(to + i, BFloat16{static_cast<uint16_t>(seed == 0 ? 0 : value)});
  }
}

template <int kN>
struct RateShared {
  alignas(1024) BFloat16 a[2 * 64 * kDepth];
  alignas(1024) BFloat16 b[kN * kDepth];
};

template <int kN, bool kRegisters>
__global__ void __launch_bounds__(kThreads, 1) rate_kernel(const RateParams p) {
  auto& smem = shared<RateShared<kN>>();
  const int warpgroup = shuffle(thread_index() / 128, 0);
  fill_operands(smem.a, 2 * 64 * kDepth, p.seed);
  fill_operands(smem.b, kN * kDepth, p.seed == 0 ? 0 : p.seed + 1);
  fence_async_shared();
  sync_threads();
  const uint64_t a = wgmma_descriptor(shared_address(smem.a + warpgroup * 64 * kDepth), 16, 1024, Swizzle::kSwizzle128);
  const uint64_t b = wgmma_descriptor(shared_address(smem.b), kDepth * 128, 1024, Swizzle::kSwizzle128);
  uint32_t held[kDepth / 16][4];
#pragma unroll
  for (int step = 0; step < kDepth / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      held[step][i] = *reinterpret_cast<const uint32_t*>(smem.a + 2 * (thread_index() % 128) + 256 * (4 * step + i));
    }
  }
  float d[kN / 2];
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) d[i] = 0.0f;
  const int64_t begin = cycles();
  wgmma_registers(d);
#pragma unroll
  for (int step = 0; step < kDepth / 16; ++step) wgmma_registers(held[step]);
#pragma unroll 1
  for (int iteration = 0; iteration < p.iterations; ++iteration) {
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
      if constexpr (kRegisters) {
        wgmma_rs<BFloat16, Major::kMn>(d, held[step], advanced(b, step * 2048), true);
      } else {
        wgmma_ss<BFloat16, Major::kK>(d, advanced(a, step * 32), advanced(b, step * 32), true);
      }
    }
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  wgmma_registers(d);
  report_cycles(p.cycles, begin);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) sum += d[i];
  p.out[block_index() * kThreads + thread_index()] = sum;
}

template <class Traits>
struct PairShared {
  using T = typename Traits::Element;
  alignas(1024) T q[Traits::kQueryTile];
  alignas(1024) T k[Traits::kKeyTile];
  alignas(1024) T v[Traits::kKeyTile];
};

// Q K^T and P V of a key tile in each iteration, both in flight, as in the hot loop of the forward kernel.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) pair_kernel(const RateParams p) {
  using Traits = sm90::ForwardTraits<kHeadDim, BFloat16, sm90::KeyLoads::kBoxes, false>;
  auto& smem = shared<PairShared<Traits>>();
  const int warpgroup = shuffle(thread_index() / 128, 0);
  fill_operands(smem.q, Traits::kQueryTile, p.seed);
  fill_operands(smem.k, Traits::kKeyTile, p.seed + 1);
  fill_operands(smem.v, Traits::kKeyTile, p.seed + 2);
  fence_async_shared();
  sync_threads();
  const uint32_t q = shared_address(smem.q) + warpgroup * 8192;
  float s[sm90::kTileKeys / 2];
  float o[kHeadDim / 2];
  uint32_t packed[sm90::kTileKeys / 16][4];
#pragma unroll
  for (int i = 0; i < sm90::kTileKeys / 4; ++i) {
    packed[i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(smem.q + 2 * (thread_index() % 128) + 256 * (i % 16));
  }
#pragma unroll
  for (int i = 0; i < kHeadDim / 2; ++i) o[i] = 0.0f;
  float sum = 0.0f;
  const int64_t begin = cycles();
#pragma unroll 1
  for (int iteration = 0; iteration < p.iterations; ++iteration) {
    sm90::query_key<Traits, sm90::kTileKeys>(s, q, shared_address(smem.k));
    sm90::probability_value<Traits, sm90::kTileKeys>(o, packed, shared_address(smem.v));
    wgmma_wait<0>();
    wgmma_registers(s);
    wgmma_registers(o);
    sum += s[0];
  }
  report_cycles(p.cycles, begin);
#pragma unroll
  for (int i = 0; i < kHeadDim / 2; ++i) sum += o[i];
  p.out[block_index() * kThreads + thread_index()] = sum;
}

// `flop` of a warpgroup in an iteration.
template <void (*kKernel)(RateParams)>
void measure_rate(const char* name, size_t smem_bytes, double flop, uint32_t seed, const char* what) {
  Stopwatch watch;
  const int blocks = multiprocessor_count();
  const Buffer<float> out(static_cast<size_t>(blocks) * kThreads);
  const Buffer<int64_t> cycle_count(1);
  // About 20 ms a launch.
  const double per_block = flop * 2;
  RateParams params = {out.data(), cycle_count.data(), static_cast<int>(0.02 * 4096 * 1.7e9 / per_block), seed};
  const double taken =
      watch.sustained_seconds(kSpan, [&] { start<kKernel>(watch, name, blocks, kThreads, smem_bytes, params); });
  const double spent = static_cast<double>(cycle_count.values()[0]);
  char line[96];
  snprintf(line, sizeof line, "wgmma_%s", name);
  report_measure(line, per_block * params.iterations * blocks / taken * 1e-12, "TFLOP/s",
                 "%s, %s, 2 warpgroups on %d multiprocessors, %.1f s, median launch of the second half", what,
                 seed == 0 ? "zeros" : "random bits of about normal size", blocks, kSpan);
  snprintf(line, sizeof line, "wgmma_%s_per_clock", name);
  report_measure(line, per_block * params.iterations / spent, "FLOP/clock",
                 "of a multiprocessor, by its cycle counter; the peak is 4096");
  snprintf(line, sizeof line, "wgmma_%s_clock", name);
  report_measure(line, spent / taken * 1e-6, "MHz", "cycles of the last launch over the time of the median one");
}

template <int kN, bool kRegisters>
void measure_shape(const char* name, uint32_t seed) {
  char what[96];
  snprintf(what, sizeof what, "m64n%dk16 bf16, A from %s, B %s", kN, kRegisters ? "registers" : "shared memory",
           kRegisters ? "MN-major" : "K-major");
  measure_rate<rate_kernel<kN, kRegisters>>(name, sizeof(RateShared<kN>), 2.0 * 64 * kN * kDepth, seed, what);
}

void measure_shapes() {
  measure_shape<64, false>("ss_n64", 1);
  measure_shape<128, false>("ss_n128", 1);
  measure_shape<256, false>("ss_n256", 1);
  measure_shape<64, true>("rs_n64", 1);
  measure_shape<128, true>("rs_n128", 1);
  measure_shape<128, false>("ss_n128_zeros", 0);
}

template <int kHeadDim>
void measure_pair(const char* name) {
  using Traits = sm90::ForwardTraits<kHeadDim, BFloat16, sm90::KeyLoads::kBoxes, false>;
  measure_rate<pair_kernel<kHeadDim>>(name, sizeof(PairShared<Traits>), 4.0 * 64 * sm90::kTileKeys * kHeadDim, 1,
                                      "Q K^T and P V of 128 keys, no softmax, no loads");
}

void measure_pairs() {
  measure_pair<128>("attend_d128");
  measure_pair<64>("attend_d64");
}

constexpr Measure kMeasures[] = {
    {"wgmma_shapes", "TFLOP/s and clock of single shapes, 1 s each", measure_shapes},
    {"wgmma_attend", "TFLOP/s and clock of the forward kernel's products alone, 1 s each", measure_pairs},
};

}  // namespace

List<Measure> product_measures() { return list_of(kMeasures); }

}  // namespace facts
