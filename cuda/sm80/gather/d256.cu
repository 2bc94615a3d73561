#include "sm80/gather/instantiate.h"
#include "sm80/gather/launch.h"

int32_t LACUNA_NS::sm80::gather_d256(const lacuna_gather_forward_params& params, void* stream) {
  return gather_of<256>({"sm80_gather_d256_f16", "sm80_gather_leaf_d256_f16"},
                        {"sm80_gather_d256_bf16", "sm80_gather_leaf_d256_bf16"}, params, stream);
}
