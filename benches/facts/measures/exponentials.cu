// ex2 at full rate.
#include "measures/clock.h"
#include "measures/measures.h"
#include "measures/timing.h"
#include "ptx/math.h"

namespace facts {

namespace {

constexpr int kThreads = 1024;
constexpr int kChains = 8;  // independent ones of a thread
constexpr int kIterations = 40000;
constexpr int kRepeats = 5;

struct ExponentialParams {
  float* out;  // [blocks][1024]
  int64_t* cycles;
  float start;
};

__global__ void __launch_bounds__(kThreads, 1) exponential_kernel(const ExponentialParams p) {
  float x[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) x[i] = p.start * static_cast<float>(i + thread_index());
  sync_threads();
  const int64_t begin = cycles();
#pragma unroll 2
  for (int iteration = 0; iteration < kIterations; ++iteration) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) x[i] = ex2(-x[i]);  // stays in 0..=1, and the sign costs nothing
  }
  sync_threads();
  report_cycles(p.cycles, begin);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kChains; ++i) sum += x[i];
  p.out[block_index() * kThreads + thread_index()] = sum;
}

void measure_exponentials() {
  Stopwatch watch;
  const int blocks = multiprocessor_count();
  const Buffer<float> out(static_cast<size_t>(blocks) * kThreads);
  const Buffer<int64_t> cycle_count(1);
  const ExponentialParams params = {out.data(), cycle_count.data(), 1e-3f};
  const double taken = watch.median_seconds(
      kRepeats, [&] { start<exponential_kernel>(watch, "exponentials", blocks, kThreads, 0, params); });
  const double each = double{kThreads} * kChains * kIterations;
  report_measure("ex2_rate", each * blocks / taken * 1e-12, "T/s",
                 "%d blocks of %d threads, %d chains each, median of %d", blocks, kThreads, kChains, kRepeats);
  report_measure("ex2_per_clock", each / static_cast<double>(cycle_count.values()[0]), "1/clock",
                 "of a multiprocessor, by its cycle counter; 16 expected");
}

constexpr Measure kMeasures[] = {
    {"exponentials", "rate of ex2.approx.ftz.f32", measure_exponentials},
};

}  // namespace

List<Measure> exponential_measures() { return list_of(kMeasures); }

}  // namespace facts
