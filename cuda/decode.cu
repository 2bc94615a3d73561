// The decode family: checks a request, names the kernel that serves it, and starts it.
#include <cstdio>

#include "common/validate.h"
#include "families.h"
#include "sm80/decode/launch.h"
#include "sm80/decode/traits.h"

namespace LACUNA_NS {

namespace {

template <int kHeadDim, int kRows>
void describe_tile(lacuna_forward_config* config) {
  using Traits = sm80::DecodeTraits<kHeadDim, kRows, BFloat16>;
  config->tile_q = kRows;
  config->tile_k = Traits::kTileKeys;
  config->threads = Traits::kThreads;
  config->smem_bytes = static_cast<int32_t>(sizeof(typename Traits::Shared));
}

template <int kHeadDim>
void describe_head_dim(int rows, lacuna_forward_config* config) {
  if (rows == 16) return describe_tile<kHeadDim, 16>(config);
  if (rows == 32) return describe_tile<kHeadDim, 32>(config);
  describe_tile<kHeadDim, 64>(config);
}

bool describe(const lacuna_forward_params& p, lacuna_forward_config* config) {
  const int rows = sm80::decode_rows(p);
  switch (p.shape.head_dim) {
    case 32:
      describe_head_dim<32>(rows, config);
      break;
    case 64:
      describe_head_dim<64>(rows, config);
      break;
    case 96:
      describe_head_dim<96>(rows, config);
      break;
    case 128:
      describe_head_dim<128>(rows, config);
      break;
    case 256:
      describe_head_dim<256>(rows, config);
      break;
    default:
      return false;
  }
  config->family = LACUNA_FAMILY_PORTABLE;
  config->heads = sm80::decode_pack(p);
  config->schedule_q = p.plan.block_q;
  snprintf(config->kernel, sizeof config->kernel, "sm80_decode_d%d_r%d_%s", p.shape.head_dim, rows,
           p.shape.dtype == LACUNA_F16 ? "f16" : "bf16");
  return true;
}

// Splits that a sequence of the largest length can need.
int needed_splits(const lacuna_forward_params& p) {
  const int64_t blocks = (static_cast<int64_t>(p.shape.kv_len) + p.plan.block_k - 1) / p.plan.block_k;
  const int64_t least = (p.split_keys + p.plan.block_k - 1) / p.plan.block_k;
  const int64_t splits = (blocks + least - 1) / least;
  return splits < 1 ? 1 : splits > LACUNA_MAX_SPLITS ? LACUNA_MAX_SPLITS : static_cast<int>(splits);
}

bool is_finite(float x) { return x - x == 0.0f; }

}  // namespace

int32_t decode_config(const lacuna_forward_params* params, lacuna_forward_config* config) {
  LACUNA_REQUIRE(params != nullptr && config != nullptr, "decode_config: null argument");
  const lacuna_forward_params& p = *params;
  LACUNA_CHECK(check_shape(p.shape, Lengths::kKeys));
  LACUNA_CHECK(check_plan(p.plan, p.shape));
  LACUNA_REQUIRE(p.shape.q_len <= sm80::kMostQueries, "decode serves 1 to %d queries a sequence, got %d",
                 sm80::kMostQueries, p.shape.q_len);
  const int64_t rows = static_cast<int64_t>(sm80::decode_pack(p)) * p.shape.q_len;
  LACUNA_REQUIRE(rows <= (1 << 30), "query heads that share a KV head, times queries: at most 2^30 in decode, got %lld",
                 static_cast<long long>(rows));
  // Queries in two query blocks walk two lists, one after the other.
  LACUNA_REQUIRE(p.plan.kind != LACUNA_PLAN_LISTS || p.plan.capacity < (1 << 30),
                 "lists of fewer than 2^30 entries in all in decode, got a capacity of %d", p.plan.capacity);
  LACUNA_REQUIRE(
      p.family == LACUNA_FAMILY_AUTO || p.family == LACUNA_FAMILY_PORTABLE || p.family == LACUNA_FAMILY_HOPPER,
      "family must be 0 (auto), 80 or 90, got %d", p.family);
  if (p.family == LACUNA_FAMILY_HOPPER) {
    return set_error(LACUNA_UNSUPPORTED, "a request for Hopper kernels: decode has portable ones alone");
  }
  if (p.plan.kind == LACUNA_PLAN_LISTS && p.plan.absolute != 0 && p.shape.kv_lens != nullptr) {
    return set_error(LACUNA_UNSUPPORTED,
                     "lists whose rows count absolute positions, with lengths on the device: where rows lie must be "
                     "known on the host");
  }
  *config = {};
  if (!describe(p, config)) {
    return set_error(LACUNA_UNSUPPORTED, "head_dim %d: the decode kernels serve 32, 64, 96, 128 and 256",
                     p.shape.head_dim);
  }
  return LACUNA_OK;
}

int32_t decode(const lacuna_forward_params* params, void* stream) {
  lacuna_forward_config config;
  LACUNA_CHECK(decode_config(params, &config));
  const lacuna_forward_params& p = *params;
  LACUNA_CHECK(check_mask(p.mask, p.shape));
  const bool no_keys = p.shape.kv_len == 0 || (p.shape.block_table != nullptr && p.shape.pages == 0);
  LACUNA_REQUIRE(p.q != nullptr && ((p.k != nullptr && p.v != nullptr) || no_keys), "q, k or v is null");
  LACUNA_REQUIRE(is_finite(p.scale) && is_finite(p.softcap) && p.softcap >= 0.0f,
                 "scale must be finite and softcap finite and >= 0, got %g and %g", static_cast<double>(p.scale),
                 static_cast<double>(p.softcap));
  LACUNA_REQUIRE(p.split_keys >= 16 && p.split_keys % 16 == 0 && p.split_keys <= (1 << 30),
                 "split_keys must be a multiple of 16 in 16..=2^30, got %d", p.split_keys);
  const int needed = needed_splits(p);
  LACUNA_REQUIRE(p.splits >= needed && p.splits <= LACUNA_MAX_SPLITS,
                 "splits must be in %d..=%d for kv_len %d and split_keys %d, got %d", needed, LACUNA_MAX_SPLITS,
                 p.shape.kv_len, p.split_keys, p.splits);
  if (p.splits == 1) {
    LACUNA_REQUIRE(p.out != nullptr, "out is null");
  } else {
    LACUNA_REQUIRE(p.partial_out != nullptr && p.partial_lse != nullptr, "splits > 1 need partial_out and partial_lse");
  }
  switch (p.shape.head_dim) {
    case 32:
      return sm80::decode_d32(p, config.kernel, stream);
    case 64:
      return sm80::decode_d64(p, config.kernel, stream);
    case 96:
      return sm80::decode_d96(p, config.kernel, stream);
    case 128:
      return sm80::decode_d128(p, config.kernel, stream);
    default:
      return sm80::decode_d256(p, config.kernel, stream);
  }
}

}  // namespace LACUNA_NS
