// Attention over plans. Included by lacuna.h, which says the rules.
#ifndef LACUNA_ATTENTION_H
#define LACUNA_ATTENTION_H

#include "lacuna/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

// A plan of lists arranged for the kernel that will serve the request. One schedule serves many calls of the same shape
// and options, one at a time while it is rebuilt. Plans without lists (dense, window, S2) need none.
// _VALUE, _SHAPE, _DEVICE, _UNSUPPORTED, _NO_KERNEL, _OUT_OF_MEMORY.
lacuna_status lacuna_schedule_create(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                                     lacuna_plan* plan, lacuna_schedule** schedule);

// Again, after the plan's lists changed. _VALUE for another plan than the one it was made of.
lacuna_status lacuna_schedule_rebuild(lacuna_stream* stream, lacuna_schedule* schedule, lacuna_plan* plan);

lacuna_status lacuna_schedule_destroy(lacuna_schedule* schedule);

// Bytes of workspace that lacuna_forward needs.
lacuna_status lacuna_forward_workspace(const lacuna_shape* shape, const lacuna_options* options, size_t* bytes);

// out = softmax(scale * q k^T) v over the keys that plan and options let each query see; lse = ln(sum(exp(..))). A row
// that sees nothing gives out = 0 and lse = -inf. The same inputs give the same bits.
//   q, out      [batch, q_heads, q_len, head_dim], f16 or bf16 as the shape says, any strides
//   k, v        [batch, kv_heads, kv_len, head_dim], or pages (lacuna_options.block_table)
//   lse         f32 [batch, q_heads, q_len, 1], or null
//   schedule    of this plan, shape and options; may be null for a plan without lists
//   workspace   device memory aligned to 16 bytes, one call at a time; its contents do not matter
// _SHAPE, _VALUE, _DEVICE, _UNSUPPORTED, _NO_KERNEL; _CUDA or _SIMT when the launch fails.
lacuna_status lacuna_forward(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                             lacuna_plan* plan, lacuna_schedule* schedule, const lacuna_tensor* q,
                             const lacuna_tensor* k, const lacuna_tensor* v, const lacuna_tensor* out,
                             const lacuna_tensor* lse, void* workspace, size_t workspace_bytes);

// Bytes of workspace that lacuna_decode needs.
lacuna_status lacuna_decode_workspace(const lacuna_shape* shape, lacuna_plan* plan, size_t* bytes);

// Attention of the newest 1 to 16 queries of each sequence (shape.q_len), split over the keys by itself: options.splits
// is 0 or 1. Tensors as for lacuna_forward, but without cu_seqlens; no schedule. Errors as lacuna_forward.
lacuna_status lacuna_decode(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                            lacuna_plan* plan, const lacuna_tensor* q, const lacuna_tensor* k, const lacuna_tensor* v,
                            const lacuna_tensor* out, const lacuna_tensor* lse, void* workspace,
                            size_t workspace_bytes);

// Merges partial results over disjoint keys, in f32 and in the order of the splits (1 to 64).
//   partial_out  f32 [splits * batch, heads, len, dim], packed: all sequences of split 0, then of split 1, ...
//   partial_lse  f32 [splits * batch, heads, len, 1], packed
//   out          f16 or bf16 [batch, heads, len, dim]
//   lse          f32 [batch, heads, len, 1], or null
// _SHAPE, _VALUE, _DEVICE, _CUDA, _SIMT.
lacuna_status lacuna_merge(lacuna_stream* stream, int64_t splits, const lacuna_tensor* partial_out,
                           const lacuna_tensor* partial_lse, const lacuna_tensor* out, const lacuna_tensor* lse);

// The kernel that serves a call.
typedef struct lacuna_kernel_info {
  uint32_t struct_size;
  int32_t family;      // lacuna_family, never AUTO
  char name[64];       // for example "sm80_forward_d64_bf16"
  int64_t tile_q;      // query rows that share a load of K and V
  int64_t tile_k;      // keys of a tile
  int64_t heads;       // query heads of a tile, tile_q / heads rows each
  int64_t threads;     // of a block
  int64_t smem_bytes;  // shared memory of a block
} lacuna_kernel_info;

lacuna_status lacuna_kernel_info_init(lacuna_kernel_info* info, size_t size);

// Which kernel lacuna_forward runs on packed tensors; none is read. _VALUE, _SHAPE, _UNSUPPORTED, _NO_KERNEL.
lacuna_status lacuna_forward_kernel(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                                    lacuna_plan* plan, lacuna_kernel_info* info);

// Which kernel lacuna_decode runs. Errors as lacuna_forward_kernel.
lacuna_status lacuna_decode_kernel(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                                   lacuna_plan* plan, lacuna_kernel_info* info);

#ifdef __cplusplus
}
#endif

#endif
