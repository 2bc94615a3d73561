// Tensor maps: the driver's encoder on a GPU machine, an own layout on the SIMT host.
#include "ptx/tensor_map.h"

#include "ptx/launch.h"

namespace LACUNA_NS {

int32_t encode_tensor_map(TensorMap*, const TensorMapSpec&) {
  return set_error(LACUNA_UNSUPPORTED, "tensor maps: not built yet");
}

}  // namespace LACUNA_NS
