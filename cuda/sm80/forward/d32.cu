#include "sm80/forward/instantiate.h"
#include "sm80/forward/launch.h"

int32_t LACUNA_NS::sm80::forward_d32(const lacuna_forward_params& params, void* stream) {
  return forward_of<32>("sm80_forward_d32_f16", "sm80_forward_d32_bf16", params, stream);
}
