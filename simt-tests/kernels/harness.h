// What every test kernel is started with, and how Rust finds it by name. A kernel with a planted bug and its correct
// twin are one template: kernel<true> and kernel<false>.
#pragma once

#include <string.h>

#include "ptx/launch.h"
#include "ptx/thread.h"

extern "C" {

// Mirrored by simt-tests/src/kernel.rs.
typedef struct simt_test_params {
  const void* source;  // read by the kernel
  void* target;        // written by the kernel
  int64_t count;       // elements of source, or what the kernel says
  int64_t variant;     // chooses among the kernel's cases
  int64_t blocks;
  int64_t threads;
  int64_t smem_bytes;
} simt_test_params;

}  // extern "C"

namespace LACUNA_NS {

using TestParams = simt_test_params;

template <void (*kKernel)(TestParams)>
int32_t start(const char* name, const TestParams& params, void* stream) {
  return launch<kKernel>(name, params.blocks, static_cast<int>(params.threads), static_cast<size_t>(params.smem_bytes),
                         stream, params);
}

struct TestKernel {
  const char* name;
  int32_t (*planted)(const char* name, const TestParams& params, void* stream);
  int32_t (*correct)(const char* name, const TestParams& params, void* stream);
};

// -1: no kernel of this name.
template <int kCount>
int32_t start_by_name(const TestKernel (&kernels)[kCount], const char* name, int32_t planted, const TestParams* params,
                      void* stream) {
  for (const TestKernel& kernel : kernels) {
    if (strcmp(kernel.name, name) != 0) continue;
    const auto chosen = planted != 0 ? kernel.planted : kernel.correct;
    return chosen == nullptr ? -1 : chosen(kernel.name, *params, stream);
  }
  return -1;
}

// The two words of a test: what it reads and what it writes.
__device__ __forceinline__ const uint32_t* source_words(const TestParams& p) {
  return static_cast<const uint32_t*>(p.source);
}
__device__ __forceinline__ uint32_t* target_words(const TestParams& p) { return static_cast<uint32_t*>(p.target); }

}  // namespace LACUNA_NS

#define SIMT_TEST_FAMILY(function, kernels)                                                                      \
  extern "C" int32_t function(const char* name, int32_t planted, const simt_test_params* params, void* stream) { \
    return LACUNA_NS::start_by_name(kernels, name, planted, params, stream);                                     \
  }
