#include "sm80/backward/instantiate.h"
#include "sm80/backward/launch.h"

int32_t LACUNA_NS::sm80::query_grad_d256(const BackwardArgs& args, void* stream) {
  return query_grad_of<256>("sm80_backward_query_d256_f16", "sm80_backward_query_d256_bf16", args, stream);
}

int32_t LACUNA_NS::sm80::key_grad_d256(const BackwardArgs& args, void* stream) {
  return key_grad_of<256>("sm80_backward_key_d256_f16", "sm80_backward_key_d256_bf16", args, stream);
}
