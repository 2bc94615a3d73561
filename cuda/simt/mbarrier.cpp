#include "simt/mbarrier.h"

#include "simt/error.h"
#include "simt/module.h"

namespace lacuna_simt {

void mbarrier_start(uint32_t, int, int line) { fail(line, "mbarrier: not built yet"); }
void mbarrier_arrival(uint32_t, int, int line) { fail(line, "mbarrier: not built yet"); }
bool mbarrier_poll(uint32_t, uint32_t, int line) { fail(line, "mbarrier: not built yet"); }
void mbarrier_await(uint32_t, uint32_t, int line) { fail(line, "mbarrier: not built yet"); }
void mbarrier_check(uint32_t, const char*, int line) { fail(line, "mbarrier: not built yet"); }
void mbarrier_complete(Block&, uint32_t, uint32_t, int line) { fail(line, "mbarrier: not built yet"); }
bool mbarrier_is_awaited(const Block&, uint32_t) { return false; }
bool warp_elect(int line) { fail(line, "elect: not built yet"); }

const Module mbarrier_module = {};

}  // namespace lacuna_simt
