#include "sm80/gather_backward/instantiate.h"

int32_t LACUNA_NS::sm80::gather_backward_d32(const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream) {
  return gather_backward_of<32>(LACUNA_GATHER_BACKWARD_NAMES(32, f16), LACUNA_GATHER_BACKWARD_NAMES(32, bf16), args,
                                pass, stream);
}
