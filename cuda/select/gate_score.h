// Tiles of gate logits on CUDA cores: kRows vectors of queries against all vectors of keys that one of them sees. Keys
// come through a ring of stages, kDepth elements of kColumns vectors each; a thread owns two columns of every row.
#pragma once

#include "ptx/cp_async.h"
#include "ptx/math.h"
#include "ptx/shared.h"
#include "ptx/thread.h"
#include "select/gate_validate.h"

namespace LACUNA_NS {

constexpr int kScoreThreads = 128;
constexpr int kScoreBlocks = 4;  // thread blocks a multiprocessor that registers allow
constexpr int kScoreColumns = 2 * kScoreThreads;
constexpr int kScoreDepth = 8;  // elements of a vector in a stage
// Floats from a column of a stage to the next: three times 16 bytes, so that eight lanes' loads lie in different banks.
constexpr int kScoreStride = kScoreDepth + 4;

struct alignas(16) FourFloats {
  float x[4];
};

template <int kRows, int kStages>
struct ScoreShared {
  FourFloats ring[kStages][kScoreColumns * kScoreStride / 4];
  FourFloats queries[kRows][kMaxGateDim / 4];  // zeros behind gate_dim
};

// Keys of one head.
struct ScoreKeys {
  const float* vectors;  // [columns, gate_dim]
  int32_t columns;
  int32_t gate_dim;
  int32_t aligned;  // rows start at multiples of 16 bytes
};

template <int kRows, int kStages>
__device__ __forceinline__ void load_keys(ScoreShared<kRows, kStages>& smem, const ScoreKeys& keys, int stage,
                                          int first_column, int first) {
  constexpr int kPieces = kScoreDepth / 4;
#pragma unroll
  for (int i = 0; i < kScoreColumns * kPieces / kScoreThreads; ++i) {
    const int piece = i * kScoreThreads + thread_index();
    const int column = first_column + piece / kPieces;
    const int k = first + piece % kPieces * 4;
    FourFloats& to = smem.ring[stage][piece / kPieces * (kScoreStride / 4) + piece % kPieces];
    const float* const row = keys.vectors + (column < keys.columns ? static_cast<int64_t>(column) * keys.gate_dim : 0);
    if (keys.aligned != 0) {
      const bool there = column < keys.columns && k < keys.gate_dim;
      cp_async_16(shared_address(&to), row + (there ? k : 0), there ? 16 : 0);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) to.x[j] = column < keys.columns && k + j < keys.gate_dim ? row[k + j] : 0.0f;
    }
  }
}

// Calls store(column, dots) for every column below keys.columns; smem.queries must be written, without a barrier since.
template <int kRows, int kStages, class Store>
__device__ __forceinline__ void score_tile(ScoreShared<kRows, kStages>& smem, const ScoreKeys& keys,
                                           const Store& store) {
  const int depth_steps = (keys.gate_dim + kScoreDepth - 1) / kScoreDepth;
  const int steps = (keys.columns + kScoreColumns - 1) / kScoreColumns * depth_steps;
  const int thread = thread_index();
  // The step to load next.
  int load_column = 0;
  int load_depth = 0;
  const auto load_next = [&](int stage) {
    load_keys(smem, keys, stage, load_column, load_depth * kScoreDepth);
    if (++load_depth == depth_steps) {
      load_depth = 0;
      load_column += kScoreColumns;
    }
  };
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < steps) load_next(stage);
    cp_async_commit();
  }
  float dots[kRows][2];
  int stage = 0;
  int depth = 0;
  int column = thread;
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kStages - 2>();
    sync_threads();  // the stage is there, and the one before it has been read
    if (step + kStages - 1 < steps) load_next(stage == 0 ? kStages - 1 : stage - 1);
    cp_async_commit();
    if (depth == 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) dots[r][0] = dots[r][1] = 0.0f;
    }
    if (column < keys.columns) {
      const FourFloats* const low = smem.ring[stage] + thread * (kScoreStride / 4);
      const FourFloats* const high = low + kScoreThreads * (kScoreStride / 4);
#pragma unroll
      for (int part = 0; part < kScoreDepth / 4; ++part) {
        const FourFloats a = low[part];
        const FourFloats b = high[part];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const FourFloats q = smem.queries[r][depth * (kScoreDepth / 4) + part];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            dots[r][0] += q.x[j] * a.x[j];
            dots[r][1] += q.x[j] * b.x[j];
          }
        }
      }
    }
    stage = stage + 1 < kStages ? stage + 1 : 0;
    if (++depth < depth_steps) continue;
    depth = 0;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (column + c * kScoreThreads >= keys.columns) continue;
      float result[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) result[r] = dots[r][c];
      store(column + c * kScoreThreads, result);
    }
    column += kScoreColumns;
  }
  cp_async_wait<0>();
}

}  // namespace LACUNA_NS
