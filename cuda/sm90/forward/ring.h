// A position in a ring of buffers, with the parity of its barriers.
#pragma once

#include "ptx/mbarrier.h"

namespace LACUNA_NS {
namespace sm90 {

// Consumers wait for `parity` of the full barrier, the producer for the other one of the empty barrier, which passes at
// once in the first round.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ Ring next() const {
    Ring ring = *this;
    ring.advance();
    return ring;
  }
};

}  // namespace sm90
}  // namespace LACUNA_NS
