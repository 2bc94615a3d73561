// Which gather requests the Hopper kernels serve, and with which tile.
#pragma once

#include "sm90/forward/serves.h"
#include "sm90/gather/traits.h"

namespace LACUNA_NS {
namespace sm90 {

// Why not; null if they do.
inline const char* refuses(const lacuna_gather_forward_params& p) {
  if (p.shape.head_dim != 64 && p.shape.head_dim != 128) return "head_dim 64 or 128";
  if (p.plan.rounds > 1) return "one round of hashing";
  if (!(p.scale >= kLeastScale)) return "scales of 1e-20 and more";
  if (!tma_can_address(p.q, p.q_stride, false) || !tma_can_address(p.k, p.k_stride, false) ||
      !tma_can_address(p.v, p.v_stride, false) || !tma_can_address(p.out, p.out_stride, false)) {
    return "rows of q, k, v and out that start at multiples of 16 bytes, and positive strides below 2^39 elements";
  }
  return nullptr;
}

// Tiles of 128 keys hold keys of one block: smaller blocks would fill a part of them.
inline bool prefers(const lacuna_gather_plan& plan) { return plan.block_size >= kTileKeys; }

inline void describe(const lacuna_gather_forward_params& p, lacuna_forward_config* config) {
  config->family = LACUNA_FAMILY_HOPPER;
  config->heads = 1;
  config->schedule_q = kTileRows;
  config->tile_q = kTileRows;
  config->tile_k = kTileKeys;
  config->threads = kThreads;
  config->smem_bytes =
      p.shape.head_dim == 64 ? sizeof(GatherTraits<64, Half>::Shared) : sizeof(GatherTraits<128, Half>::Shared);
  snprintf(config->kernel, sizeof config->kernel, "sm90_gather_d%d_%s", p.shape.head_dim,
           p.shape.dtype == LACUNA_F16 ? "f16" : "bf16");
}

}  // namespace sm90
}  // namespace LACUNA_NS
