#include "sm80/gather/instantiate.h"
#include "sm80/gather/launch.h"

int32_t LACUNA_NS::sm80::gather_d96(const lacuna_gather_forward_params& params, void* stream) {
  return gather_of<96>({"sm80_gather_d96_f16", "sm80_gather_leaf_d96_f16"},
                       {"sm80_gather_d96_bf16", "sm80_gather_leaf_d96_bf16"}, params, stream);
}
