// Warp collectives: each lane leaves a pointer to its arguments, the last to arrive does the work for all.
#pragma once

#include "simt/fiber.h"

namespace lacuna_simt {

using Finisher = void (*)(Warp& warp, uint32_t mask, int line);

// Returns when all lanes of `mask` have come and `finish` has run.
void collective(const char* name, uint32_t mask, void* arguments, Finisher finish, int line);

int32_t warp_shuffle(int32_t value, int source, int line);
uint32_t warp_ballot(bool predicate, int line);
bool warp_elect(int line);  // one seeded lane, the same throughout a launch
int32_t warp_minimum(int32_t value, int line);
int32_t warp_total(int32_t value, int line);
float warp_float_total(float value, int line);
void warp_quad_reduce(float* values, int count, bool maximum, int line);

}  // namespace lacuna_simt
