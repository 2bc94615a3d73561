#include "common/validate.h"
#include "families.h"

namespace LACUNA_NS {

int32_t decode_config(const lacuna_forward_params*, lacuna_forward_config*) {
  return set_error(LACUNA_UNSUPPORTED, "decode: no kernel yet");
}

int32_t decode(const lacuna_forward_params*, void*) { return set_error(LACUNA_UNSUPPORTED, "decode: no kernel yet"); }

}  // namespace LACUNA_NS
