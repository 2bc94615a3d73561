// Entry points of the kernel families, one namespace a machine; kernel_table.cu exports them.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

int32_t forward_config(const lacuna_forward_params* params, lacuna_forward_config* config);
int32_t forward(const lacuna_forward_params* params, void* stream);
int32_t merge(const lacuna_merge_params* params, void* stream);
int32_t schedule_build(const lacuna_schedule_params* params, void* stream);
int32_t mask_to_lists(const lacuna_mask_to_lists_params* params, void* stream);
int32_t plan_to_mask(const lacuna_plan_to_mask_params* params, void* stream);
int32_t decode_config(const lacuna_forward_params* params, lacuna_forward_config* config);
int32_t decode(const lacuna_forward_params* params, void* stream);
int32_t page_table(const lacuna_page_table_params* params, void* stream);
int32_t cache_append(const lacuna_cache_append_params* params, void* stream);
int32_t gate_pool(const lacuna_gate_pool_params* params, void* stream);
int32_t gate_project(const lacuna_gate_project_params* params, void* stream);
int32_t gate_select(const lacuna_gate_select_params* params, void* stream);
int32_t block_max(const lacuna_block_max_params* params, void* stream);
int32_t hyper_sizes(const lacuna_hyper_plan_params* params, lacuna_hyper_sizes* sizes);
int32_t hyper_plan(const lacuna_hyper_plan_params* params, void* stream);
int32_t gather_config(const lacuna_gather_forward_params* params, lacuna_forward_config* config);
int32_t gather_forward(const lacuna_gather_forward_params* params, void* stream);
int32_t backward_config(const lacuna_backward_params* params, lacuna_backward_config* config);
int32_t backward_schedule(const lacuna_backward_params* params, void* stream);
int32_t backward(const lacuna_backward_params* params, void* stream);
int32_t gather_backward_config(const lacuna_gather_backward_params* params, lacuna_backward_config* config);
int32_t gather_backward(const lacuna_gather_backward_params* params, void* stream);

}  // namespace LACUNA_NS
