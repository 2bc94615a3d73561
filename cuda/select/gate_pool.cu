#include "common/validate.h"
#include "families.h"

namespace LACUNA_NS {

int32_t gate_pool(const lacuna_gate_pool_params*, void*) {
  return set_error(LACUNA_UNSUPPORTED, "gate_pool: no kernel yet");
}

}  // namespace LACUNA_NS
