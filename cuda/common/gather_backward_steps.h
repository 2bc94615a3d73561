// The steps of a backward pass over a gather plan that are not matrix products; gather_backward.cu puts them in order.
#pragma once

#include "common/gather_backward_memory.h"

namespace LACUNA_NS {

// Zeros from `first`, which is dq or dk of the workspace, to its end.
int32_t gather_clear(const GatherBackwardMemory& memory, float* first, void* stream);

// Adds the gradients of a level's samples to dk and dv.
int32_t gather_sample_sums(const lacuna_gather_forward_params& params, const GatherBackwardMemory& memory, int level,
                           void* stream);

}  // namespace LACUNA_NS
