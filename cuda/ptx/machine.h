// The two machines. Kernel files include ptx/ headers only; every header there has a GPU body (PTX) and a SIMT-host
// body that does on a CPU what the PTX ISA says the instruction does. Kernels of the two machines live in different
// namespaces, so that both can be linked into one program.
#pragma once

#ifndef LACUNA_SIMT
#define LACUNA_SIMT 0
#endif

#include <stddef.h>
#include <stdint.h>

#if LACUNA_SIMT
#define LACUNA_NS lacuna_simt
#include "simt/machine.h"
#else
#define LACUNA_NS lacuna_cuda
#include <cuda_runtime.h>
#endif

namespace LACUNA_NS {

// 16-bit storage types: the same plain bits on both machines; conversions live in ptx/cvt.h.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct IsBFloat16;
template <>
struct IsBFloat16<BFloat16> {
  static constexpr bool kValue = true;
};
template <>
struct IsBFloat16<Half> {
  static constexpr bool kValue = false;
};

}  // namespace LACUNA_NS
