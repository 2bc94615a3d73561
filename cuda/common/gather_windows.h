// Which of the sorted keys a query block of a gather plan has, and which query blocks have a key.
#pragma once

#include "common/gather_tree.h"

namespace LACUNA_NS {

// Windows that a pair of a level has room for.
__host__ __device__ __forceinline__ int windows_of_pair(const lacuna_shape& shape, const lacuna_gather_plan& plan,
                                                        int level) {
  if (plan.causal == 0) return divide_up(shape.kv_len, plan.block_size);
  const int longest = longest_node(shape.q_len, level);
  return divide_up(longest - longest / 2, plan.block_size);
}

// The least windows_of_head of a plan.
inline int64_t windows_of_head(const lacuna_shape& shape, const lacuna_gather_plan& plan, int levels) {
  int64_t most = 0;
  for (int level = 0; level < levels; ++level) {
    const int64_t windows = static_cast<int64_t>(windows_of_pair(shape, plan, level)) << level;
    most = windows > most ? windows : most;
  }
  return most;
}

// Of a query head and a pair.
struct KeyWindows {
  const int32_t* starts;  // [blocks] ascending; null: block j has block j of the keys
  int blocks;             // of queries
  int queries;            // of a block
  int keys;               // of the pair
  int size;               // keys of a window

  // Place of the first key of query block `block`; behind the last key for none.
  __device__ __forceinline__ int start(int block) const {
    if (starts == nullptr) return block * size;
    const int place = starts[block];
    return place < 0 ? 0 : place < keys ? place : keys;
  }

  // The first block whose window begins behind a place.
  __device__ __forceinline__ int first_behind(int place) const {
    int low = 0;
    int high = blocks;
#pragma unroll 1
    while (low < high) {
      const int middle = (low + high) / 2;
      if (starts[middle] > place) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // Places of the queries whose windows begin at `place` or before it: from 0 to this.
  __device__ __forceinline__ int64_t queries_until(int place) const {
    const int behind = starts != nullptr ? first_behind(place) : place < 0 ? 0 : place / size + 1;
    return static_cast<int64_t>(behind) * queries;
  }
};

__device__ __forceinline__ KeyWindows key_windows(const lacuna_shape& shape, const lacuna_gather_plan& plan, int batch,
                                                  int q_head, int level, int node, const GatherPair& pair) {
  KeyWindows windows;
  windows.starts = nullptr;
  if (plan.windows != nullptr) {
    const int64_t head = (static_cast<int64_t>(level) * shape.batch + batch) * shape.q_heads + q_head;
    windows.starts =
        plan.windows + head * plan.windows_of_head + static_cast<int64_t>(node) * windows_of_pair(shape, plan, level);
  }
  windows.queries = queries_of_block(pair.queries.len, pair.keys.len, plan.block_size);
  windows.blocks = divide_up(pair.queries.len, windows.queries);
  windows.keys = pair.keys.len;
  windows.size = plan.block_size;
  return windows;
}

}  // namespace LACUNA_NS
