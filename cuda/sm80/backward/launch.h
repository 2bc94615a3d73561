// Starting the portable backward kernels: two functions a head dim, each head dim in a compilation of its own.
#pragma once

#include "sm80/backward/args.h"

namespace LACUNA_NS {
namespace sm80 {

int32_t query_grad_d32(const BackwardArgs& args, void* stream);
int32_t query_grad_d64(const BackwardArgs& args, void* stream);
int32_t query_grad_d96(const BackwardArgs& args, void* stream);
int32_t query_grad_d128(const BackwardArgs& args, void* stream);
int32_t query_grad_d256(const BackwardArgs& args, void* stream);

int32_t key_grad_d32(const BackwardArgs& args, void* stream);
int32_t key_grad_d64(const BackwardArgs& args, void* stream);
int32_t key_grad_d96(const BackwardArgs& args, void* stream);
int32_t key_grad_d128(const BackwardArgs& args, void* stream);
int32_t key_grad_d256(const BackwardArgs& args, void* stream);

}  // namespace sm80
}  // namespace LACUNA_NS
