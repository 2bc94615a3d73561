// HBM: copies of 1 GiB within the device, and reads.
#include "measures/measures.h"
#include "measures/timing.h"
#include "ptx/thread.h"

namespace facts {

namespace {

constexpr int kThreads = 512;
constexpr size_t kBytes = size_t{1} << 30;
constexpr int kRepeats = 9;

struct alignas(16) Words {
  uint32_t word[4];
};

struct StreamParams {
  const Words* source;
  Words* target;
  int64_t count;
};

__global__ void __launch_bounds__(kThreads) copy_kernel(const StreamParams p) {
  const int64_t step = static_cast<int64_t>(grid_blocks()) * kThreads;
#pragma unroll 4
  for (int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index(); i < p.count; i += step) {
    p.target[i] = p.source[i];
  }
}

// Writes only if the sum is what it never is.
__global__ void __launch_bounds__(kThreads) read_kernel(const StreamParams p) {
  const int64_t step = static_cast<int64_t>(grid_blocks()) * kThreads;
  uint32_t sum = 0;
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(block_index()) * kThreads + thread_index(); i < p.count; i += step) {
    const Words words = p.source[i];
    sum |= words.word[0] | words.word[1] | words.word[2] | words.word[3];
  }
  if (sum == 0xFFFFFFFFu) p.target[0].word[0] = sum;
}

void measure_memory() {
  Stopwatch watch;
  Words* const source = static_cast<Words*>(allocate(kBytes));
  Words* const target = static_cast<Words*>(allocate(kBytes));
  require(cudaMemset(source, 0, kBytes), "cudaMemset");
  finish("cudaMemset");
  const StreamParams params = {source, target, static_cast<int64_t>(kBytes / sizeof(Words))};
  const int blocks = 4 * multiprocessor_count();
  const double copied = watch.median_seconds(kRepeats, [&] {
    require(cudaMemcpyAsync(target, source, kBytes, cudaMemcpyDeviceToDevice, watch.stream()), "cudaMemcpyAsync");
  });
  report_measure("hbm_copy_memcpy", 2 * kBytes / copied * 1e-12, "TB/s",
                 "cudaMemcpyAsync within the device, 1 GiB, read and written bytes, median of %d", kRepeats);
  const double moved =
      watch.median_seconds(kRepeats, [&] { start<copy_kernel>(watch, "copy", blocks, kThreads, 0, params); });
  report_measure("hbm_copy_kernel", 2 * kBytes / moved * 1e-12, "TB/s",
                 "%d blocks of %d threads, 16-byte loads and stores, 1 GiB, read and written bytes, median of %d",
                 blocks, kThreads, kRepeats);
  const double read =
      watch.median_seconds(kRepeats, [&] { start<read_kernel>(watch, "read", blocks, kThreads, 0, params); });
  report_measure("hbm_read_kernel", kBytes / read * 1e-12, "TB/s",
                 "%d blocks of %d threads, 16-byte loads, 1 GiB, median of %d", blocks, kThreads, kRepeats);
  release(source);
  release(target);
}

constexpr Measure kMeasures[] = {
    {"memory", "HBM bandwidth of copies and reads", measure_memory},
};

}  // namespace

List<Measure> memory_measures() { return list_of(kMeasures); }

}  // namespace facts
