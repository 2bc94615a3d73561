// Selection from one row of scores by one warp, without a sort: bisection over the order of f32 values finds the score
// at which the best end. A row lies in shared memory; lane l owns its elements l, l + 32, ..; NaN takes no part. Scores
// are at most FLT_MAX and never -0.
#pragma once

#include "ptx/math.h"
#include "ptx/shuffle.h"

namespace LACUNA_NS {

constexpr int32_t kAllTies = 0x7fffffff;

// Taken are the scores above `at`, and of those equal to it the first `ties`.
struct Cutoff {
  float at;
  int32_t ties;
};

__device__ __forceinline__ Cutoff everything() { return Cutoff{minus_infinity(), kAllTies}; }
__device__ __forceinline__ Cutoff nothing() { return Cutoff{-minus_infinity(), 0}; }

// Integers in the order of the floats; the inverse of itself but for the type.
__device__ __forceinline__ int32_t ordered(float value) {
  const int32_t bits = static_cast<int32_t>(float_bits(value));
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

__device__ __forceinline__ float from_ordered(int32_t key) {
  return bits_float(static_cast<uint32_t>(key ^ ((key >> 31) & 0x7fffffff)));
}

__device__ __forceinline__ int32_t middle(int32_t low, int32_t high) {
  return low + static_cast<int32_t>((static_cast<uint32_t>(high) - static_cast<uint32_t>(low)) / 2);
}

struct RowRange {
  float most;
  float least;
  int32_t count;  // of scores that take part
};

__device__ __forceinline__ RowRange row_range(const float* row, int32_t columns) {
  float most = minus_infinity();
  float most_negative = minus_infinity();
  int32_t count = 0;
  for (int32_t at = thread_index() % kWarpThreads; at < columns; at += kWarpThreads) {
    const float x = row[at];
    most = max_float(most, x);
    most_negative = max_float(most_negative, -x);
    count += x == x ? 1 : 0;
  }
  // The complement reverses the order.
  return RowRange{from_ordered(~warp_min(~ordered(most))), -from_ordered(~warp_min(~ordered(most_negative))),
                  warp_add(count)};
}

// The logarithm of the sum of exponentials; 0 where there is none, so that it can be subtracted.
__device__ __forceinline__ float row_lse(const float* row, int32_t columns, float most) {
  if (most == minus_infinity()) return 0.0f;
  float sum = 0.0f;
  for (int32_t at = thread_index() % kWarpThreads; at < columns; at += kWarpThreads) {
    const float x = row[at];
    sum += x == x ? ex2((x - most) * kLog2E) : 0.0f;
  }
  return most + lg2(warp_sum(sum)) * kLn2;
}

// The `wanted` best.
__device__ __forceinline__ Cutoff best_count(const float* row, int32_t columns, const RowRange& range, int32_t wanted) {
  if (wanted >= range.count) return everything();
  if (wanted <= 0) return nothing();
  int32_t low = ordered(range.least);      // at least `wanted` scores reach it
  int32_t high = ordered(range.most) + 1;  // `above` scores reach it, fewer than wanted
  int32_t above = 0;
  while (middle(low, high) != low) {
    const int32_t key = middle(low, high);
    const float pivot = from_ordered(key);
    int32_t count = 0;
    for (int32_t at = thread_index() % kWarpThreads; at < columns; at += kWarpThreads)
      count += row[at] >= pivot ? 1 : 0;
    count = warp_add(count);
    if (count == wanted) return Cutoff{pivot, kAllTies};
    if (count > wanted) {
      low = key;
    } else {
      high = key;
      above = count;
    }
  }
  return Cutoff{from_ordered(low), wanted - above};
}

// The fewest best whose probabilities exp(score - lse) sum up to `mass` at least; everything where rounding forbids it.
__device__ __forceinline__ Cutoff best_mass(const float* row, int32_t columns, const RowRange& range, float lse,
                                            float mass) {
  if (mass >= 1.0f) return everything();
  if (!(mass > 0.0f)) return best_count(row, columns, range, 1);
  int32_t low = ordered(range.least);
  int32_t high = ordered(range.most) + 1;
  int32_t key = low;  // the first round asks for everything
  int32_t count_low = range.count;
  int32_t count_high = 0;
  float mass_high = 0.0f;
  // Adding terms never makes a sum smaller, rounded or not, so the sums are monotone.
  for (;;) {
    const float pivot = from_ordered(key);
    int32_t count = 0;
    float sum = 0.0f;
    for (int32_t at = thread_index() % kWarpThreads; at < columns; at += kWarpThreads) {
      const float x = row[at];
      if (x >= pivot) {
        ++count;
        sum += ex2((x - lse) * kLog2E);
      }
    }
    count = warp_add(count);
    sum = warp_sum(sum);
    if (sum >= mass) {
      low = key;
      count_low = count;
    } else {
      if (key == low) return everything();
      high = key;
      count_high = count;
      mass_high = sum;
    }
    key = middle(low, high);
    if (key == low || count_low - count_high == 1) break;
  }
  const int32_t ties = count_low - count_high;
  if (ties == 1) return Cutoff{from_ordered(low), kAllTies};
  const float each = ex2((from_ordered(low) - lse) * kLog2E);
  const float missing = mass - mass_high;
  const float share = missing / each;
  if (!(share < static_cast<float>(ties))) return Cutoff{from_ordered(low), ties};
  const int32_t whole = static_cast<int32_t>(share);
  return Cutoff{from_ordered(low), whole + (static_cast<float>(whole) * each < missing ? 1 : 0)};
}

}  // namespace LACUNA_NS
