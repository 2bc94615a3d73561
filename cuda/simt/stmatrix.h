// stmatrix on the SIMT host.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

void warp_stmatrix(uint32_t address, const uint32_t* d, bool transpose, int line);

}  // namespace lacuna_simt
