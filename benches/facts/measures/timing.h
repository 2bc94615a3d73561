// Time on the device, by events.
#pragma once

#include <algorithm>
#include <vector>

#include "harness/machine.h"

namespace facts {

inline void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess) give_up("%s: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

inline int multiprocessor_count() { return multiprocessors(nullptr); }

// A stream of the measure's own: the default one can't be captured.
class Stopwatch {
 public:
  Stopwatch() {
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    require(cudaEventCreate(&begin_), "cudaEventCreate");
    require(cudaEventCreate(&end_), "cudaEventCreate");
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  cudaStream_t stream() const { return stream_; }

  // Seconds that what `work` puts on the stream takes.
  template <class Work>
  double seconds(const Work& work) {
    require(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    work();
    require(cudaEventRecord(end_, stream_), "cudaEventRecord");
    require(cudaEventSynchronize(end_), "a measured kernel");
    float ms = 0;
    require(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
    return static_cast<double>(ms) / 1000;
  }

  // Median of `repeats` runs, after two that do not count.
  template <class Work>
  double median_seconds(int repeats, const Work& work) {
    std::vector<double> all;
    for (int i = 0; i < repeats + 2; ++i) {
      const double taken = seconds(work);
      if (i >= 2) all.push_back(taken);
    }
    return median(all);
  }

  // Runs `work` again and again for `span` seconds; median of the second half, when clocks have settled.
  template <class Work>
  double sustained_seconds(double span, const Work& work) {
    std::vector<double> all;
    double total = 0;
    while (total < span || all.size() < 4) {
      all.push_back(seconds(work));
      total += all.back();
    }
    return median(std::vector<double>(all.begin() + static_cast<int64_t>(all.size() / 2), all.end()));
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_;
  cudaEvent_t end_;
};

// Puts a kernel on the stream of a stopwatch.
template <auto kKernel, class P>
void start(const Stopwatch& watch, const char* name, int blocks, int threads, size_t smem_bytes, const P& params) {
  if (launch<kKernel>(name, blocks, threads, smem_bytes, watch.stream(), params) != LACUNA_OK) {
    give_up("%s", last_error());
  }
}

}  // namespace facts
