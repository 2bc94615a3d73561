// TMA copies on the SIMT host. `at`: coordinates, innermost first.
#pragma once

#include <stdint.h>

#include "ptx/tensor_map.h"

namespace lacuna_simt {

void tensor_load(uint32_t destination, const TensorMap& map, uint32_t barrier, const int32_t* at, int rank, int line);
void tensor_store(const TensorMap& map, uint32_t source, const int32_t* at, int rank, int line);

}  // namespace lacuna_simt
