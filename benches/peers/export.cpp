// The one symbol of liblacuna_cuda.so, the library of the GPU bundle: Python reaches the kernel table through it. The
// kernels are compiled with hidden visibility, so that a program that links the archive exports nothing.
#include "lacuna_kernels.h"

#ifndef LACUNA_EXPORTED_TABLE
#define LACUNA_EXPORTED_TABLE lacuna_cuda_kernels  // the self test exports the SIMT host's
#endif

extern "C" __attribute__((visibility("default"))) const lacuna_kernel_table* lacuna_peer_kernels() {
  return LACUNA_EXPORTED_TABLE();
}
