// CUtensorMap: a tensor of up to 5 dimensions in global memory and the box that one TMA copy moves. Made on the host,
// passed to a kernel by value as a __grid_constant__ parameter.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

constexpr int kMaxTensorRank = 5;

// The first kElements elements of a shared row go where? Chunks of 16 bytes exchange places so that eight rows of a
// matrix lie in different banks: chunk c of row r lies at c ^ (r & 7) for kSwizzle128.
enum class Swizzle : int { kNone = 0, kSwizzle32 = 1, kSwizzle64 = 2, kSwizzle128 = 3 };

struct alignas(128) TensorMap {
  uint64_t opaque[16];
};

// Dimension 0 is the innermost and packed. Elements are 16-bit floats.
struct TensorMapSpec {
  const void* base;  // 16-byte aligned
  bool bfloat16;
  int rank;
  uint64_t dims[kMaxTensorRank];          // elements, in 1..=2^32
  uint64_t stride_bytes[kMaxTensorRank];  // of dimensions 1.. (index 0 unused): multiples of 16 below 2^40
  uint32_t box[kMaxTensorRank];           // elements, in 1..=256; box[0] * 2 at most the swizzle's span
  Swizzle swizzle;
};

// Fills `map`, or says what is wrong. Elements outside the tensor load as zeros and are never stored.
int32_t encode_tensor_map(TensorMap* map, const TensorMapSpec& spec);

}  // namespace LACUNA_NS
