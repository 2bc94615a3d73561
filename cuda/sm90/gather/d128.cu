#include "sm90/gather/instantiate.h"
#include "sm90/gather/launch.h"

int32_t LACUNA_NS::sm90::gather_d128(const lacuna_gather_forward_params& params, void* stream) {
  return gather_of<128>({"sm90_gather_d128_f16", "sm90_gather_leaf_d128_f16"},
                        {"sm90_gather_d128_bf16", "sm90_gather_leaf_d128_bf16"}, params, stream);
}
