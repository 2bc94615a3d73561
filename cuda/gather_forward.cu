// Attention over a gather plan: checks a request, names the kernel that serves it, and starts it.
#include <cstdio>

#include "common/gather_checks.h"
#include "families.h"
#include "sm80/gather/launch.h"
#include "sm80/gather/traits.h"
#include "sm90/gather/launch.h"
#include "sm90/gather/serves.h"

namespace LACUNA_NS {

namespace {

template <int kHeadDim>
void describe(lacuna_forward_config* config) {
  using Traits = sm80::GatherTraits<kHeadDim, BFloat16>;
  config->family = LACUNA_FAMILY_PORTABLE;
  config->heads = 1;
  config->schedule_q = Traits::kTileRows;
  config->tile_q = Traits::kTileRows;
  config->tile_k = Traits::kTileKeys;
  config->threads = Traits::kThreads;
  config->smem_bytes = static_cast<int32_t>(sizeof(typename Traits::Shared));
}

int32_t describe_portable(const lacuna_shape& shape, lacuna_forward_config* config) {
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
      return set_error(LACUNA_UNSUPPORTED, "head_dim %d: the gather kernels serve 32, 64, 96, 128 and 256",
                       shape.head_dim);
  }
  snprintf(config->kernel, sizeof config->kernel, "sm80_gather_d%d_%s", shape.head_dim,
           shape.dtype == LACUNA_F16 ? "f16" : "bf16");
  return LACUNA_OK;
}

int32_t launch_portable(const lacuna_gather_forward_params& p, void* stream) {
  switch (p.shape.head_dim) {
    case 32:
      return sm80::gather_d32(p, stream);
    case 64:
      return sm80::gather_d64(p, stream);
    case 96:
      return sm80::gather_d96(p, stream);
    case 128:
      return sm80::gather_d128(p, stream);
    default:
      return sm80::gather_d256(p, stream);
  }
}

int32_t launch_hopper(const lacuna_gather_forward_params& p, void* stream) {
  if constexpr (sm90::kBuilt) {
    return p.shape.head_dim == 64 ? sm90::gather_d64(p, stream) : sm90::gather_d128(p, stream);
  } else {
    (void)p;
    (void)stream;
    return LACUNA_NO_KERNEL;
  }
}

// Of a call that is not causal: no leaf merges what its rounds left.
int32_t merge_rounds(const lacuna_gather_forward_params& p, void* stream) {
  lacuna_merge_params rounds = {};
  rounds.splits = p.plan.rounds;
  rounds.batch = p.shape.batch;
  rounds.heads = p.shape.q_heads;
  rounds.len = p.shape.q_len;
  rounds.head_dim = p.shape.head_dim;
  rounds.out_dtype = p.shape.dtype;
  rounds.partial_out = p.partial_out;
  rounds.partial_lse = p.partial_lse;
  rounds.out = p.out;
  rounds.lse = p.lse;
  rounds.out_stride = p.out_stride;
  rounds.lse_stride = p.lse_stride;
  return merge(&rounds, stream);
}

bool finite(float x) { return x - x == 0.0f; }

}  // namespace

int32_t gather_config(const lacuna_gather_forward_params* params, lacuna_forward_config* config) {
  LACUNA_REQUIRE(params != nullptr && config != nullptr, "gather_config: null argument");
  const lacuna_gather_forward_params& p = *params;
  LACUNA_CHECK(check_gather_shape(p.shape, p.plan));
  LACUNA_CHECK(check_family(p.family));
  *config = {};
  LACUNA_CHECK(describe_portable(p.shape, config));
  const bool runs_hopper = device_family() == LACUNA_FAMILY_HOPPER;
  const char* refused = sm90::refuses(p);
  if (p.family == LACUNA_FAMILY_HOPPER) {
    if (!runs_hopper) return set_error(LACUNA_NO_KERNEL, "Hopper kernels: this device or this build has none");
    if (refused != nullptr) {
      return set_error(LACUNA_UNSUPPORTED, "a request for the Hopper gather kernel, which serves only %s", refused);
    }
  }
  const bool wanted = p.family == LACUNA_FAMILY_HOPPER || (p.family == LACUNA_FAMILY_AUTO && sm90::prefers(p.plan));
  if (wanted && runs_hopper && refused == nullptr) sm90::describe(p, config);
  return LACUNA_OK;
}

int32_t gather_forward(const lacuna_gather_forward_params* params, void* stream) {
  lacuna_forward_config config;
  LACUNA_CHECK(gather_config(params, &config));
  const lacuna_gather_forward_params& p = *params;
  LACUNA_CHECK(check_gather_plan(p.plan, p.shape));
  LACUNA_REQUIRE(p.q != nullptr && p.k != nullptr && p.v != nullptr && p.out != nullptr, "q, k, v or out is null");
  const bool partial = p.plan.causal != 0 || p.plan.rounds > 1;
  LACUNA_REQUIRE(!partial || (p.partial_out != nullptr && p.partial_lse != nullptr),
                 "a causal call, and one of several rounds, needs partial_out and partial_lse");
  LACUNA_REQUIRE(finite(p.scale), "scale must be finite, got %g", static_cast<double>(p.scale));
  LACUNA_CHECK(config.family == LACUNA_FAMILY_HOPPER ? launch_hopper(p, stream) : launch_portable(p, stream));
  return partial && p.plan.causal == 0 ? merge_rounds(p, stream) : static_cast<int32_t>(LACUNA_OK);
}

}  // namespace LACUNA_NS
