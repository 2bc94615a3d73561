// The launcher ABI: plain structs and one function per kernel family. It is the single source of truth for the
// CUDA build, the SIMT build and the Rust bindings (src/kernels/bindings.rs, generated from this file and those in
// abi/).
//
// Units: strides and offsets in elements, sizes named *_bytes in bytes, LSE in natural log. Every stride is for
// [batch, head, seq]; the last dimension (head_dim) is contiguous. A null pointer means "absent".
#ifndef LACUNA_KERNELS_H
#define LACUNA_KERNELS_H

#include "abi/attention.h"
#include "abi/backward.h"
#include "abi/gate.h"
#include "abi/gather.h"
#include "abi/simt.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LACUNA_KERNELS_ABI 6

// `stream`: a CUstream for the CUDA build, a lacuna_simt_stream for the SIMT build (null: that machine's default).
typedef struct lacuna_kernel_table {
  int32_t abi;  // LACUNA_KERNELS_ABI
  int32_t reserved;
  const char* machine;        // "simt" or "cuda"
  const char* architectures;  // what was built, e.g. "80;90a;80+PTX"
  int32_t (*forward_config)(const lacuna_forward_params* params, lacuna_forward_config* config);
  int32_t (*forward)(const lacuna_forward_params* params, void* stream);
  int32_t (*merge)(const lacuna_merge_params* params, void* stream);
  int32_t (*schedule_build)(const lacuna_schedule_params* params, void* stream);
  int32_t (*mask_to_lists)(const lacuna_mask_to_lists_params* params, void* stream);
  int32_t (*plan_to_mask)(const lacuna_plan_to_mask_params* params, void* stream);
  // Attention of 1 to 16 queries a sequence. Lists are walked as they are: params->schedule is not read.
  int32_t (*decode_config)(const lacuna_forward_params* params, lacuna_forward_config* config);
  int32_t (*decode)(const lacuna_forward_params* params, void* stream);
  int32_t (*page_table)(const lacuna_page_table_params* params, void* stream);
  int32_t (*cache_append)(const lacuna_cache_append_params* params, void* stream);
  int32_t (*gate_pool)(const lacuna_gate_pool_params* params, void* stream);
  int32_t (*gate_project)(const lacuna_gate_project_params* params, void* stream);
  int32_t (*gate_select)(const lacuna_gate_select_params* params, void* stream);
  int32_t (*block_max)(const lacuna_block_max_params* params, void* stream);
  // Reads no pointer; of the plan only causal, samples and min_seq_len.
  int32_t (*hyper_sizes)(const lacuna_hyper_plan_params* params, lacuna_hyper_sizes* sizes);
  int32_t (*hyper_plan)(const lacuna_hyper_plan_params* params, void* stream);
  int32_t (*gather_config)(const lacuna_gather_forward_params* params, lacuna_forward_config* config);
  int32_t (*gather_forward)(const lacuna_gather_forward_params* params, void* stream);
  int32_t (*backward_config)(const lacuna_backward_params* params, lacuna_backward_config* config);
  int32_t (*backward_schedule)(const lacuna_backward_params* params, void* stream);
  int32_t (*backward)(const lacuna_backward_params* params, void* stream);
  // Of config, no schedule and no pieces.
  int32_t (*gather_backward_config)(const lacuna_gather_backward_params* params, lacuna_backward_config* config);
  int32_t (*gather_backward)(const lacuna_gather_backward_params* params, void* stream);
  const char* (*last_error)(void);  // text of this thread's last failure, "" if none
} lacuna_kernel_table;

const lacuna_kernel_table* lacuna_simt_kernels(void);
const lacuna_kernel_table* lacuna_cuda_kernels(void);

#ifdef __cplusplus
}
#endif

#endif  // LACUNA_KERNELS_H
