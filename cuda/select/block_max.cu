// The map of largest attention probabilities: checks a request and starts the kernel of its head dim.
#include "common/validate.h"
#include "families.h"
#include "sm80/block_max/launch.h"

namespace LACUNA_NS {

namespace {

int32_t check_block_max(const lacuna_block_max_params& p) {
  LACUNA_CHECK(check_shape(p.shape));
  LACUNA_CHECK(check_mask(p.mask, p.shape));
  if (p.shape.block_table != nullptr) return set_error(LACUNA_UNSUPPORTED, "block_max of paged keys");
  LACUNA_REQUIRE(p.block_q == 1 || is_block_size(p.block_q), "block_q must be 1, 16, 32, 64 or 128, got %d", p.block_q);
  LACUNA_REQUIRE(is_block_size(p.block_k), "block_k must be 16, 32, 64 or 128, got %d", p.block_k);
  LACUNA_REQUIRE(p.heads == p.shape.q_heads || p.heads == p.shape.kv_heads,
                 "heads of the map must be q_heads (%d) or kv_heads (%d), got %d", p.shape.q_heads, p.shape.kv_heads,
                 p.heads);
  LACUNA_REQUIRE(p.row_shift >= 0 && p.row_shift < p.block_q, "row_shift must be in 0..%d, got %d", p.block_q,
                 p.row_shift);
  LACUNA_REQUIRE(p.scale - p.scale == 0.0f, "scale must be finite, got %g", static_cast<double>(p.scale));
  if (p.shape.kv_len == 0) return LACUNA_OK;
  LACUNA_REQUIRE(p.q != nullptr && p.k != nullptr && p.lse != nullptr && p.map != nullptr, "q, k, lse or map is null");
  return LACUNA_OK;
}

}  // namespace

int32_t block_max(const lacuna_block_max_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "block_max: null argument");
  const lacuna_block_max_params& p = *params;
  LACUNA_CHECK(check_block_max(p));
  if (p.shape.kv_len == 0) return LACUNA_OK;  // a map without columns
  switch (p.shape.head_dim) {
    case 32:
      return sm80::block_max_d32(p, stream);
    case 64:
      return sm80::block_max_d64(p, stream);
    case 96:
      return sm80::block_max_d96(p, stream);
    case 128:
      return sm80::block_max_d128(p, stream);
    case 256:
      return sm80::block_max_d256(p, stream);
    default:
      return set_error(LACUNA_UNSUPPORTED, "head_dim %d: block_max serves 32, 64, 96, 128 and 256", p.shape.head_dim);
  }
}

}  // namespace LACUNA_NS
