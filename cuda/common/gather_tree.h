// The pairs and leaves of a gather plan (lacuna_gather_plan says what they are), from lengths alone.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

constexpr int kMaxGatherLevels = 31;  // 2^30 tokens can be halved 30 times

__host__ __device__ __forceinline__ int divide_up(int a, int b) { return a / b + (a % b != 0 ? 1 : 0); }

// Queries of a block of a pair, which has no more of these blocks than of key blocks.
__host__ __device__ __forceinline__ int queries_of_block(int queries, int keys, int block_size) {
  return divide_up(queries, divide_up(keys, block_size));
}

// Tokens [start, start + len).
struct Segment {
  int start;
  int len;
};

// Node `index` of level `level` of the tree over n tokens: the bits of the index, the highest first, say which half.
__host__ __device__ __forceinline__ Segment tree_node(int n, int level, int index) {
  Segment node{0, n};
  for (int bit = level - 1; bit >= 0; --bit) {
    const int first = node.len - node.len / 2;
    const bool second = (index >> bit & 1) != 0;
    node.start += second ? first : 0;
    node.len = second ? node.len / 2 : first;
  }
  return node;
}

__host__ __device__ __forceinline__ bool has_halves(int len, int min_seq_len) { return len / 2 >= min_seq_len; }

// Nodes of a level differ by one token at most; this is the longest.
__host__ __device__ __forceinline__ int longest_node(int n, int level) {
  return static_cast<int>((static_cast<int64_t>(n) + (int64_t{1} << level) - 1) >> level);
}

// Levels with pairs.
__host__ __device__ __forceinline__ int gather_levels(const lacuna_gather_plan& plan, int n) {
  if (plan.causal == 0) return 1;
  int levels = 0;
  while (has_halves(longest_node(n, levels), plan.min_seq_len)) ++levels;
  return levels;
}

// The queries and keys that meet in sorted order; both empty for a node that is a leaf.
struct GatherPair {
  Segment queries;
  Segment keys;
};

__host__ __device__ __forceinline__ GatherPair gather_pair(const lacuna_shape& shape, const lacuna_gather_plan& plan,
                                                           int level, int index) {
  if (plan.causal == 0) return GatherPair{{0, shape.q_len}, {0, shape.kv_len}};
  const Segment node = tree_node(shape.q_len, level, index);
  if (!has_halves(node.len, plan.min_seq_len)) return GatherPair{{0, 0}, {0, 0}};
  const int first = node.len - node.len / 2;
  return GatherPair{{node.start + first, node.len / 2}, {node.start, first}};
}

// The leaf that holds token `token` of n.
__host__ __device__ __forceinline__ Segment leaf_of(int n, const lacuna_gather_plan& plan, int token) {
  Segment node{0, n};
  while (has_halves(node.len, plan.min_seq_len)) {
    const int first = node.len - node.len / 2;
    const bool second = token >= node.start + first;
    node.start += second ? first : 0;
    node.len = second ? node.len / 2 : first;
  }
  return node;
}

// The index of the node of a level that holds token `token` of n, or would if leaves were halved on.
__device__ __forceinline__ int node_of(int n, int level, int token) {
  Segment node{0, n};
  int index = 0;
  for (int l = 0; l < level; ++l) {
    const int first = node.len - node.len / 2;
    const bool second = token >= node.start + first;
    node.start += second ? first : 0;
    node.len = second ? node.len / 2 : first;
    index = 2 * index + (second ? 1 : 0);
  }
  return index;
}

// (Query, key) of a pair that a leaf attends, not the pair: queries before `queries_end` and keys from `keys_from` on.
struct LocalRows {
  int queries_end;
  int keys_from;
};

__host__ __device__ __forceinline__ LocalRows local_rows(const lacuna_gather_plan& plan, const GatherPair& pair) {
  const int keys_end = pair.keys.start + pair.keys.len;
  if (plan.local == 0) return LocalRows{pair.queries.start, keys_end};
  // Those of the leaf that the queries begin with.
  const int first_leaf = leaf_of(pair.queries.len, plan, 0).len;
  return LocalRows{pair.queries.start + first_leaf, keys_end - plan.local};
}

// First key of a leaf: leaves have min_seq_len tokens or more, so that `local` keys are there unless it is the first.
__host__ __device__ __forceinline__ int leaf_keys_start(const lacuna_gather_plan& plan, const Segment& leaf) {
  return leaf.start < plan.local ? 0 : leaf.start - plan.local;
}

// Packed row of query `row` of a pair in a level's partials: the pairs of a level take q_len / 2 rows at most.
__host__ __device__ __forceinline__ int partial_place(const GatherPair& pair, int row) {
  return pair.keys.start / 2 + row - pair.queries.start;
}

// Index of a pair in sample_places; one less than its node.
__host__ __device__ __forceinline__ int64_t pair_number(int level, int index) {
  return (int64_t{1} << level) - 1 + index;
}

}  // namespace LACUNA_NS
