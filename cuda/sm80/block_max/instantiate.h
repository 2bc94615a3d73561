// The launcher body shared by the head-dim compilations.
#pragma once

#include "sm80/block_max/kernel.h"
#include "sm80/forward/instantiate.h"

namespace LACUNA_NS {
namespace sm80 {

template <class Traits>
int32_t block_max_with(const char* name, const lacuna_block_max_params& p, void* stream) {
  const int rows = p.block_q > Traits::kTileRows ? p.block_q : Traits::kTileRows;
  BlockMaxArgs args;
  args.params = p;
  args.q_tiles = (p.shape.q_len + p.row_shift + rows - 1) / rows;
  args.q_blocks = (p.shape.q_len + p.row_shift + p.block_q - 1) / p.block_q;
  args.kv_blocks = (p.shape.kv_len + p.block_k - 1) / p.block_k;
  args.q_vectors = row_starts_aligned(p.q, p.q_stride, 16);
  args.k_vectors = row_starts_aligned(p.k, p.k_stride, 16);
  // Each factor is below 2^31, but not the product of all.
  const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.heads;
  const int64_t blocks = heads > 0x7fffffff ? heads : heads * args.q_tiles;
  return launch<block_max_kernel<Traits>>(name, blocks, Traits::kThreads, sizeof(typename Traits::Shared), stream,
                                          args);
}

template <int kHeadDim>
int32_t block_max_of(const char* f16_name, const char* bf16_name, const lacuna_block_max_params& p, void* stream) {
  if (p.shape.dtype == LACUNA_F16) return block_max_with<BlockMaxTraits<kHeadDim, Half>>(f16_name, p, stream);
  return block_max_with<BlockMaxTraits<kHeadDim, BFloat16>>(bf16_name, p, stream);
}

}  // namespace sm80
}  // namespace LACUNA_NS
