#include "simt/named_barrier.h"

#include "simt/error.h"
#include "simt/module.h"

namespace lacuna_simt {

void named_barrier(int, int, bool, int line) { fail(line, "bar: not built yet"); }

const Module named_barrier_module = {};

}  // namespace lacuna_simt
