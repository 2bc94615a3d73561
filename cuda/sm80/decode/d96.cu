#include "sm80/decode/instantiate.h"

int32_t LACUNA_NS::sm80::decode_d96(const lacuna_forward_params& params, const char* name, void* stream) {
  return decode_head_dim<96>(name, params, stream);
}
