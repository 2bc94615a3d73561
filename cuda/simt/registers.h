// setmaxnreg on the SIMT host: the block's register pool.
#pragma once

namespace lacuna_simt {

void registers_change(int registers, bool increase, int line);

}  // namespace lacuna_simt
