#include "sm80/backward/instantiate.h"
#include "sm80/backward/launch.h"

int32_t LACUNA_NS::sm80::query_grad_d32(const BackwardArgs& args, void* stream) {
  return query_grad_of<32>("sm80_backward_query_d32_f16", "sm80_backward_query_d32_bf16", args, stream);
}

int32_t LACUNA_NS::sm80::key_grad_d32(const BackwardArgs& args, void* stream) {
  return key_grad_of<32>("sm80_backward_key_d32_f16", "sm80_backward_key_d32_bf16", args, stream);
}
