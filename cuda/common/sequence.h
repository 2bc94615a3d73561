// One sequence of a batch: how long it is and where its rows lie. Lengths on the device are data: whatever they hold is
// cut to what the tensors have.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

struct Sequence {
  int q_len;
  int kv_len;
  int q_first;    // row of q, out and lse that holds its first query; 0 unless queries are packed
  int k_first;    // row of k and v that holds its first key; 0 unless keys are packed
  int row_shift;  // as in lacuna_block_plan
  int first_row;
};

// Rows [first, first + len) of `rows` packed ones.
struct PackedRows {
  int first;
  int len;
};

__device__ __forceinline__ PackedRows packed_rows(const int32_t* starts, int sequence, int rows, int longest) {
  const int begin = starts[sequence];
  const int end = starts[sequence + 1];
  const int first = begin < 0 ? 0 : begin > rows ? rows : begin;
  const int behind = end > rows ? rows : end;
  const int len = behind > first ? behind - first : 0;
  return PackedRows{first, len > longest ? longest : len};
}

__host__ __device__ __forceinline__ bool has_lengths(const lacuna_shape& shape) {
  return shape.cu_seqlens_q != nullptr || shape.cu_seqlens_k != nullptr || shape.kv_lens != nullptr;
}

// The largest row_shift of a sequence.
__host__ __device__ __forceinline__ int largest_row_shift(const lacuna_shape& shape, const lacuna_block_plan& plan) {
  return plan.absolute != 0 && has_lengths(shape) ? plan.block_q - 1 : plan.row_shift;
}

// Where all sequences have the lengths of the shape.
__device__ __forceinline__ Sequence whole_sequence(const lacuna_shape& shape, const lacuna_block_plan& plan) {
  return Sequence{shape.q_len, shape.kv_len, 0, 0, plan.row_shift, plan.first_row};
}

__device__ __forceinline__ Sequence sequence_of(const lacuna_shape& shape, const lacuna_block_plan& plan, int batch) {
  Sequence sequence = whole_sequence(shape, plan);
  if (shape.cu_seqlens_q != nullptr) {
    const PackedRows rows = packed_rows(shape.cu_seqlens_q, batch, shape.q_rows, shape.q_len);
    sequence.q_first = rows.first;
    sequence.q_len = rows.len;
  }
  if (shape.cu_seqlens_k != nullptr) {
    const PackedRows rows = packed_rows(shape.cu_seqlens_k, batch, shape.k_rows, shape.kv_len);
    sequence.k_first = rows.first;
    sequence.kv_len = rows.len;
  } else if (shape.kv_lens != nullptr) {
    const int len = shape.kv_lens[batch];
    sequence.kv_len = len < 0 ? 0 : len > shape.kv_len ? shape.kv_len : len;
  }
  if (plan.absolute != 0) {
    const int past = sequence.kv_len > sequence.q_len ? sequence.kv_len - sequence.q_len : 0;
    sequence.row_shift = past % plan.block_q;
    sequence.first_row = past / plan.block_q;
  }
  return sequence;
}

}  // namespace LACUNA_NS
