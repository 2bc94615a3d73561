// What the kernels assume of the machine itself: where shared memory starts, how much there is, edges of ex2 and lg2.
#include "checks/checks.h"
#include "harness/machine.h"
#include "ptx/math.h"
#include "ptx/shared.h"
#include "ptx/thread.h"

namespace facts {

namespace {

constexpr int kMostShared = 227 * 1024;

struct AddressParams {
  uint32_t* addresses;  // [blocks] in the shared window
};

struct AddressShared {
  uint32_t first;
};

__global__ void __launch_bounds__(128) address_kernel(const AddressParams p) {
  if (thread_index() == 0) p.addresses[block_index()] = shared_address(&shared<AddressShared>());
}

void check_alignment(Finding& finding) {
  constexpr int kBlocks = 264;
  // The most first: a kernel asks for its limit once (ptx/launch.h).
  for (const int bytes : {kMostShared, 193 * 1024, 100 * 1024 + 16, 40 * 1024, 1024}) {
    const Buffer<uint32_t> addresses(kBlocks);
    run<address_kernel>("addresses", kBlocks, 128, static_cast<size_t>(bytes), AddressParams{addresses.data()});
    for (const uint32_t address : addresses.values()) {
      if (address % 1024 != 0) finding.differs("%d bytes of shared memory start at 0x%x", bytes, address);
    }
  }
}

#if !LACUNA_SIMT
void check_device(Finding& finding) {
  struct Least {
    cudaDeviceAttr attribute;
    int value;
    const char* what;
  };
  constexpr Least kLeast[] = {
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, kMostShared, "bytes of shared memory a block"},
      {cudaDevAttrMaxRegistersPerBlock, 65536, "registers a block"},
      {cudaDevAttrL2CacheSize, 48 << 20, "bytes of L2 cache"},  // sections of heads fill 32 MB of it
  };
  for (const Least& least : kLeast) {
    int value = 0;
    if (cudaDeviceGetAttribute(&value, least.attribute, 0) != cudaSuccess) give_up("no attribute: %s", least.what);
    if (value < least.value) finding.differs("%d %s, expected %d or more", value, least.what, least.value);
  }
}
#endif

struct EdgeParams {
  float* values;  // [8]
  float zero;     // which the compiler does not know
};

__global__ void __launch_bounds__(32) edge_kernel(const EdgeParams p) {
  if (thread_index() != 0) return;
  const float least = minus_infinity() + p.zero;
  const float not_a_number = least - least;
  p.values[0] = ex2(p.zero);
  p.values[1] = ex2(least);
  p.values[2] = ex2(p.zero - 1000.0f);
  p.values[3] = lg2(p.zero);
  p.values[4] = max_float(not_a_number, 3.0f);
  p.values[5] = max_float(3.0f, not_a_number);
  p.values[6] = max_float(least, minus_infinity());
  p.values[7] = rcp(1.0f + p.zero);
}

void check_edges(Finding& finding) {
  const Buffer<float> values(8);
  run<edge_kernel>("edges", 1, 32, 0, EdgeParams{values.data(), 0.0f});
  const std::vector<float> got = values.values();
  const float infinity = __builtin_inff();
  const float expected[8] = {1.0f, 0.0f, 0.0f, -infinity, 3.0f, 3.0f, -infinity, 1.0f};
  constexpr const char* kWhat[8] = {"ex2(0)",      "ex2(-inf)",   "ex2(-1000)",      "lg2(0)",
                                    "max(NaN, 3)", "max(3, NaN)", "max(-inf, -inf)", "rcp(1)"};
  for (int i = 0; i < 8; ++i) {
    if (got[static_cast<size_t>(i)] == expected[i]) continue;
    finding.differs("%s is %g, expected %g", kWhat[i], static_cast<double>(got[static_cast<size_t>(i)]),
                    static_cast<double>(expected[i]));
  }
}

constexpr Fact kFacts[] = {
#if !LACUNA_SIMT
    {"device_limits", "227 KB of shared memory and 65536 registers a block, 48 MB of L2", check_device},
#endif
    {"shared_memory_start", "dynamic shared memory starts at a multiple of 1024 bytes", check_alignment},
    {"scalar_edges", "ex2, lg2, rcp and the maximum at zero, infinity and NaN", check_edges},
};

}  // namespace

List<Fact> limit_facts() { return list_of(kFacts); }

}  // namespace facts
