#include "sm80/gather_backward/instantiate.h"

int32_t LACUNA_NS::sm80::gather_backward_d256(const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream) {
  return gather_backward_of<256>(LACUNA_GATHER_BACKWARD_NAMES(256, f16), LACUNA_GATHER_BACKWARD_NAMES(256, bf16), args,
                                 pass, stream);
}
