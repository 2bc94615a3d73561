#include "sm80/forward/instantiate.h"
#include "sm80/forward/launch.h"

int32_t LACUNA_NS::sm80::forward_d96(const lacuna_forward_params& params, void* stream) {
  return forward_of<96>("sm80_forward_d96_f16", "sm80_forward_d96_bf16", params, stream);
}
