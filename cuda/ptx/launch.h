// Starting a kernel: the only place that does, on either machine.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/error.h"
#include "simt/launch.h"
#include "simt/stream.h"
#include <string.h>
#else
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <mutex>
#endif

namespace LACUNA_NS {

#if LACUNA_SIMT

// Runs kKernel over `blocks` blocks; returns a lacuna_status. `name` is what errors and profilers show.
template <auto kKernel, class P>
int32_t launch(const char* name, int64_t blocks, int threads, size_t smem_bytes, void* stream, const P& params) {
  lacuna_simt_stream* const on = static_cast<lacuna_simt_stream*>(stream);
  Launch job;
  job.name = name;
  job.entry = [](const void* given) { kKernel(*static_cast<const P*>(given)); };
  job.params = &params;
  job.grid = blocks;
  job.threads = threads;
  job.smem_bytes = smem_bytes < 0xffffffffu ? static_cast<uint32_t>(smem_bytes) : 0xffffffffu;  // over any limit
  job.config = stream_config(on);
  return run_launch(job, on);
}

// The family that LACUNA_FAMILY_AUTO prefers: the SIMT host has the instructions of all.
inline int32_t device_family() { return LACUNA_FAMILY_HOPPER; }

// Blocks that a persistent kernel starts, one a multiprocessor.
inline int32_t multiprocessors(void* stream) {
  return stream_config(static_cast<lacuna_simt_stream*>(stream)).sm_count;
}

// Writes zeros in stream order; a CUDA graph may hold it.
inline int32_t fill_zero(int32_t* pointer, size_t count, void*) {
  memset(pointer, 0, count * sizeof(int32_t));
  return LACUNA_OK;
}

#else

char* error_buffer();  // this thread's, 1024 bytes
const char* last_error();

inline int32_t set_error(int32_t status, const char* format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(error_buffer(), 1024, format, values);
  va_end(values);
  return status;
}

inline int32_t cuda_failure(const char* name, cudaError_t error) {
  const int32_t status = error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction
                             ? LACUNA_NO_KERNEL
                             : LACUNA_LAUNCH_FAILED;
  return set_error(status, "kernel %s: %s (%s)", name, cudaGetErrorString(error), cudaGetErrorName(error));
}

// An attribute of the current device, asked once for each.
template <cudaDeviceAttr kAttribute>
inline int device_attribute() {
  static std::atomic<int> known[64];  // value + 1 of each device
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (device < 64) {
    const int value = known[device].load(std::memory_order_relaxed);
    if (value > 0) return value - 1;
  }
  int value = 0;
  if (cudaDeviceGetAttribute(&value, kAttribute, device) != cudaSuccess) return 0;
  if (device < 64) known[device].store(value + 1, std::memory_order_relaxed);
  return value;
}

// The fastest family that the current device can run and that was built.
inline int32_t device_family() {
  const bool hopper = LACUNA_BUILT_SM90A != 0 && device_attribute<cudaDevAttrComputeCapabilityMajor>() == 9;
  return hopper ? LACUNA_FAMILY_HOPPER : LACUNA_FAMILY_PORTABLE;
}

// Blocks that a persistent kernel starts, one a multiprocessor.
inline int32_t multiprocessors(void*) { return device_attribute<cudaDevAttrMultiProcessorCount>(); }

// Writes zeros in stream order; a CUDA graph may hold it.
inline int32_t fill_zero(int32_t* pointer, size_t count, void* stream) {
  const cudaError_t filled = cudaMemsetAsync(pointer, 0, count * sizeof(int32_t), static_cast<cudaStream_t>(stream));
  if (filled == cudaSuccess) return LACUNA_OK;
  return set_error(LACUNA_LAUNCH_FAILED, "cudaMemsetAsync: %s", cudaGetErrorString(filled));
}

// Asks for more than 48 KB of dynamic shared memory, where no call of a device has asked for as much before.
template <auto kKernel>
cudaError_t allow_shared_memory(size_t smem_bytes) {
  static std::atomic<size_t> allowed[64];  // bytes, of each device
  int device = 0;
  const cudaError_t found = cudaGetDevice(&device);
  if (found != cudaSuccess) return found;
  size_t known = device < 64 ? allowed[device].load(std::memory_order_acquire) : 0;
  if (known >= smem_bytes) return cudaSuccess;
  // The larger of two calls at the same time must come last, whoever does.
  static std::mutex turn;
  const std::lock_guard<std::mutex> mine(turn);
  known = device < 64 ? allowed[device].load(std::memory_order_relaxed) : 0;
  if (known >= smem_bytes) return cudaSuccess;
  const cudaError_t set =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kKernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(smem_bytes));
  if (set == cudaSuccess && device < 64) allowed[device].store(smem_bytes, std::memory_order_release);
  return set;
}

// Starts kKernel on `blocks` blocks; returns a lacuna_status. `name` is what errors show.
template <auto kKernel, class P>
int32_t launch(const char* name, int64_t blocks, int threads, size_t smem_bytes, void* stream, const P& params) {
  if (blocks < 1 || blocks > 0x7fffffff) {
    return set_error(LACUNA_INVALID_ARGUMENT, "kernel %s: a grid of %lld blocks", name, static_cast<long long>(blocks));
  }
  if (smem_bytes > 48 * 1024) {
    const cudaError_t allowed = allow_shared_memory<kKernel>(smem_bytes);
    if (allowed != cudaSuccess) return cuda_failure(name, allowed);
  }
  P copy = params;
  void* arguments[] = {&copy};
  const cudaError_t launched =
      cudaLaunchKernel(reinterpret_cast<const void*>(kKernel), dim3(static_cast<unsigned>(blocks)),
                       dim3(static_cast<unsigned>(threads)), arguments, smem_bytes, static_cast<cudaStream_t>(stream));
  return launched == cudaSuccess ? LACUNA_OK : cuda_failure(name, launched);
}

#endif

}  // namespace LACUNA_NS
