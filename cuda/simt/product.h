// Matrix instructions on the SIMT host.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

// c: [n_tiles][4], a: [k_steps][4], b: [k_steps][n_tiles][2], each lane's fragments.
void warp_product(float* c, const uint32_t* a, const uint32_t* b, int n_tiles, int k_steps, bool bfloat16, int line);
// d: [count][4], address: [count] shared addresses.
void warp_ldmatrix(uint32_t* d, const uint32_t* address, int count, bool transpose, int line);

}  // namespace lacuna_simt
