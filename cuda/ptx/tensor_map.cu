// Tensor maps: the driver's encoder on a GPU machine, an own layout on the SIMT host.
#include "ptx/tensor_map.h"

#include "ptx/launch.h"
#if LACUNA_SIMT
#include "simt/tma.h"
#else
#include <cuda.h>
#endif

namespace LACUNA_NS {

namespace {

int span_bytes(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::kSwizzle32:
      return 32;
    case Swizzle::kSwizzle64:
      return 64;
    case Swizzle::kSwizzle128:
      return 128;
    default:
      return 512;
  }
}

int32_t check(const TensorMapSpec& s) {
  const auto wrong = [](const char* what, int dimension, uint64_t got) {
    return set_error(LACUNA_INVALID_ARGUMENT, "tensor map: %s of dimension %d, got %llu", what, dimension,
                     static_cast<unsigned long long>(got));
  };
  if (s.rank < 1 || s.rank > kMaxTensorRank)
    return wrong("rank must be 1 to 5; rank", 0, static_cast<uint64_t>(s.rank));
  if (reinterpret_cast<uintptr_t>(s.base) % 16 != 0) {
    return wrong("the address must be a multiple of 16; address", 0, reinterpret_cast<uintptr_t>(s.base));
  }
  for (int i = 0; i < s.rank; ++i) {
    if (s.dims[i] < 1 || s.dims[i] > uint64_t{1} << 32) return wrong("size must be in 1..=2^32", i, s.dims[i]);
    if (s.box[i] < 1 || s.box[i] > 256) return wrong("box must be in 1..=256", i, s.box[i]);
    if (i > 0 && (s.stride_bytes[i] % 16 != 0 || s.stride_bytes[i] >= uint64_t{1} << 40)) {
      return wrong("stride must be a multiple of 16 bytes below 2^40", i, s.stride_bytes[i]);
    }
  }
  const uint32_t row = s.box[0] * 2;
  if (row % 16 != 0 || row > static_cast<uint32_t>(span_bytes(s.swizzle))) {
    return wrong("a row of the box must be a multiple of 16 bytes within the swizzle's span; bytes", 0, row);
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

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) == alignof(CUtensorMap),
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
