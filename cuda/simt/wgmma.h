// wgmma on the SIMT host.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

void warpgroup_fence(int line);
void warpgroup_commit(int line);
void warpgroup_wait(int pending, int line);
// d: this lane's `count` accumulators (N = 2 * count). a_registers: this lane's four, or null for the descriptor `a`.
void warpgroup_product(float* d, int count, uint64_t a, const uint32_t* a_registers, uint64_t b, bool b_mn_major,
                       bool accumulate, bool bfloat16, int line);

}  // namespace lacuna_simt
