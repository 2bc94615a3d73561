// The launcher body shared by the compilations.
#pragma once

#include "common/validate.h"
#include "ptx/launch.h"
#include "sm90/forward/kernel.h"

namespace LACUNA_NS {
namespace sm90 {

struct Heads {
  const void* base;
  lacuna_strides stride;
  int64_t batch;
  int64_t heads;
  int64_t len;
};

// [batch, heads, len, head_dim] in boxes of `rows` by a panel.
inline int32_t encode_heads(TensorMap* map, const lacuna_shape& shape, const Heads& from, int rows) {
  TensorMapSpec spec = {};
  spec.base = from.base;
  spec.bfloat16 = shape.dtype == LACUNA_BF16;
  spec.rank = 4;
  const int64_t dims[4] = {shape.head_dim, from.len, from.heads, from.batch};
  const int64_t strides[4] = {1, from.stride.seq, from.stride.head, from.stride.batch};
  for (int i = 0; i < 4; ++i) {
    spec.dims[i] = static_cast<uint64_t>(dims[i] > 0 ? dims[i] : 1);
    // The stride of a single element does not matter, but must be a valid one.
    spec.stride_bytes[i] = dims[i] > 1 ? static_cast<uint64_t>(strides[i]) * 2 : 16;
    spec.box[i] = 1;
  }
  spec.box[0] = kPanelElements;
  spec.box[1] = static_cast<uint32_t>(rows);
  spec.swizzle = Swizzle::kSwizzle128;
  return encode_tensor_map(map, spec);
}

inline int32_t encode_maps(const lacuna_forward_params& p, ForwardArgs& args) {
  const lacuna_shape& s = p.shape;
  const bool paged = s.block_table != nullptr;
  const bool packed_k = s.cu_seqlens_k != nullptr;
  const auto keys = [&](const void* base, const lacuna_strides& stride, int64_t len) {
    // Without keys nothing is loaded, but the maps must be valid.
    const bool none = s.kv_len == 0 || (paged && s.pages == 0);
    return Heads{none ? p.q : base, stride, paged ? s.pages : packed_k ? 1 : s.batch, s.kv_heads, len};
  };
  const int64_t len = paged ? s.page_size : packed_k ? s.k_rows : s.kv_len;
  const int64_t tail = paged && s.kv_len % s.page_size != 0 ? s.kv_len % s.page_size : len;
  const bool packed_q = s.cu_seqlens_q != nullptr;
  const int64_t q_batch = packed_q ? 1 : s.batch;
  const int64_t q_len = packed_q ? s.q_rows : s.q_len;
  const Heads queries{p.q, p.q_stride, q_batch, s.q_heads, q_len};
  LACUNA_CHECK(encode_heads(&args.q, s, queries, kWarpgroupRows));
  LACUNA_CHECK(encode_heads(&args.k, s, keys(p.k, p.k_stride, len), kBoxKeys));
  LACUNA_CHECK(encode_heads(&args.v, s, keys(p.v, p.v_stride, len), kBoxKeys));
  LACUNA_CHECK(encode_heads(&args.v_tail, s, keys(p.v, p.v_stride, tail), kBoxKeys));
  if (p.splits > 1) return LACUNA_OK;
  return encode_heads(&args.out, s, Heads{p.out, p.out_stride, q_batch, s.q_heads, q_len}, 16);
}

template <class Traits>
int32_t forward_with(const char* name, const lacuna_forward_params& p, void* stream) {
  ForwardArgs args = {};
  args.params = p;
  // Packed rows are one sequence to the strides.
  if (p.shape.cu_seqlens_q != nullptr) args.params.out_stride.batch = args.params.lse_stride.batch = 0;
  if (p.shape.cu_seqlens_k != nullptr) args.params.v_stride.batch = 0;
  LACUNA_CHECK(encode_maps(p, args));
  args.heads = sharing(p) == Sharing::kHeads ? 2 : 1;
  args.head_rows = kTileRows / args.heads;
  args.head_sets = p.shape.q_heads / args.heads;
  const int q_tiles = (p.shape.q_len + largest_row_shift(p.shape, p.plan) + args.head_rows - 1) / args.head_rows;
  args.order = formula_order(p, args.heads, q_tiles);
  args.rows_per_head = 1;
  int64_t items = static_cast<int64_t>(p.shape.batch) * args.head_sets * q_tiles;
  if (p.plan.kind == LACUNA_PLAN_LISTS) {
    args.rows_per_head = p.schedule.rows / (p.plan.plan_batch * p.plan.heads);
    items =
        static_cast<int64_t>(p.schedule.rows) * (args.head_sets / p.plan.heads) * (p.shape.batch / p.plan.plan_batch);
  }
  items *= p.splits;
  if (items > 0x7fffffff) {
    return set_error(LACUNA_INVALID_ARGUMENT, "kernel %s: %lld tiles", name, static_cast<long long>(items));
  }
  args.items = static_cast<int>(items);
  int64_t blocks = items;
  if (const int at_once = multiprocessors(stream); items > at_once && p.counter != nullptr) {
    blocks = at_once;
    LACUNA_CHECK(fill_zero(p.counter, 1, stream));
  } else {
    args.params.counter = nullptr;
  }
  return launch<forward_kernel<Traits>>(name, blocks, kThreads, sizeof(typename Traits::Shared), stream, args);
}

template <int kHeadDim, KeyLoads kLoads, class T>
int32_t forward_of_type(const char* name, const lacuna_forward_params& p, void* stream) {
  if (needs_transform(p)) return forward_with<ForwardTraits<kHeadDim, T, kLoads, true>>(name, p, stream);
  return forward_with<ForwardTraits<kHeadDim, T, kLoads, false>>(name, p, stream);
}

template <int kHeadDim, KeyLoads kLoads>
int32_t forward_of(const char* f16_name, const char* bf16_name, const lacuna_forward_params& p, void* stream) {
  if (p.shape.dtype == LACUNA_F16) return forward_of_type<kHeadDim, kLoads, Half>(f16_name, p, stream);
  return forward_of_type<kHeadDim, kLoads, BFloat16>(bf16_name, p, stream);
}

}  // namespace sm90
}  // namespace LACUNA_NS
