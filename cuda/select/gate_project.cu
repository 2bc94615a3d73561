#include "common/validate.h"
#include "families.h"

namespace LACUNA_NS {

int32_t gate_project(const lacuna_gate_project_params*, void*) {
  return set_error(LACUNA_UNSUPPORTED, "gate_project: no kernel yet");
}

}  // namespace LACUNA_NS
