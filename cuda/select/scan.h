// Offsets from counts, and rows in order of descending count: one block, since plans have thousands of rows, not
// millions.
#pragma once

#include "ptx/shared.h"
#include "ptx/thread.h"

namespace LACUNA_NS {

constexpr int kScanThreads = 256;
constexpr int kLengthBuckets = 32;

struct ScanArgs {
  const int32_t* counts;  // [rows]
  int32_t rows;
  int32_t capacity;
  int32_t* offsets;   // [rows + 1], clamped to the capacity
  int32_t* overflow;  // [1] what the clamp cut off
  int32_t* order;     // [rows] longest first, or null
};

struct ScanShared {
  int64_t sums[kScanThreads];
  int32_t most[kScanThreads];
  int32_t cells[kLengthBuckets * kScanThreads];  // [bucket][thread]
};

// Exclusive prefix sum of one value a thread.
__device__ __forceinline__ int64_t block_scan(int64_t (&sums)[kScanThreads], int64_t value) {
  const int thread = thread_index();
  sums[thread] = value;
  sync_threads();
  for (int distance = 1; distance < kScanThreads; distance *= 2) {
    const int64_t left = thread >= distance ? sums[thread - distance] : 0;
    sync_threads();
    sums[thread] += left;
    sync_threads();
  }
  const int64_t before = sums[thread] - value;
  sync_threads();
  return before;
}

// Bucket 0 holds the longest rows.
__device__ __forceinline__ int length_bucket(int32_t count, int32_t most) {
  return kLengthBuckets - 1 - static_cast<int>(static_cast<int64_t>(count) * (kLengthBuckets - 1) / most);
}

template <class Args>
__global__ void __launch_bounds__(kScanThreads) scan_kernel(const __grid_constant__ Args args) {
  ScanShared& smem = shared<ScanShared>();
  const int thread = thread_index();
  // Each thread owns a run of consecutive rows, so that the order is stable.
  const int64_t begin = static_cast<int64_t>(args.rows) * thread / kScanThreads;
  const int64_t end = static_cast<int64_t>(args.rows) * (thread + 1) / kScanThreads;

  int64_t total = 0;
  int32_t most = 1;
  for (int64_t row = begin; row < end; ++row) {
    total += args.counts[row];
    most = args.counts[row] > most ? args.counts[row] : most;
  }
  int64_t at = block_scan(smem.sums, total);
  for (int64_t row = begin; row < end; ++row) {
    args.offsets[row] = static_cast<int32_t>(at < args.capacity ? at : args.capacity);
    at += args.counts[row];
  }
  if (thread == kScanThreads - 1) {
    args.offsets[args.rows] = static_cast<int32_t>(at < args.capacity ? at : args.capacity);
    const int64_t cut = at > args.capacity ? at - args.capacity : 0;
    *args.overflow = static_cast<int32_t>(cut < 0x7fffffff ? cut : 0x7fffffff);
  }
  if (args.order == nullptr) return;

  smem.most[thread] = most;
  for (int bucket = 0; bucket < kLengthBuckets; ++bucket) smem.cells[bucket * kScanThreads + thread] = 0;
  sync_threads();
  for (int i = 0; i < kScanThreads; ++i) most = smem.most[i] > most ? smem.most[i] : most;
  for (int64_t row = begin; row < end; ++row) {
    ++smem.cells[length_bucket(args.counts[row], most) * kScanThreads + thread];
  }
  sync_threads();
  // Prefix sum over cells in (bucket, thread) order: each thread takes kLengthBuckets consecutive ones.
  int64_t cells = 0;
  for (int i = 0; i < kLengthBuckets; ++i) cells += smem.cells[thread * kLengthBuckets + i];
  int32_t place = static_cast<int32_t>(block_scan(smem.sums, cells));
  for (int i = 0; i < kLengthBuckets; ++i) {
    int32_t& cell = smem.cells[thread * kLengthBuckets + i];
    const int32_t count = cell;
    cell = place;
    place += count;
  }
  sync_threads();
  for (int64_t row = begin; row < end; ++row) {
    args.order[smem.cells[length_bucket(args.counts[row], most) * kScanThreads + thread]++] = static_cast<int32_t>(row);
  }
}

}  // namespace LACUNA_NS
