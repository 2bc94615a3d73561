// The protocol of wgmma: fences, registers in flight, shared memory in flight, groups, equal operands, descriptors.
#include "ptx/cvt.h"
#include "warpgroup_tile.h"

namespace lacuna_simt {

namespace {

// Two matrices of 64 x 64 bf16 in one 128-byte swizzled panel each. source: A, B [n][k], then a second B.
struct Tiles {
  unsigned char a[8192];
  unsigned char b[2][8192];
};

using Sums = float[32];

__device__ uint64_t descriptor_of(const unsigned char* tile) {
  return wgmma_descriptor(shared_address(tile), 16, 1024, Swizzle::kSwizzle128);
}

__device__ Tiles& fill(const TestParams& p) {
  Tiles& tiles = shared<Tiles>();
  const uint16_t* const source = static_cast<const uint16_t*>(p.source);
  lay_out(p, source, 64, 64, false, Swizzle::kSwizzle128, tiles.a);
  for (int i = 0; i < 2; ++i) lay_out(p, source + 4096 * (1 + i), 64, 64, false, Swizzle::kSwizzle128, tiles.b[i]);
  fence_async_shared();
  sync_threads();
  return tiles;
}

// Four k16 steps; d = A B or d += A B.
__device__ void multiply(Sums& d, uint64_t a, uint64_t b, bool accumulate) {
  for (int step = 0; step < 4; ++step) {
    wgmma_ss<BFloat16, Major::kK>(d, advanced(a, 32 * step), advanced(b, 32 * step), accumulate || step > 0);
  }
}

__device__ void write_sums(const TestParams& p, const Sums& d, int matrix = 0) {
  float* const out = static_cast<float*>(p.target) + 4096 * matrix;
  for (int i = 0; i < 32; ++i) out[accumulator_at(i, 64)] = d[i];
}

// A B, or A B + A B' with a wait between (variant 1, and 2 with A from registers and the first sum in flight). Planted:
// the fence before the last product is missing.
template <bool kPlanted>
__global__ void fence(const TestParams p) {
  Tiles& tiles = fill(p);
  const uint64_t a = descriptor_of(tiles.a);
  Sums d;
  uint32_t registers[4][4];
  for (int step = 0; step < 4; ++step) {
    load_a_registers(registers[step], static_cast<const uint16_t*>(p.source), 64, 16 * step);
  }
  if (p.variant > 0) {
    wgmma_fence();
    multiply(d, a, descriptor_of(tiles.b[0]), false);
    wgmma_commit();
    if (p.variant == 1) wgmma_wait<0>();
    if (p.variant == 2) wgmma_wait<1>();
  }
  if (!kPlanted) wgmma_fence();
  if (p.variant == 0) multiply(d, a, descriptor_of(tiles.b[0]), false);
  if (p.variant == 1) multiply(d, a, descriptor_of(tiles.b[1]), true);
  if (p.variant == 2) {
    for (int step = 0; step < 4; ++step) {
      wgmma_rs<BFloat16, Major::kK>(d, registers[step], advanced(descriptor_of(tiles.b[1]), 32 * step), true);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
  write_sums(p, d);
}

// Planted: one of thread 77's accumulators is read (variant 0), written (1) or scaled (2) before the wait.
template <bool kPlanted>
__global__ void accumulators_in_flight(const TestParams p) {
  Tiles& tiles = fill(p);
  Sums d;
  wgmma_fence();
  multiply(d, descriptor_of(tiles.a), descriptor_of(tiles.b[0]), false);
  wgmma_commit();
  float early = 0.0f;
  if (kPlanted && thread_index() == 77) {
    if (p.variant == 0) early = d[5];
    if (p.variant == 1) d[5] = 0.0f;
    if (p.variant == 2) d[5] *= 0.5f;
  }
  wgmma_wait<0>();
  if (kPlanted && p.variant == 0 && thread_index() == 77) d[5] = early;
  write_sums(p, d);
}

// Planted: the registers of A are filled for the next step before the wait.
template <bool kPlanted>
__global__ void a_registers_in_flight(const TestParams p) {
  Tiles& tiles = fill(p);
  const uint16_t* const source = static_cast<const uint16_t*>(p.source);
  Sums d;
  uint32_t a[4];
  load_a_registers(a, source, 64, 0);
  for (int step = 0; step < 4; ++step) {
    wgmma_fence();
    wgmma_rs<BFloat16, Major::kK>(d, a, advanced(descriptor_of(tiles.b[0]), 32 * step), step > 0);
    wgmma_commit();
    if (!kPlanted) wgmma_wait<0>();
    if (step < 3) load_a_registers(a, source, 64, 16 * (step + 1));
    wgmma_wait<0>();
  }
  write_sums(p, d);
}

// The tile of B is overwritten by all threads after a barrier, or by thread 0 alone without one (variant 1), which is
// as good: what its wait covers is complete for all 64 rows. Planted: before the wait.
template <bool kPlanted>
__global__ void stage_in_flight(const TestParams p) {
  Tiles& tiles = fill(p);
  Sums d;
  wgmma_fence();
  multiply(d, descriptor_of(tiles.a), descriptor_of(tiles.b[0]), false);
  wgmma_commit();
  if (!kPlanted) wgmma_wait<0>();
  if (p.variant == 0) sync_threads();
  if (p.variant == 0) memset(tiles.b[0] + 64 * thread_index(), 0, 64);
  if (p.variant == 1 && thread_index() == 0) memset(tiles.b[0], 0, sizeof tiles.b[0]);
  if (kPlanted) wgmma_wait<0>();
  write_sums(p, d);
}

// Two sums in two groups. Planted: the second is read after a wait for the first only.
template <bool kPlanted>
__global__ void weak_wait(const TestParams p) {
  Tiles& tiles = fill(p);
  Sums d[2];
  wgmma_fence();
  for (int i = 0; i < 2; ++i) {
    multiply(d[i], descriptor_of(tiles.a), descriptor_of(tiles.b[i]), false);
    wgmma_commit();
  }
  wgmma_wait<kPlanted ? 1 : 0>();
  for (int i = 0; i < 2; ++i) write_sums(p, d[i], i);
  wgmma_wait<0>();
}

// Planted: warp 2 has another A (variant 0), another B (1), another N (2), another type (3), another major (4), starts
// from zero (5), has A in registers (6) or another line (7).
template <bool kPlanted>
__global__ void unequal(const TestParams p) {
  Tiles& tiles = fill(p);
  Sums d = {};
  const int64_t wrong = kPlanted && thread_index() / 32 == 2 ? p.variant : -1;
  const uint64_t a = advanced(descriptor_of(tiles.a), wrong == 0 ? 32 : 0);
  const uint64_t b = advanced(descriptor_of(tiles.b[0]), wrong == 1 ? 32 : 0);
  const uint32_t registers[4] = {};
  float narrow[16] = {};
  constexpr int kLine = __LINE__;
  wgmma_fence();
  if (wrong == 2) wgmma_ss<BFloat16, Major::kK>(narrow, a, b, true, kLine);
  if (wrong == 3) wgmma_ss<Half, Major::kK>(d, a, b, true, kLine);
  if (wrong == 4) wgmma_ss<BFloat16, Major::kMn>(d, a, b, true, kLine);
  if (wrong == 6) wgmma_rs<BFloat16, Major::kK>(d, registers, b, true, kLine);
  if (wrong < 2 || wrong == 5 || wrong == 7) {
    wgmma_ss<BFloat16, Major::kK>(d, a, b, wrong != 5, wrong == 7 ? kLine + 1 : kLine);
  }
  for (int step = 1; step < 4; ++step) {
    wgmma_ss<BFloat16, Major::kK>(d, advanced(descriptor_of(tiles.a), 32 * step),
                                  advanced(descriptor_of(tiles.b[0]), 32 * step), true);
  }
  wgmma_commit();
  wgmma_wait<0>();
  write_sums(p, d);
}

// Planted: warp 3 goes home (variant 0), or half of warp 1 does not wait (1).
template <bool kPlanted>
__global__ void missing(const TestParams p) {
  Tiles& tiles = fill(p);
  if (kPlanted && p.variant == 0 && thread_index() / 32 == 3) return;
  Sums d;
  wgmma_fence();
  multiply(d, descriptor_of(tiles.a), descriptor_of(tiles.b[0]), false);
  wgmma_commit();
  if (kPlanted && p.variant == 1 && thread_index() / 16 == 3) return;
  wgmma_wait<0>();
  write_sums(p, d);
}

// Planted: the kernel ends with a group in flight (variant 0) or with a product that no group has (1).
template <bool kPlanted>
__global__ void left_at_exit(const TestParams p) {
  Tiles& tiles = fill(p);
  Sums d;
  wgmma_fence();
  multiply(d, descriptor_of(tiles.a), descriptor_of(tiles.b[0]), false);
  if (!kPlanted || p.variant != 1) wgmma_commit();
  if (!kPlanted || p.variant != 0) wgmma_wait<0>();
  if (!kPlanted) write_sums(p, d);
}

// Planted: the sum goes on in half of the registers while all of them are in flight.
template <bool kPlanted>
__global__ void other_shape(const TestParams p) {
  Tiles& tiles = fill(p);
  const uint64_t a = descriptor_of(tiles.a);
  const uint64_t b = descriptor_of(tiles.b[0]);
  Sums d;
  float(&narrow)[16] = *reinterpret_cast<float(*)[16]>(&d);
  wgmma_fence();
  multiply(d, a, b, false);
  wgmma_commit();
  if (!kPlanted) wgmma_wait<0>();
  wgmma_fence();
  wgmma_ss<BFloat16, Major::kK>(narrow, a, descriptor_of(tiles.b[1]), true);
  wgmma_commit();
  wgmma_wait<0>();
  write_sums(p, d);
}

// Planted: field `variant` of the descriptor of B is wrong; see tests/suite/warpgroups.rs.
template <bool kPlanted>
__global__ void descriptor(const TestParams p) {
  Tiles& tiles = fill(p);
  const uint32_t at = shared_address(tiles.b[0]);
  uint64_t b = descriptor_of(tiles.b[0]);
  if (kPlanted) {
    if (p.variant == 0) b |= uint64_t{3} << 49;
    if (p.variant == 1) b = wgmma_descriptor(at, 16, 1024, Swizzle::kNone);
    if (p.variant == 2) b |= uint64_t{1} << 46;
    if (p.variant == 3) b = advanced(b, 128);
    if (p.variant == 4) b = wgmma_descriptor(shared_address(&tiles) + sizeof(Tiles), 16, 1024, Swizzle::kSwizzle128);
    if (p.variant == 5) b = wgmma_descriptor(0, 16, 1024, Swizzle::kSwizzle128);
    if (p.variant == 6) b = wgmma_descriptor(at, 16, 4096, Swizzle::kSwizzle128);
    if (p.variant == 7) b = advanced(b, 16);
    if (p.variant == 8) b = wgmma_descriptor(at, 16, 1024, Swizzle::kSwizzle64);
    if (p.variant == 9) b = wgmma_descriptor(at, 16, 512, Swizzle::kSwizzle128);
    if (p.variant == 10) b = advanced(b, 1024);
  }
  Sums d;
  wgmma_fence();
  if (kPlanted && p.variant == 11) {
    for (int step = 0; step < 4; ++step) {
      wgmma_ss<BFloat16, Major::kMn>(d, advanced(descriptor_of(tiles.a), 32 * step), advanced(b, 2048 * step),
                                     step > 0);
    }
  } else {
    multiply(d, descriptor_of(tiles.a), b, false);
  }
  wgmma_commit();
  wgmma_wait<0>();
  write_sums(p, d);
}

// A times two panels of B, MN-major, 128 columns. Planted: the panels are said to lie elsewhere (variant 0), the
// columns to start inside of a panel (1).
template <bool kPlanted>
__global__ void mn_descriptor(const TestParams p) {
  Tiles& tiles = fill(p);
  const uint64_t a = descriptor_of(tiles.a);
  uint64_t b = wgmma_descriptor(shared_address(tiles.b[0]), 8192, 1024, Swizzle::kSwizzle128);
  if (kPlanted && p.variant == 0) b = wgmma_descriptor(shared_address(tiles.b[0]), 4096, 1024, Swizzle::kSwizzle128);
  if (kPlanted && p.variant == 1) b = advanced(b, 32);
  float d[64];
  wgmma_fence();
  for (int step = 0; step < 4; ++step) {
    wgmma_ss<BFloat16, Major::kMn>(d, advanced(a, 32 * step), advanced(b, 2048 * step), step > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  float* const out = static_cast<float*>(p.target);
  for (int i = 0; i < 64; ++i) out[accumulator_at(i, 128)] = d[i];
}

// Planted: N = 12 (variant 0); the launch has 96 threads (1).
template <bool kPlanted>
__global__ void impossible(const TestParams p) {
  Tiles& tiles = fill(p);
  float d[8];
  float few[6];
  wgmma_fence();
  if (kPlanted) {
    wgmma_ss<BFloat16, Major::kK>(few, descriptor_of(tiles.a), descriptor_of(tiles.b[0]), false);
  } else {
    wgmma_ss<BFloat16, Major::kK>(d, descriptor_of(tiles.a), descriptor_of(tiles.b[0]), false);
  }
  wgmma_commit();
  wgmma_wait<0>();
}

constexpr int kSteps = 3;

// Q of two warpgroups, and K [kv][64] and V [kv][64] of three steps. source: in this order.
struct Attention {
  unsigned char q[2][8192];
  unsigned char k[kSteps][8192];
  unsigned char v[kSteps][8192];
};

// The accumulators of 16 columns are the A registers of a k16 step.
__device__ void pack_sums(uint32_t (&a)[4][4], const Sums& s) {
  for (int i = 0; i < 16; ++i) a[i / 4][i % 4] = pack<BFloat16>(s[2 * i], s[2 * i + 1]);
}

// O = sum over steps of (Q K^T) V, the next Q K^T and this step's P V in flight at once. Planted: the next P goes to
// the registers that P V reads.
template <bool kPlanted>
__global__ void overlapped(const TestParams p) {
  Attention& tiles = shared<Attention>();
  const uint16_t* source = static_cast<const uint16_t*>(p.source);
  for (unsigned char* to = tiles.q[0]; to != tiles.q[0] + sizeof tiles; to += 8192, source += 4096) {
    lay_out(p, source, 64, 64, false, Swizzle::kSwizzle128, to);
  }
  fence_async_shared();
  sync_threads();
  const int group = thread_index() / 128;
  const uint64_t q = descriptor_of(tiles.q[group]);
  Sums s;
  Sums o;
  uint32_t probabilities[2][4][4];
  wgmma_fence();
  multiply(s, q, descriptor_of(tiles.k[0]), false);
  wgmma_commit();
  wgmma_wait<0>();
  pack_sums(probabilities[0], s);
  for (int step = 0; step < kSteps; ++step) {
    const bool more = step + 1 < kSteps;
    wgmma_fence();
    if (more) multiply(s, q, descriptor_of(tiles.k[step + 1]), false);
    if (more) wgmma_commit();
    const uint32_t(&a)[4][4] = probabilities[kPlanted ? 0 : step % 2];
    for (int k = 0; k < 4; ++k) {
      wgmma_rs<BFloat16, Major::kMn>(o, a[k], advanced(descriptor_of(tiles.v[step]), 2048 * k), step > 0 || k > 0);
    }
    wgmma_commit();
    if (more) {
      wgmma_wait<1>();
      pack_sums(probabilities[kPlanted ? 0 : (step + 1) % 2], s);
    }
    wgmma_wait<0>();
  }
  write_sums(p, o, group);
}

const TestKernel kKernels[] = {
    {"fence", start<fence<true>>, start<fence<false>>},
    {"accumulators_in_flight", start<accumulators_in_flight<true>>, start<accumulators_in_flight<false>>},
    {"a_registers_in_flight", start<a_registers_in_flight<true>>, start<a_registers_in_flight<false>>},
    {"stage_in_flight", start<stage_in_flight<true>>, start<stage_in_flight<false>>},
    {"weak_wait", start<weak_wait<true>>, start<weak_wait<false>>},
    {"unequal", start<unequal<true>>, start<unequal<false>>},
    {"missing", start<missing<true>>, start<missing<false>>},
    {"left_at_exit", start<left_at_exit<true>>, start<left_at_exit<false>>},
    {"other_shape", start<other_shape<true>>, start<other_shape<false>>},
    {"descriptor", start<descriptor<true>>, start<descriptor<false>>},
    {"mn_descriptor", start<mn_descriptor<true>>, start<mn_descriptor<false>>},
    {"overlapped", start<overlapped<true>>, start<overlapped<false>>},
    {"impossible", start<impossible<true>>, start<impossible<false>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_warpgroups, lacuna_simt::kKernels)
