#include "sm80/backward/instantiate.h"
#include "sm80/backward/launch.h"

int32_t LACUNA_NS::sm80::query_grad_d96(const BackwardArgs& args, void* stream) {
  return query_grad_of<96>("sm80_backward_query_d96_f16", "sm80_backward_query_d96_bf16", args, stream);
}

int32_t LACUNA_NS::sm80::key_grad_d96(const BackwardArgs& args, void* stream) {
  return key_grad_of<96>("sm80_backward_key_d96_f16", "sm80_backward_key_d96_bf16", args, stream);
}
