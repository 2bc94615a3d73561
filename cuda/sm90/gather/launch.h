// Starting the Hopper gather kernels: one function a head dim, each in a compilation of its own.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {
namespace sm90 {

int32_t gather_d64(const lacuna_gather_forward_params& params, void* stream);
int32_t gather_d128(const lacuna_gather_forward_params& params, void* stream);

}  // namespace sm90
}  // namespace LACUNA_NS
