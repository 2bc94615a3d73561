// Starting the Hopper forward kernel: one function a head dim and way of loading K and V, each in a compilation of its
// own.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {
namespace sm90 {

int32_t forward_d64(const lacuna_forward_params& params, void* stream);
int32_t forward_d128(const lacuna_forward_params& params, void* stream);
int32_t forward_ragged_d64(const lacuna_forward_params& params, void* stream);
int32_t forward_ragged_d128(const lacuna_forward_params& params, void* stream);
int32_t forward_gather_d64(const lacuna_forward_params& params, void* stream);
int32_t forward_gather_d128(const lacuna_forward_params& params, void* stream);

}  // namespace sm90
}  // namespace LACUNA_NS
