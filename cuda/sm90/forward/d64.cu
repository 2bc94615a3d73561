#include "sm90/forward/instantiate.h"
#include "sm90/forward/launch.h"

int32_t LACUNA_NS::sm90::forward_d64(const lacuna_forward_params& params, void* stream) {
  return forward_of<64, KeyLoads::kBoxes>("sm90_forward_d64_f16", "sm90_forward_d64_bf16", params, stream);
}
