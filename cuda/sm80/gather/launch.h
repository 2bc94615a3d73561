// Starting the gather kernels: one function a head dim, each in a compilation of its own.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {
namespace sm80 {

int32_t gather_d32(const lacuna_gather_forward_params& params, void* stream);
int32_t gather_d64(const lacuna_gather_forward_params& params, void* stream);
int32_t gather_d96(const lacuna_gather_forward_params& params, void* stream);
int32_t gather_d128(const lacuna_gather_forward_params& params, void* stream);
int32_t gather_d256(const lacuna_gather_forward_params& params, void* stream);

}  // namespace sm80
}  // namespace LACUNA_NS
