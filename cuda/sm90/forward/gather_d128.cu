#include "sm90/forward/instantiate.h"
#include "sm90/forward/launch.h"

int32_t LACUNA_NS::sm90::forward_gather_d128(const lacuna_forward_params& params, void* stream) {
  return forward_of<128, KeyLoads::kGathered>("sm90_forward_gather_d128_f16", "sm90_forward_gather_d128_bf16", params,
                                              stream);
}
