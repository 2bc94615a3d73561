// Several rounds of hashing: a round's own part of a plan, and which of its keys a query has in a later round.
#pragma once

#include "common/gather_windows.h"

namespace LACUNA_NS {

constexpr int kMaxRounds = 8;

// The plan of one round, as if it were the only one but for the later rounds, which it keeps in its last fields: it
// leaves to them the keys that a query has in one of them. The first round has the samples.
inline lacuna_gather_plan plan_of_round(const lacuna_shape& shape, const lacuna_gather_plan& plan, int round) {
  const int64_t q_heads = static_cast<int64_t>(plan.levels) * shape.batch * shape.q_heads;
  const int64_t kv_heads = static_cast<int64_t>(plan.levels) * shape.batch * shape.kv_heads;
  lacuna_gather_plan of_round = plan;
  of_round.rounds = plan.rounds - round;
  of_round.q_order += round * q_heads * shape.q_len;
  of_round.k_order += round * kv_heads * shape.kv_len;
  if (plan.windows != nullptr) of_round.windows += round * q_heads * plan.windows_of_head;
  if (plan.rounds > 1) {
    of_round.k_places += round * kv_heads * shape.kv_len;
    of_round.q_starts += round * q_heads * shape.q_len;
  }
  if (round > 0) of_round.samples = of_round.exact = 0;
  return of_round;
}

// Whether queries have keys in later rounds; of the heads and the level of a pair.
struct LaterRounds {
  int count;
  int size;                 // keys of a window
  const int32_t* k_places;  // of the first of them
  const int32_t* q_starts;  // of the first of them and the first query head
  int64_t k_stride;         // from round to round
  int64_t q_stride;

  __device__ __forceinline__ int start(int round, int64_t query) const { return q_starts[round * q_stride + query]; }
  __device__ __forceinline__ bool has(int round, int start, int key) const {
    return static_cast<uint32_t>(k_places[round * k_stride + key] - start) < static_cast<uint32_t>(size);
  }
};

__device__ __forceinline__ LaterRounds later_rounds(const lacuna_shape& shape, const lacuna_gather_plan& plan,
                                                    int level, int batch, int q_head, int kv_head) {
  LaterRounds later;
  later.count = plan.rounds - 1;
  later.size = plan.block_size;
  const int64_t q_heads = static_cast<int64_t>(shape.batch) * shape.q_heads;
  const int64_t kv_heads = static_cast<int64_t>(shape.batch) * shape.kv_heads;
  later.k_stride = plan.levels * kv_heads * shape.kv_len;
  later.q_stride = plan.levels * q_heads * shape.q_len;
  later.k_places = plan.k_places;
  later.q_starts = plan.q_starts;
  if (later.count > 0) {
    later.k_places += (level * kv_heads + static_cast<int64_t>(batch) * shape.kv_heads + kv_head) * shape.kv_len;
    later.q_starts += (level * q_heads + static_cast<int64_t>(batch) * shape.q_heads + q_head) * shape.q_len;
  }
  return later;
}

}  // namespace LACUNA_NS
