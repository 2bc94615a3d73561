// Gradients over a gather plan: checks a request, says what serves it, and starts its steps.
#include <cstdio>

#include "common/alignment.h"
#include "common/backward_steps.h"
#include "common/gather_backward_steps.h"
#include "common/gather_checks.h"
#include "families.h"
#include "sm80/backward/tile_table.h"
#include "sm80/gather_backward/launch.h"

namespace LACUNA_NS {

namespace {

template <int kHeadDim>
void describe(lacuna_backward_config* config) {
  using Query = sm80::QueryGradTraits<kHeadDim, BFloat16>;
  using Key = sm80::KeyGradTraits<kHeadDim, BFloat16>;
  config->family = LACUNA_FAMILY_PORTABLE;
  config->tile_q = Query::kTileRows;
  config->tile_k = Key::kTileKeys;
  config->query_threads = Query::kThreads;
  config->key_threads = Key::kThreads;
}

int32_t run(const sm80::GatherBackwardArgs& args, sm80::GatherBackwardPass pass, void* stream) {
  switch (args.params.forward.shape.head_dim) {
    case 32:
      return sm80::gather_backward_d32(args, pass, stream);
    case 64:
      return sm80::gather_backward_d64(args, pass, stream);
    case 96:
      return sm80::gather_backward_d96(args, pass, stream);
    case 128:
      return sm80::gather_backward_d128(args, pass, stream);
    default:
      return sm80::gather_backward_d256(args, pass, stream);
  }
}

bool finite(float x) { return x - x == 0.0f; }

// LSE and delta are those of any backward pass.
int32_t rows(const lacuna_gather_backward_params& b, const GatherBackwardMemory& memory, void* stream) {
  lacuna_backward_params params = {};
  params.forward.shape = b.forward.shape;
  params.forward.out = b.forward.out;
  params.forward.lse = b.forward.lse;
  params.forward.out_stride = b.forward.out_stride;
  params.forward.lse_stride = b.forward.lse_stride;
  params.dout = b.dout;
  params.dlse = b.dlse;
  params.dout_stride = b.dout_stride;
  params.dlse_stride = b.dlse_stride;
  BackwardWorkspace workspace = {};
  workspace.stat_rows = memory.stat_rows;
  workspace.lse = memory.lse;
  workspace.delta = memory.delta;
  return backward_rows(params, workspace, stream);
}

}  // namespace

int32_t gather_backward_config(const lacuna_gather_backward_params* params, lacuna_backward_config* config) {
  LACUNA_REQUIRE(params != nullptr && config != nullptr, "gather_backward_config: null argument");
  const lacuna_shape& shape = params->forward.shape;
  const lacuna_gather_plan& plan = params->forward.plan;
  LACUNA_CHECK(check_gather_shape(shape, plan));
  LACUNA_REQUIRE(plan.samples >= 0 && plan.samples <= 1 << 30, "samples must be in 0..=2^30, got %d", plan.samples);
  *config = {};
  switch (shape.head_dim) {
    case 32:
      describe<32>(config);
      break;
    case 64:
      describe<64>(config);
      break;
    case 96:
      describe<96>(config);
      break;
    case 128:
      describe<128>(config);
      break;
    case 256:
      describe<256>(config);
      break;
    default:
      return set_error(LACUNA_UNSUPPORTED, "head_dim %d: the backward kernels serve 32, 64, 96, 128 and 256",
                       shape.head_dim);
  }
  const char* dtype = shape.dtype == LACUNA_F16 ? "f16" : "bf16";
  snprintf(config->query_kernel, sizeof config->query_kernel, "sm80_gather_backward_query_d%d_%s", shape.head_dim,
           dtype);
  snprintf(config->key_kernel, sizeof config->key_kernel, "sm80_gather_backward_blocks_d%d_%s", shape.head_dim, dtype);
  GatherBackwardMemory memory;
  config->workspace_bytes = lay_out(shape, plan, gather_levels(plan, shape.q_len), nullptr, memory);
  return LACUNA_OK;
}

int32_t gather_backward(const lacuna_gather_backward_params* params, void* stream) {
  lacuna_backward_config config;
  LACUNA_CHECK(gather_backward_config(params, &config));
  const lacuna_gather_backward_params& b = *params;
  const lacuna_gather_forward_params& p = b.forward;
  LACUNA_CHECK(check_gather_plan(p.plan, p.shape));
  LACUNA_REQUIRE(p.q != nullptr && p.k != nullptr && p.v != nullptr && p.out != nullptr && p.lse != nullptr,
                 "q, k, v, out or lse is null");
  LACUNA_REQUIRE(b.dout != nullptr && b.dq != nullptr && b.dk != nullptr && b.dv != nullptr,
                 "dout, dq, dk or dv is null");
  LACUNA_REQUIRE(finite(p.scale), "scale must be finite, got %g", static_cast<double>(p.scale));
  LACUNA_REQUIRE(b.workspace_bytes >= config.workspace_bytes, "workspace must have at least %llu bytes, got %llu",
                 static_cast<unsigned long long>(config.workspace_bytes),
                 static_cast<unsigned long long>(b.workspace_bytes));
  LACUNA_REQUIRE(b.workspace != nullptr && reinterpret_cast<uintptr_t>(b.workspace) % 16 == 0,
                 "workspace must be aligned to 16 bytes and not null");
  sm80::GatherBackwardArgs args = {};
  args.params = b;
  args.q_vectors = row_starts_aligned(p.q, p.q_stride, 16);
  args.k_vectors = row_starts_aligned(p.k, p.k_stride, 16);
  args.v_vectors = row_starts_aligned(p.v, p.v_stride, 16);
  args.dout_vectors = row_starts_aligned(b.dout, b.dout_stride, 16);
  args.dq_pairs = row_starts_aligned(b.dq, b.dq_stride, 4);
  args.dk_pairs = row_starts_aligned(b.dk, b.dk_stride, 4);
  args.dv_pairs = row_starts_aligned(b.dv, b.dv_stride, 4);
  lay_out(p.shape, p.plan, p.plan.levels, b.workspace, args.memory);

  LACUNA_CHECK(rows(b, args.memory, stream));
  LACUNA_CHECK(gather_clear(args.memory, args.memory.dq != nullptr ? args.memory.dq : args.memory.dk, stream));
  using Pass = sm80::GatherBackwardPass;
  for (args.level = 0; args.level < p.plan.levels; ++args.level) {
    for (int round = 0; round < p.plan.rounds; ++round) {
      args.params.forward.plan = plan_of_round(p.shape, p.plan, round);
      args.more_rounds = round + 1 < p.plan.rounds;
      args.more_queries = p.plan.causal != 0 || args.more_rounds;
      LACUNA_CHECK(run(args, Pass::kQueries, stream));
      if (args.params.forward.plan.samples > 0) {
        LACUNA_CHECK(run(args, Pass::kSamples, stream));
        LACUNA_CHECK(gather_sample_sums(p, args.memory, args.level, stream));
      }
      LACUNA_CHECK(run(args, Pass::kBlocks, stream));
    }
  }
  if (p.plan.causal == 0) return LACUNA_OK;
  LACUNA_CHECK(run(args, Pass::kLeafQueries, stream));
  return run(args, Pass::kLeafKeys, stream);
}

}  // namespace LACUNA_NS
