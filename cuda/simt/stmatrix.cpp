#include "simt/stmatrix.h"

#include "simt/error.h"

namespace lacuna_simt {

void warp_stmatrix(uint32_t, const uint32_t*, bool, int line) { fail(line, "stmatrix: not built yet"); }

}  // namespace lacuna_simt
