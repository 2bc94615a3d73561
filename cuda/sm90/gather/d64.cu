#include "sm90/gather/instantiate.h"
#include "sm90/gather/launch.h"

int32_t LACUNA_NS::sm90::gather_d64(const lacuna_gather_forward_params& params, void* stream) {
  return gather_of<64>({"sm90_gather_d64_f16", "sm90_gather_leaf_d64_f16"},
                       {"sm90_gather_d64_bf16", "sm90_gather_leaf_d64_bf16"}, params, stream);
}
