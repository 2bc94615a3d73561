// The token mask as a key range: every mask of lacuna_mask makes each query see one contiguous range of keys.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

// Keys [low, high).
struct KeyRange {
  int low;
  int high;
};

__host__ __device__ __forceinline__ int clamp_key(int64_t key, int kv_len) {
  return key < 0 ? 0 : key > kv_len ? kv_len : static_cast<int>(key);
}

// Keys that some query of positions [first, last] may see; positions are t + kv_len - q_len and may be negative.
__host__ __device__ __forceinline__ KeyRange visible_keys(const lacuna_mask& mask, int kv_len, int64_t first,
                                                          int64_t last) {
  int64_t low = 0;
  int64_t high = kv_len;
  if (mask.window_left >= 0) low = first - mask.window_left;
  if (mask.window_right >= 0 && last + mask.window_right + 1 < high) high = last + mask.window_right + 1;
  if (mask.causal != 0 && last + 1 < high) high = last + 1;
  KeyRange range{clamp_key(low, kv_len), clamp_key(high, kv_len)};
  if (range.high < range.low) range.high = range.low;
  return range;
}

}  // namespace LACUNA_NS
