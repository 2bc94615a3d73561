// The forward family: checks a request, names the kernel that serves it, and starts it.
#include "families.h"

#include <cstdio>

#include "common/sequence.h"
#include "common/validate.h"
#include "sm80/forward/launch.h"
#include "sm80/forward/tile_table.h"
#include "sm90/forward/launch.h"
#include "sm90/forward/serves.h"

namespace LACUNA_NS {

namespace {

constexpr int kPortableDims[] = {32, 64, 96, 128, 256};

int32_t check_head_dim(int head_dim) {
  for (const int served : kPortableDims) {
    if (head_dim == served) return LACUNA_OK;
  }
  return set_error(LACUNA_UNSUPPORTED, "head_dim %d: the forward kernels serve 32, 64, 96, 128 and 256", head_dim);
}

template <int kHeadDim>
void describe(lacuna_forward_config* config) {
  using Traits = sm80::ForwardTraits<kHeadDim, BFloat16>;
  config->family = LACUNA_FAMILY_PORTABLE;
  config->heads = 1;
  config->schedule_q = Traits::kTileRows;
  config->tile_q = Traits::kTileRows;
  config->tile_k = Traits::kTileKeys;
  config->threads = Traits::kThreads;
  config->smem_bytes = static_cast<int32_t>(sizeof(typename Traits::Shared));
}

bool finite(float x) { return x - x == 0.0f; }

void describe_portable(const lacuna_shape& shape, lacuna_forward_config* config) {
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
    default:
      describe<256>(config);
  }
  snprintf(config->kernel, sizeof config->kernel, "sm80_forward_d%d_%s", shape.head_dim,
           shape.dtype == LACUNA_F16 ? "f16" : "bf16");
}

int32_t launch_portable(const lacuna_forward_params& p, void* stream) {
  switch (p.shape.head_dim) {
    case 32:
      return sm80::forward_d32(p, stream);
    case 64:
      return sm80::forward_d64(p, stream);
    case 96:
      return sm80::forward_d96(p, stream);
    case 128:
      return sm80::forward_d128(p, stream);
    default:
      return sm80::forward_d256(p, stream);
  }
}

int32_t launch_hopper(const lacuna_forward_params& p, void* stream) {
  if constexpr (sm90::kBuilt) {
    const bool d64 = p.shape.head_dim == 64;
    if (sm90::needs_gather(p.shape)) {
      return d64 ? sm90::forward_gather_d64(p, stream) : sm90::forward_gather_d128(p, stream);
    }
    if (has_lengths(p.shape)) {
      return d64 ? sm90::forward_ragged_d64(p, stream) : sm90::forward_ragged_d128(p, stream);
    }
    return d64 ? sm90::forward_d64(p, stream) : sm90::forward_d128(p, stream);
  } else {
    (void)p;
    (void)stream;
    return LACUNA_NO_KERNEL;
  }
}

}  // namespace

int32_t forward_config(const lacuna_forward_params* params, lacuna_forward_config* config) {
  LACUNA_REQUIRE(params != nullptr && config != nullptr, "forward_config: null argument");
  const lacuna_forward_params& p = *params;
  LACUNA_CHECK(check_shape(p.shape, Lengths::kRagged));
  LACUNA_CHECK(check_head_dim(p.shape.head_dim));
  LACUNA_CHECK(check_family(p.family));
  LACUNA_CHECK(check_plan(p.plan, p.shape));
  if (has_lengths(p.shape) && p.plan.kind == LACUNA_PLAN_LISTS && p.plan.absolute != 0) {
    return set_error(LACUNA_UNSUPPORTED, "lengths on the device with lists whose rows count absolute positions");
  }
  LACUNA_REQUIRE(p.shape.cu_seqlens_q == nullptr || p.splits == 1, "packed queries need splits to be 1, got %d",
                 p.splits);
  *config = {};
  const bool runs_hopper = device_family() == LACUNA_FAMILY_HOPPER;
  const char* refused = sm90::refuses(p);
  if (p.family == LACUNA_FAMILY_HOPPER) {
    if (!runs_hopper) return set_error(LACUNA_NO_KERNEL, "Hopper kernels: this device or this build has none");
    if (refused != nullptr) {
      return set_error(LACUNA_UNSUPPORTED, "a request for the Hopper forward kernel, which serves only %s", refused);
    }
  }
  if (p.family != LACUNA_FAMILY_PORTABLE && runs_hopper && refused == nullptr) {
    sm90::describe(p, config);
  } else {
    describe_portable(p.shape, config);
  }
  return LACUNA_OK;
}

int32_t forward(const lacuna_forward_params* params, void* stream) {
  lacuna_forward_config config;
  LACUNA_CHECK(forward_config(params, &config));
  const lacuna_forward_params& p = *params;
  LACUNA_CHECK(check_mask(p.mask, p.shape));
  if (p.plan.kind == LACUNA_PLAN_LISTS) LACUNA_CHECK(check_schedule(p.schedule, p.plan, p.shape, config.schedule_q));
  if (config.family == LACUNA_FAMILY_HOPPER && p.plan.kind == LACUNA_PLAN_LISTS) {
    LACUNA_REQUIRE(p.schedule.tile_q == config.schedule_q,
                   "tile_q of the schedule must be %d for kernel %s, got %d: build it for the family of the call",
                   config.schedule_q, config.kernel, p.schedule.tile_q);
  }
  const bool no_keys = p.shape.kv_len == 0 || (p.shape.block_table != nullptr && p.shape.pages == 0);
  LACUNA_REQUIRE(p.q != nullptr && ((p.k != nullptr && p.v != nullptr) || no_keys), "q, k or v is null");
  LACUNA_REQUIRE(finite(p.scale) && finite(p.softcap) && p.softcap >= 0.0f,
                 "scale must be finite and softcap finite and >= 0, got %g and %g", static_cast<double>(p.scale),
                 static_cast<double>(p.softcap));
  LACUNA_REQUIRE(p.splits >= 1 && p.splits <= LACUNA_MAX_SPLITS, "splits must be in 1..=%d, got %d", LACUNA_MAX_SPLITS,
                 p.splits);
  if (p.splits == 1) {
    LACUNA_REQUIRE(p.out != nullptr, "out is null");
  } else {
    LACUNA_REQUIRE(p.partial_out != nullptr && p.partial_lse != nullptr, "splits > 1 need partial_out and partial_lse");
  }
  return config.family == LACUNA_FAMILY_HOPPER ? launch_hopper(p, stream) : launch_portable(p, stream);
}

}  // namespace LACUNA_NS
