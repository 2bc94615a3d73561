#include "common/validate.h"
#include "families.h"

namespace LACUNA_NS {

int32_t block_max(const lacuna_block_max_params*, void*) {
  return set_error(LACUNA_UNSUPPORTED, "block_max: no kernel yet");
}

}  // namespace LACUNA_NS
