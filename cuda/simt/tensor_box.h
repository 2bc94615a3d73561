// A tensor map as the SIMT host encodes it, and the box of a tensor that one TMA copy moves.
#pragma once

#include <stdint.h>

#include "ptx/tensor_map.h"

namespace lacuna_simt {

// What a TensorMap holds here.
struct EncodedMap {
  uint64_t magic;
  uint64_t base;
  uint64_t stride_bytes[kMaxTensorRank];
  uint32_t last[kMaxTensorRank];     // size - 1
  uint8_t box_last[kMaxTensorRank];  // box - 1
  uint8_t rank;
  uint8_t swizzle;
};

TensorMap pack_tensor_map(const TensorMapSpec& spec);

struct TensorBox {
  EncodedMap map;
  int32_t at[kMaxTensorRank];  // coordinates of the first element, innermost first
};

// The addresses between the first and the last element of the box that lie in the tensor; bytes 0: there is none.
struct TensorSpan {
  const unsigned char* first;
  uint64_t bytes;
};

// Of a map that somebody encoded for this rank; fails on the current thread if nobody did, and for rows shorter than
// the swizzle's span, whose places in shared memory are not modelled.
TensorBox tensor_box(const TensorMap& map, const int32_t* at, int rank, const char* what, int line);
// Bytes of the box, clipped or not.
uint32_t box_bytes(const TensorBox& box);
// What its shared address must be a multiple of.
uint32_t box_alignment(const TensorBox& box);
TensorSpan box_span(const TensorBox& box);

// `shared` points to the box at shared address `address`. Both return the bytes moved to or from the tensor.
uint32_t load_box(const TensorBox& box, unsigned char* shared, uint32_t address);
uint32_t store_box(const TensorBox& box, const unsigned char* shared, uint32_t address);
void poison_box(const TensorBox& box, unsigned char* shared, uint32_t address);

}  // namespace lacuna_simt
