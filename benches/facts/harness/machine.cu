#include "harness/machine.h"

#include <stdio.h>

#if !LACUNA_SIMT
namespace LACUNA_NS {

// What the library has in kernel_table.cu, which is not part of this program.
char* error_buffer() {
  static thread_local char text[1024] = {0};
  return text;
}

const char* last_error() { return error_buffer(); }

}  // namespace LACUNA_NS
#endif

namespace facts {

#if LACUNA_SIMT

namespace {

constexpr int kPolicies = 4;
constexpr int kAsyncModes = 3;
lacuna_simt_stream* current = nullptr;

}  // namespace

const char* missing_device() { return nullptr; }

int rounds() { return kPolicies * kAsyncModes; }

void start_round(int round) {
  if (current != nullptr) lacuna_simt_stream_destroy(current);
  lacuna_simt_config config;
  lacuna_simt_default_config(&config);
  config.policy = round % kPolicies;
  config.async_mode = round / kPolicies;
  config.seed = static_cast<uint64_t>(round);
  config.threads = 1;
  config.checks = 1;
  current = lacuna_simt_stream_create(&config);
}

void* stream() { return current; }

void* allocate(size_t bytes) {
  void* const pointer = lacuna_simt_alloc(bytes, 1);
  if (pointer == nullptr) give_up("no memory for %zu bytes", bytes);
  return pointer;
}

void release(void* pointer) { lacuna_simt_free(pointer); }
void copy_to_device(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }
void copy_to_host(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }
void finish(const char*) {}

#else

namespace {

void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess) give_up("%s: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

}  // namespace

const char* missing_device() {
  static char text[256];
  int devices = 0;
  const cudaError_t counted = cudaGetDeviceCount(&devices);
  if (counted != cudaSuccess || devices == 0) {
    snprintf(text, sizeof text, "no CUDA device: %s",
             counted == cudaSuccess ? "the driver shows none" : cudaGetErrorString(counted));
    return text;
  }
  int major = 0;
  int minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  if (major == 9 && minor == 0) return nullptr;
  snprintf(text, sizeof text, "the device has compute capability %d.%d, these facts are about 9.0", major, minor);
  return text;
}

int rounds() { return 3; }
void start_round(int) {}
void* stream() { return nullptr; }

void* allocate(size_t bytes) {
  void* pointer = nullptr;
  require(cudaMalloc(&pointer, bytes), "cudaMalloc");
  return pointer;
}

void release(void* pointer) { require(cudaFree(pointer), "cudaFree"); }

void copy_to_device(void* to, const void* from, size_t bytes) {
  require(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy to the device");
  // It returns when the source may change; other streams need the copy itself.
  finish("cudaMemcpy to the device");
}

void copy_to_host(void* to, const void* from, size_t bytes) {
  require(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy to the host");
}

void finish(const char* kernel) { require(cudaDeviceSynchronize(), kernel); }

#endif

}  // namespace facts
