// Offsets of lists from their lengths, cut to the capacity: one block, since plans have thousands of lists. Where they
// do not fit, all are cut to the longest common length that does, and what is left over goes to the first longer ones,
// one more each.
#pragma once

#include "ptx/shared.h"
#include "select/scan.h"

namespace LACUNA_NS {

struct CutArgs {
  const int32_t* counts;  // [lists]
  int32_t lists;
  int32_t capacity;
  int32_t* offsets;   // [lists + 1]
  int32_t* overflow;  // [1] what did not fit
};

// Sum of one value a thread, on every thread.
__device__ __forceinline__ int64_t block_total(int64_t (&sums)[kScanThreads], int64_t value) {
  sums[thread_index()] = value;
  sync_threads();
  int64_t total = 0;
  for (int i = 0; i < kScanThreads; ++i) total += sums[i];
  sync_threads();
  return total;
}

template <class Args>
__global__ void __launch_bounds__(kScanThreads) gate_cut_kernel(const __grid_constant__ Args args) {
  ScanShared& smem = shared<ScanShared>();
  const int thread = thread_index();
  const int64_t begin = static_cast<int64_t>(args.lists) * thread / kScanThreads;
  const int64_t end = static_cast<int64_t>(args.lists) * (thread + 1) / kScanThreads;
  int64_t sum = 0;
  int32_t most = 0;
  for (int64_t list = begin; list < end; ++list) {
    sum += args.counts[list];
    most = args.counts[list] > most ? args.counts[list] : most;
  }
  const int64_t total = block_total(smem.sums, sum);
  smem.most[thread] = most;
  sync_threads();
  for (int i = 0; i < kScanThreads; ++i) most = smem.most[i] > most ? smem.most[i] : most;

  int32_t length = most;  // lists of this length fit
  int64_t left = 0;       // lists that may have one more
  if (total > args.capacity) {
    length = 0;
    int32_t too_long = most;
    left = args.capacity;
    while (too_long - length > 1) {
      const int32_t middle = length + (too_long - length) / 2;
      int64_t cut = 0;
      for (int64_t list = begin; list < end; ++list) cut += args.counts[list] < middle ? args.counts[list] : middle;
      cut = block_total(smem.sums, cut);
      if (cut <= args.capacity) {
        length = middle;
        left = args.capacity - cut;
      } else {
        too_long = middle;
      }
    }
  }
  int64_t longer = 0;
  int64_t kept = sum;
  if (total > args.capacity) {
    kept = 0;
    for (int64_t list = begin; list < end; ++list) {
      longer += args.counts[list] > length ? 1 : 0;
      kept += args.counts[list] > length ? length : args.counts[list];
    }
  }
  const int64_t longer_before = block_scan(smem.sums, longer);
  // Of the longer lists before this thread's, so many have one more.
  int64_t more = longer_before < left ? longer_before : left;
  int64_t at = block_scan(smem.sums, kept) + more;
  for (int64_t list = begin; list < end; ++list) {
    args.offsets[list] = static_cast<int32_t>(at);
    const bool cut = args.counts[list] > length;
    at += cut ? length : args.counts[list];
    if (cut && more < left) {
      ++more;
      ++at;
    }
  }
  if (thread == kScanThreads - 1) {
    args.offsets[args.lists] = static_cast<int32_t>(at);
    const int64_t cut = total - at;
    *args.overflow = static_cast<int32_t>(cut < 0x7fffffff ? cut : 0x7fffffff);
  }
}

}  // namespace LACUNA_NS
