// Gather plans from hashes: checks a request, lays out its scratch memory, and runs the steps.
#include "common/gather_checks.h"
#include "families.h"
#include "select/lsh.h"

namespace LACUNA_NS {

namespace {

using namespace lsh;

int32_t check_sizes(const lacuna_hyper_plan_params& p) {
  constexpr int kMax = 1 << 30;
  LACUNA_CHECK(check_gather_shape(p.shape, p.plan));
  LACUNA_REQUIRE(p.shape.head_dim >= 8 && p.shape.head_dim <= kMostHeadDim && p.shape.head_dim % 8 == 0,
                 "head_dim must be a multiple of 8 in 8..=%d, got %d", kMostHeadDim, p.shape.head_dim);
  LACUNA_REQUIRE(p.plan.samples >= 0 && p.plan.samples <= kMax, "samples must be in 0..=2^30, got %d", p.plan.samples);
  LACUNA_REQUIRE(p.projections >= 1 && p.projections <= kMostProjections, "projections must be in 1..=%d, got %d",
                 kMostProjections, p.projections);
  return LACUNA_OK;
}

// `keys`: the first half of a node, the longer one.
Side side_of(const lacuna_hyper_plan_params& p, int levels, int heads, int len, bool keys) {
  Side side;
  side.heads = static_cast<int64_t>(p.shape.batch) * heads;
  side.len = len;
  side.first_chunk[0] = 0;
  for (int level = 0; level < levels; ++level) {
    int longest = len;
    if (p.plan.causal != 0) longest = (longest_node(len, level) + (keys ? 1 : 0)) / 2;
    side.chunks[level] = divide_up(longest, kChunkRows);
    side.first_chunk[level + 1] = side.first_chunk[level] + (int64_t{side.chunks[level]} << level);
  }
  return side;
}

// Samples go by the ranks of the first round, whose pointers are those of the call.
lacuna_hyper_plan_params params_of_round(const lacuna_hyper_plan_params& p, int round) {
  lacuna_hyper_plan_params of_round = p;
  of_round.plan = plan_of_round(p.shape, p.plan, round);
  of_round.directions += static_cast<int64_t>(round) * p.shape.head_dim * p.projections;
  of_round.q_ranks += static_cast<int64_t>(round) * p.shape.batch * p.shape.q_heads * p.shape.q_len;
  of_round.k_ranks += static_cast<int64_t>(round) * p.shape.batch * p.shape.kv_heads * p.shape.kv_len;
  return of_round;
}

uint64_t aligned(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

// Fills `scratch` from `memory`, which may be null, and returns the bytes that it takes.
uint64_t lay_out(const lacuna_hyper_plan_params& p, int levels, Scratch& scratch) {
  const lacuna_shape& shape = p.shape;
  scratch.q = side_of(p, levels, shape.q_heads, shape.q_len, false);
  scratch.k = side_of(p, levels, shape.kv_heads, shape.kv_len, true);
  scratch.passes = p.projections <= kMostBits ? 1 : 2;
  scratch.bits = divide_up(p.projections, scratch.passes);
  uint64_t bytes = 0;
  const auto take = [&](int64_t elements) {
    unsigned char* const at = p.scratch == nullptr ? nullptr : static_cast<unsigned char*>(p.scratch) + bytes;
    bytes += aligned(static_cast<uint64_t>(elements) * 4);
    return at;
  };
  const int64_t heads = scratch.q.heads + scratch.k.heads;
  const int64_t parts =
      scratch.q.heads * divide_up(shape.q_len, kMeanRows) + scratch.k.heads * divide_up(shape.kv_len, kMeanRows);
  const int64_t chunks =
      scratch.q.heads * scratch.q.first_chunk[levels] + scratch.k.heads * scratch.k.first_chunk[levels];
  scratch.sums = reinterpret_cast<float*>(take(p.center != 0 ? parts * shape.head_dim : 0));
  scratch.means = reinterpret_cast<float*>(take(p.center != 0 ? heads * shape.head_dim : 0));
  scratch.counts = reinterpret_cast<int32_t*>(take(chunks << scratch.bits));
  const bool spare = scratch.passes > 1;
  scratch.q_spare = reinterpret_cast<int32_t*>(take(spare ? levels * scratch.q.heads * shape.q_len : 0));
  scratch.k_spare = reinterpret_cast<int32_t*>(take(spare ? levels * scratch.k.heads * shape.kv_len : 0));
  const int64_t rows = draws_by_values(p) ? scratch.k.heads * shape.kv_len : 0;
  const int64_t row_parts = draws_by_values(p) ? scratch.k.heads * divide_up(shape.kv_len, kShareRows) : 0;
  scratch.norms = reinterpret_cast<float*>(take(rows));
  scratch.most = reinterpret_cast<float*>(take(row_parts));
  scratch.share_sums = reinterpret_cast<int64_t*>(take(2 * row_parts));
  scratch.share_ends = reinterpret_cast<int64_t*>(take(2 * rows));
  return bytes;
}

}  // namespace

int32_t hyper_sizes(const lacuna_hyper_plan_params* params, lacuna_hyper_sizes* sizes) {
  LACUNA_REQUIRE(params != nullptr && sizes != nullptr, "hyper_sizes: null argument");
  LACUNA_CHECK(check_sizes(*params));
  Scratch scratch;
  sizes->levels = gather_levels(params->plan, params->shape.q_len);
  const bool has_blocks = params->plan.block_size >= 1;
  sizes->windows_of_head =
      has_blocks ? static_cast<int32_t>(windows_of_head(params->shape, params->plan, sizes->levels)) : 0;
  sizes->nodes = (int64_t{1} << sizes->levels) - 1;
  sizes->scratch_bytes = lay_out(*params, sizes->levels, scratch);
  return LACUNA_OK;
}

int32_t hyper_plan(const lacuna_hyper_plan_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "hyper_plan: null argument");
  const lacuna_hyper_plan_params& p = *params;
  LACUNA_CHECK(check_sizes(p));
  LACUNA_CHECK(check_gather_plan(p.plan, p.shape));
  LACUNA_REQUIRE(p.bucket_order == LACUNA_BUCKETS_GRAY || p.bucket_order == LACUNA_BUCKETS_COMPAT,
                 "bucket_order must be 0 (Gray) or 1 (compat), got %d", p.bucket_order);
  LACUNA_REQUIRE((p.center == 0 || p.center == 1) && (p.draw == 0 || p.draw == 1),
                 "center and draw must be 0 or 1, got %d and %d", p.center, p.draw);
  LACUNA_REQUIRE(p.sampling >= LACUNA_SAMPLING_UNIFORM && p.sampling <= LACUNA_SAMPLING_VALUES,
                 "sampling must be 0 (uniform), 1 (distinct), 2 (stratified) or 3 (values), got %d", p.sampling);
  LACUNA_REQUIRE((p.plan.sample_weights != nullptr) == draws_by_values(p),
                 "sample_weights must be there for samples drawn by values, and null for others");
  LACUNA_REQUIRE(!draws_by_values(p) || (p.v != nullptr && p.v_shares != nullptr), "v or v_shares is null");
  LACUNA_REQUIRE(p.sinks >= 0 && p.sinks <= p.plan.exact && (p.sinks == 0 || p.draw == 1),
                 "sinks must be in 0..=exact (%d), and 0 for given samples, got %d", p.plan.exact, p.sinks);
  LACUNA_REQUIRE(
      p.q != nullptr && p.k != nullptr && p.directions != nullptr && p.q_ranks != nullptr && p.k_ranks != nullptr,
      "q, k, directions, q_ranks or k_ranks is null");
  Scratch scratch;
  const uint64_t needed = lay_out(p, p.plan.levels, scratch);
  LACUNA_REQUIRE(p.scratch != nullptr && reinterpret_cast<uintptr_t>(p.scratch) % 16 == 0 && p.scratch_bytes >= needed,
                 "scratch must have %llu bytes, aligned to 16, got %llu at %p", static_cast<unsigned long long>(needed),
                 static_cast<unsigned long long>(p.scratch_bytes), p.scratch);
  if (p.center != 0) LACUNA_CHECK(launch_means(p, scratch, stream));
  for (int round = 0; round < p.plan.rounds; ++round) {
    const lacuna_hyper_plan_params of_round = params_of_round(p, round);
    LACUNA_CHECK(launch_hash(of_round, scratch, stream));
    LACUNA_CHECK(launch_sort(of_round, scratch, stream));
    if (p.plan.windows != nullptr) LACUNA_CHECK(launch_windows(of_round, stream));
  }
  if (p.plan.rounds > 1) LACUNA_CHECK(launch_rounds(p, stream));
  if (draws_by_values(p)) LACUNA_CHECK(launch_shares(p, scratch, stream));
  return p.plan.samples > 0 ? launch_samples(p, scratch, stream) : static_cast<int32_t>(LACUNA_OK);
}

}  // namespace LACUNA_NS
