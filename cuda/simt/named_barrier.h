// bar.sync (`wait`) and bar.arrive on the SIMT host.
#pragma once

namespace lacuna_simt {

void named_barrier(int id, int threads, bool wait, int line);

}  // namespace lacuna_simt
