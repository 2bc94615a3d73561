// Seeded choices. A choice depends on the seed and the block index only, never on an address or a CPU thread.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

// splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct Random {
  uint64_t state = 0;

  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // Uniform enough for a scheduler: in [0, bound).
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(((next() >> 32) * bound) >> 32); }
};

inline Random seeded(uint64_t seed, uint64_t stream) {
  Random mix{seed};
  return Random{mix.next() ^ (stream * 0xd1342543de82ef95u)};
}

}  // namespace lacuna_simt
