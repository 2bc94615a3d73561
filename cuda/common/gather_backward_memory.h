// The workspace of a backward pass over a gather plan; both sides of the launchers lay it out with the functions here.
#pragma once

#include "common/backward_memory.h"
#include "common/gather_tree.h"

namespace LACUNA_NS {

constexpr int kSamplePieceRows = 4096;  // query rows of a head whose gradients for samples are summed by one block
constexpr int kSampleTile = 64;         // samples of such a block

struct GatherBackwardMemory {
  int stat_rows;        // of a head
  float* lse;           // [batch, q_heads, stat_rows] natural log; +inf for rows that attend nothing or do not exist
  float* delta;         // [batch, q_heads, stat_rows]
  float* dq;            // causal or several rounds: [batch, q_heads, q_len, head_dim] sums, not yet scaled; or null
  float* dk;            // [batch, kv_heads, kv_len, head_dim] sums over rounds, levels and samples, not yet scaled
  float* dv;            // as dk
  float* samples;       // [pieces of a pair, pairs of a level, batch, kv_heads, sample_rows, 2, head_dim]: dk, dv
  int64_t sample_rows;  // samples in whole tiles
  int64_t cleared;      // floats from dq on that start as zeros: dq, dk and dv
};

// Parts of the queries of a pair with `queries` of them, for the samples of one KV head.
__host__ __device__ __forceinline__ int64_t sample_chunks(int queries) {
  return (static_cast<int64_t>(queries) + kSamplePieceRows - 1) / kSamplePieceRows;
}

// Queries of the longest pair of a level.
__host__ __device__ __forceinline__ int longest_pair(const lacuna_shape& shape, const lacuna_gather_plan& plan,
                                                     int level) {
  return plan.causal == 0 ? shape.q_len : longest_node(shape.q_len, level) / 2;
}

// Returns the bytes that it takes. `levels`: of the plan.
inline uint64_t lay_out(const lacuna_shape& shape, const lacuna_gather_plan& plan, int levels, void* memory,
                        GatherBackwardMemory& to) {
  to = {};
  const int64_t rows = (static_cast<int64_t>(shape.q_len) + kStatRows - 1) / kStatRows * kStatRows;
  const int64_t q_heads = static_cast<int64_t>(shape.batch) * shape.q_heads;
  const int64_t kv_heads = static_cast<int64_t>(shape.batch) * shape.kv_heads;
  to.stat_rows = static_cast<int>(rows);
  Carver carver(memory);
  to.lse = carver.take<float>(q_heads * rows);
  to.delta = carver.take<float>(q_heads * rows);
  const uint64_t before = carver.used();
  const bool sums_queries = plan.causal != 0 || plan.rounds > 1;
  to.dq = carver.take<float>(sums_queries ? q_heads * shape.q_len * shape.head_dim : 0);
  if (!sums_queries) to.dq = nullptr;
  to.dk = carver.take<float>(kv_heads * shape.kv_len * shape.head_dim);
  to.dv = carver.take<float>(kv_heads * shape.kv_len * shape.head_dim);
  to.cleared = static_cast<int64_t>((carver.used() - before) / sizeof(float));
  to.sample_rows = (static_cast<int64_t>(plan.samples) + kSampleTile - 1) / kSampleTile * kSampleTile;
  int64_t most = 0;
  for (int level = 0; level < levels; ++level) {
    const int64_t pieces = sample_chunks(longest_pair(shape, plan, level)) * (shape.q_heads / shape.kv_heads);
    most = pieces << level > most ? pieces << level : most;
  }
  to.samples = carver.take<float>(most * kv_heads * to.sample_rows * 2 * shape.head_dim);
  return carver.used();
}

// Row `sample` of the partial sums of a piece.
__host__ __device__ __forceinline__ int64_t sample_place(const GatherBackwardMemory& memory, const lacuna_shape& shape,
                                                         int level, int64_t piece, int node, int batch, int kv_head,
                                                         int64_t sample) {
  const int64_t pair = (piece << level) + node;
  return ((pair * shape.batch + batch) * shape.kv_heads + kv_head) * memory.sample_rows + sample;
}

}  // namespace LACUNA_NS
