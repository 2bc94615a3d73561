// Which requests the Hopper forward kernel serves, and with which tile.
#pragma once

#include "common/sequence.h"
#include "ptx/launch.h"
#include "sm90/forward/tile_table.h"

namespace LACUNA_NS {
namespace sm90 {

// Whether this build has Hopper kernels.
#if LACUNA_SIMT || LACUNA_BUILT_SM90A
constexpr bool kBuilt = true;
#else
constexpr bool kBuilt = false;
#endif

// TMA's demands: rows on 16-byte boundaries, positive strides below 2^40 bytes.
inline bool tma_can_address(const void* pointer, const lacuna_strides& stride, bool packed) {
  if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  for (const int64_t step : {packed ? stride.seq : stride.batch, stride.head, stride.seq}) {
    if (step <= 0 || step % 8 != 0 || step >= int64_t{1} << 39) return false;
  }
  return true;
}

inline bool needs_gather(const lacuna_shape& shape) {
  return shape.block_table != nullptr && shape.page_size % kBoxKeys != 0;
}

// Why not; null if it does.
inline const char* refuses(const lacuna_forward_params& p) {
  if (p.shape.head_dim != 64 && p.shape.head_dim != 128) return "head_dim 64 or 128";
  const bool every_block = p.plan.kind == LACUNA_PLAN_FORMULA && p.plan.formula.vertical_stride <= 1;
  if (!every_block && (p.plan.block_q % kWarpgroupRows != 0 || p.plan.block_k % kBoxKeys != 0)) {
    return "blocks of 64 or 128 queries and keys";
  }
  const bool q_packed = p.shape.cu_seqlens_q != nullptr;
  const bool k_packed = p.shape.cu_seqlens_k != nullptr;
  if (!tma_can_address(p.q, p.q_stride, q_packed) || !tma_can_address(p.k, p.k_stride, k_packed) ||
      !tma_can_address(p.v, p.v_stride, k_packed) ||
      (p.splits == 1 && !tma_can_address(p.out, p.out_stride, q_packed))) {
    return "rows of q, k, v and out that start at multiples of 16 bytes, and positive strides below 2^39 elements";
  }
  return nullptr;
}

inline void describe(const lacuna_forward_params& p, lacuna_forward_config* config) {
  config->family = LACUNA_FAMILY_HOPPER;
  config->tile_q = kTileRows;
  config->tile_k = kTileKeys;
  config->heads = sharing(p) == Sharing::kHeads ? 2 : 1;
  config->schedule_q = kTileRows / config->heads;
  config->threads = kThreads;
  config->smem_bytes = p.shape.head_dim == 64 ? sizeof(ForwardTraits<64, Half, KeyLoads::kBoxes, false>::Shared)
                                              : sizeof(ForwardTraits<128, Half, KeyLoads::kBoxes, false>::Shared);
  const char* loads = needs_gather(p.shape) ? "gather_" : has_lengths(p.shape) ? "ragged_" : "";
  snprintf(config->kernel, sizeof config->kernel, "sm90_forward_%sd%d_%s", loads, p.shape.head_dim,
           p.shape.dtype == LACUNA_F16 ? "f16" : "bf16");
}

}  // namespace sm90
}  // namespace LACUNA_NS
