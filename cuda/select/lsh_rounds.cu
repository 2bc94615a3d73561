// Where each row of rounds 1 and on stands: keys in the sorted keys of their pair, queries by where their block or
// window begins there. Earlier rounds leave out the pairs of rows that meet so.
#include "common/gather_rounds.h"
#include "common/validate.h"
#include "ptx/thread.h"
#include "select/lsh.h"

namespace LACUNA_NS {
namespace lsh {

namespace {

constexpr int kThreads = 256;

// A place in the sorted rows of a head, on a level of a round.
struct Place {
  int64_t head;  // of all sequences
  int level;
  int at;  // among the head's rows
  int node;
  GatherPair pair;
  bool valid;

  __device__ __forceinline__ Place(const lacuna_hyper_plan_params& p, int64_t heads, int len) {
    int64_t index = static_cast<int64_t>(block_index()) * kThreads + thread_index();
    at = static_cast<int>(index % len);
    index /= len;
    head = index % heads;
    level = static_cast<int>(index / heads);
    valid = level < p.plan.levels;
    if (!valid) return;
    node = p.plan.causal != 0 ? node_of(len, level, at) : 0;
    pair = gather_pair(p.shape, p.plan, level, node);
  }
};

// A thread a place of a round, which k_places and q_starts begin with.
__global__ void __launch_bounds__(kThreads) lsh_key_places_kernel(const __grid_constant__ lacuna_hyper_plan_params p) {
  const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
  const Place place(p, heads, p.shape.kv_len);
  if (!place.valid) return;
  const Segment& keys = place.pair.keys;
  if (place.at < keys.start || place.at >= keys.start + keys.len) return;
  const int64_t first = (place.level * heads + place.head) * p.shape.kv_len;
  p.plan.k_places[first + p.plan.k_order[first + place.at]] = place.at - keys.start;
}

__global__ void __launch_bounds__(kThreads)
    lsh_query_starts_kernel(const __grid_constant__ lacuna_hyper_plan_params p) {
  const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.q_heads;
  const Place place(p, heads, p.shape.q_len);
  if (!place.valid) return;
  const Segment& queries = place.pair.queries;
  if (place.at < queries.start || place.at >= queries.start + queries.len) return;
  const KeyWindows windows =
      key_windows(p.shape, p.plan, static_cast<int>(place.head / p.shape.q_heads),
                  static_cast<int>(place.head % p.shape.q_heads), place.level, place.node, place.pair);
  const int64_t first = (place.level * heads + place.head) * p.shape.q_len;
  const int block = (place.at - queries.start) / windows.queries;
  p.plan.q_starts[first + p.plan.q_order[first + place.at]] = windows.start(block);
}

}  // namespace

int32_t launch_rounds(const lacuna_hyper_plan_params& p, void* stream) {
  const int64_t keys = static_cast<int64_t>(p.plan.levels) * p.shape.batch * p.shape.kv_heads * p.shape.kv_len;
  const int64_t queries = static_cast<int64_t>(p.plan.levels) * p.shape.batch * p.shape.q_heads * p.shape.q_len;
  for (int round = 1; round < p.plan.rounds; ++round) {
    lacuna_hyper_plan_params of_round = p;
    of_round.plan = plan_of_round(p.shape, p.plan, round);
    // The round's own, before those of later ones.
    of_round.plan.k_places -= keys;
    of_round.plan.q_starts -= queries;
    LACUNA_CHECK(launch<lsh_key_places_kernel>("lsh_key_places", (keys + kThreads - 1) / kThreads, kThreads, 0, stream,
                                               of_round));
    LACUNA_CHECK(launch<lsh_query_starts_kernel>("lsh_query_starts", (queries + kThreads - 1) / kThreads, kThreads, 0,
                                                 stream, of_round));
  }
  return LACUNA_OK;
}

}  // namespace lsh
}  // namespace LACUNA_NS
