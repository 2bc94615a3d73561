// Tensor maps: the driver's encoder on a GPU machine, an own layout on the SIMT host.
#include "ptx/tensor_map.h"

#include "ptx/launch.h"
#if LACUNA_SIMT
#include "simt/tensor_box.h"
#else
#include <cuda.h>
#endif

namespace LACUNA_NS {

namespace {

constexpr uint32_t kElementBytes = 2;
// Bytes after which the pattern of a swizzle repeats in a row; 0: no swizzle, no bound.
constexpr uint32_t kSpanBytes[] = {0, 32, 64, 128};

// What cuTensorMapEncodeTiled would refuse with a number only.
int32_t check(const TensorMapSpec& spec) {
  if (spec.rank < 1 || spec.rank > kMaxTensorRank) {
    return set_error(LACUNA_INVALID_ARGUMENT, "tensor map: rank %d, not 1 to %d", spec.rank, kMaxTensorRank);
  }
  if (reinterpret_cast<uintptr_t>(spec.base) % 16 != 0) {
    return set_error(LACUNA_INVALID_ARGUMENT, "tensor map: address %p is not 16-byte aligned", spec.base);
  }
  for (int i = 0; i < spec.rank; ++i) {
    if (spec.dims[i] < 1 || spec.dims[i] > uint64_t{1} << 32) {
      return set_error(LACUNA_INVALID_ARGUMENT, "tensor map: dimension %d has %llu elements, not 1 to 2^32", i,
                       static_cast<unsigned long long>(spec.dims[i]));
    }
    if (spec.box[i] < 1 || spec.box[i] > 256) {
      return set_error(LACUNA_INVALID_ARGUMENT, "tensor map: the box has %u elements in dimension %d, not 1 to 256",
                       spec.box[i], i);
    }
    if (i > 0 && (spec.stride_bytes[i] % 16 != 0 || spec.stride_bytes[i] >= uint64_t{1} << 40)) {
      return set_error(LACUNA_INVALID_ARGUMENT,
                       "tensor map: the stride of dimension %d is %llu bytes, not a multiple of 16 below 2^40", i,
                       static_cast<unsigned long long>(spec.stride_bytes[i]));
    }
  }
  const uint32_t row = spec.box[0] * kElementBytes;
  const uint32_t span = kSpanBytes[static_cast<int>(spec.swizzle)];
  if (row % 16 != 0) {
    return set_error(LACUNA_INVALID_ARGUMENT, "tensor map: a row of the box has %u bytes, not a multiple of 16", row);
  }
  if (span > 0 && row > span) {
    return set_error(LACUNA_INVALID_ARGUMENT, "tensor map: a row of the box has %u bytes, the swizzle spans %u", row,
                     span);
  }
  return LACUNA_OK;
}

}  // namespace

#if LACUNA_SIMT

int32_t encode_tensor_map(TensorMap* map, const TensorMapSpec& spec) {
  if (const int32_t status = check(spec); status != LACUNA_OK) return status;
  *map = pack_tensor_map(spec);
  return LACUNA_OK;
}

#else

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap),
              "the same object");

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found at run time: nothing links against the driver.
Encode find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  const bool usable = status == cudaSuccess && found == cudaDriverEntryPointSuccess;
  return usable ? reinterpret_cast<Encode>(function) : nullptr;
}

}  // namespace

int32_t encode_tensor_map(TensorMap* map, const TensorMapSpec& spec) {
  if (const int32_t status = check(spec); status != LACUNA_OK) return status;
  static const Encode encode = find_encoder();
  if (encode == nullptr) return set_error(LACUNA_LAUNCH_FAILED, "the driver has no cuTensorMapEncodeTiled");
  constexpr cuuint32_t kElementStrides[kMaxTensorRank] = {1, 1, 1, 1, 1};
  cuuint64_t dims[kMaxTensorRank];
  cuuint64_t strides[kMaxTensorRank];
  cuuint32_t box[kMaxTensorRank];
  for (int i = 0; i < spec.rank; ++i) {
    dims[i] = spec.dims[i];
    box[i] = spec.box[i];
    if (i > 0) strides[i - 1] = spec.stride_bytes[i];
  }
  constexpr CUtensorMapSwizzle kSwizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                              CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B};
  const CUresult result =
      encode(reinterpret_cast<CUtensorMap*>(map),
             spec.bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
             static_cast<cuuint32_t>(spec.rank), const_cast<void*>(spec.base), dims, strides, box, kElementStrides,
             CU_TENSOR_MAP_INTERLEAVE_NONE, kSwizzles[static_cast<int>(spec.swizzle)],
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return LACUNA_OK;
  return set_error(LACUNA_LAUNCH_FAILED, "cuTensorMapEncodeTiled: error %d", static_cast<int>(result));
}

#endif

}  // namespace LACUNA_NS
