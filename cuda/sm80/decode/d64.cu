#include "sm80/decode/instantiate.h"

int32_t LACUNA_NS::sm80::decode_d64(const lacuna_forward_params& params, const char* name, void* stream) {
  return decode_head_dim<64>(name, params, stream);
}
