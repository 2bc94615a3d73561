#include "simt/wgmma.h"

#include "simt/error.h"
#include "simt/module.h"

namespace lacuna_simt {

void warpgroup_fence(int line) { fail(line, "wgmma: not built yet"); }
void warpgroup_commit(int line) { fail(line, "wgmma: not built yet"); }
void warpgroup_wait(int, int line) { fail(line, "wgmma: not built yet"); }
void warpgroup_product(float*, int, uint64_t, const uint32_t*, uint64_t, bool, bool, bool, int line) {
  fail(line, "wgmma: not built yet");
}

const Module warpgroup_module = {};

}  // namespace lacuna_simt
