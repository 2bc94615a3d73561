#include "common/validate.h"
#include "families.h"

namespace LACUNA_NS {

int32_t gate_select(const lacuna_gate_select_params*, void*) {
  return set_error(LACUNA_UNSUPPORTED, "gate_select: no kernel yet");
}

}  // namespace LACUNA_NS
