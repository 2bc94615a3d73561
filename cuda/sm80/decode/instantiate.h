// The launcher body shared by the head-dim compilations.
#pragma once

#include "common/validate.h"
#include "ptx/launch.h"
#include "sm80/decode/kernel.h"
#include "sm80/decode/launch.h"
#include "sm80/forward/instantiate.h"

namespace LACUNA_NS {
namespace sm80 {

template <class Traits>
int32_t decode_with(const char* name, const lacuna_forward_params& p, void* stream) {
  DecodeArgs args;
  args.params = p;
  args.pack = decode_pack(p);
  args.groups = p.shape.q_heads / args.pack;
  args.row_tiles = (args.pack * p.shape.q_len + Traits::kTileRows - 1) / Traits::kTileRows;
  args.q_vectors = row_starts_aligned(p.q, p.q_stride, 16);
  args.k_vectors = row_starts_aligned(p.k, p.k_stride, 16);
  args.v_vectors = row_starts_aligned(p.v, p.v_stride, 16);
  args.out_pairs = row_starts_aligned(p.out, p.out_stride, 4);
  const int64_t tiles = grid_product(grid_product(p.shape.batch, args.groups), args.row_tiles);
  return launch<decode_kernel<Traits>>(name, grid_product(tiles, p.splits), Traits::kThreads,
                                       sizeof(typename Traits::Shared), stream, args);
}

template <int kHeadDim, class T>
int32_t decode_of(const char* name, const lacuna_forward_params& p, void* stream) {
  const int rows = decode_rows(p);
  if (rows == 16) return decode_with<DecodeTraits<kHeadDim, 16, T>>(name, p, stream);
  if (rows == 32) return decode_with<DecodeTraits<kHeadDim, 32, T>>(name, p, stream);
  return decode_with<DecodeTraits<kHeadDim, 64, T>>(name, p, stream);
}

template <int kHeadDim>
int32_t decode_head_dim(const char* name, const lacuna_forward_params& p, void* stream) {
  return p.shape.dtype == LACUNA_F16 ? decode_of<kHeadDim, Half>(name, p, stream)
                                     : decode_of<kHeadDim, BFloat16>(name, p, stream);
}

}  // namespace sm80
}  // namespace LACUNA_NS
