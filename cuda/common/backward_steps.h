// The steps of a backward pass that are not matrix products; backward.cu puts them in order.
#pragma once

#include "common/backward_memory.h"

namespace LACUNA_NS {

// lse and delta of every row, padded, into the workspace.
int32_t backward_rows(const lacuna_backward_params& params, const BackwardWorkspace& workspace, void* stream);

// dsink from those.
int32_t backward_sink(const lacuna_backward_params& params, const BackwardWorkspace& workspace, void* stream);

// dk and dv of columns that were cut: the sums of their parts, in order.
int32_t backward_merge(const lacuna_backward_params& params, const BackwardSchedule& schedule,
                       const BackwardWorkspace& workspace, void* stream);

// The lists of a plan by KV tile: offsets and entries of the schedule.
int32_t transpose_lists(const lacuna_forward_params& params, const BackwardSchedule& schedule, void* stream);

// The order of the columns and what they are cut into.
int32_t schedule_columns(const lacuna_forward_params& params, const BackwardSchedule& schedule, void* stream);

}  // namespace LACUNA_NS
