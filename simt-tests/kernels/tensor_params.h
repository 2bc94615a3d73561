// Parameters of the TMA tests: what every test kernel gets, and two tensor maps made as the test asks.
#pragma once

#include "harness.h"
#include "ptx/fence_proxy.h"
#include "ptx/shared.h"
#include "ptx/tma.h"

namespace LACUNA_NS {

// The tensors are [kOuter, kHeads, kRows, kColumns], contiguous, and boxes [1, kBoxHeads, kBoxRows, box columns].
constexpr int kColumns = 40;
constexpr int kRows = 10;
constexpr int kHeads = 3;
constexpr int kOuter = 2;
constexpr int kBoxRows = 8;
constexpr int kBoxHeads = 2;

struct TensorParams {
  TestParams test;
  TensorMap from;  // source
  TensorMap to;    // target
};

// variant: the swizzle in its lowest two bits, what is planted above. count: four coordinates, a signed byte each,
// innermost first.
__device__ __forceinline__ Swizzle swizzle_of(const TestParams& p) { return static_cast<Swizzle>(p.variant & 3); }
__device__ __forceinline__ int64_t bug_of(const TestParams& p) { return p.variant >> 2; }
__device__ __forceinline__ int coordinate(const TestParams& p, int dimension) {
  return static_cast<int8_t>(p.count >> (8 * dimension));
}

// As wide as the swizzle's span.
__device__ __forceinline__ int box_columns(const TestParams& p) {
  const Swizzle swizzle = swizzle_of(p);
  return swizzle == Swizzle::kSwizzle32 ? 16 : swizzle == Swizzle::kSwizzle64 ? 32 : 64;
}
__device__ __forceinline__ int box_size(const TestParams& p) { return 2 * box_columns(p) * kBoxRows * kBoxHeads; }

inline TensorMapSpec spec_of(const TestParams& p, const void* base) {
  TensorMapSpec spec = {};
  spec.base = base;
  spec.bfloat16 = true;
  spec.rank = 4;
  spec.swizzle = swizzle_of(p);
  const uint64_t dims[4] = {kColumns, kRows, kHeads, kOuter};
  const uint32_t box[4] = {static_cast<uint32_t>(box_columns(p)), kBoxRows, kBoxHeads, 1};
  uint64_t stride = 2;
  for (int i = 0; i < 4; ++i) {
    spec.dims[i] = dims[i];
    spec.stride_bytes[i] = stride;
    spec.box[i] = box[i];
    stride *= dims[i];
  }
  return spec;
}

// kAlter changes the specification of a planted twin's maps.
template <void (*kKernel)(TensorParams), void (*kAlter)(const TestParams&, TensorMapSpec&) = nullptr>
int32_t start_tensor(const char* name, const TestParams& params, void* stream) {
  TensorParams with = {};
  with.test = params;
  TensorMapSpec from = spec_of(params, params.source);
  TensorMapSpec to = spec_of(params, params.target);
  if (kAlter != nullptr) kAlter(params, from);
  if (kAlter != nullptr) kAlter(params, to);
  if (const int32_t status = encode_tensor_map(&with.from, from); status != LACUNA_OK) return status;
  if (const int32_t status = encode_tensor_map(&with.to, to); status != LACUNA_OK) return status;
  return launch<kKernel>(name, params.blocks, static_cast<int>(params.threads), static_cast<size_t>(params.smem_bytes),
                         stream, with);
}

}  // namespace LACUNA_NS
