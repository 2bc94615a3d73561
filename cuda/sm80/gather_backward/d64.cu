#include "sm80/gather_backward/instantiate.h"

int32_t LACUNA_NS::sm80::gather_backward_d64(const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream) {
  return gather_backward_of<64>(LACUNA_GATHER_BACKWARD_NAMES(64, f16), LACUNA_GATHER_BACKWARD_NAMES(64, bf16), args,
                                pass, stream);
}
