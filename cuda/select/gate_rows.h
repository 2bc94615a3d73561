// What the rows of a gate call see, and which of those blocks are theirs whatever they score.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/machine.h"

namespace LACUNA_NS {

// Of the rows of one list. Blocks are KV blocks of the sequence.
struct GateRows {
  int32_t visible;        // blocks [0, visible) are seen by one of them at least; 0: by none
  int32_t current_first;  // blocks of the rows' last positions
  int32_t current_last;
  int32_t open;   // the block that the sequence has begun and not filled, or -1
  int32_t dense;  // 1: a row attends everything it sees
  int32_t sinks;  // forced blocks from 0 on

  // Whether the list's block takes no part where current blocks stand apart: no row sees it as an earlier one.
  __device__ __forceinline__ int32_t apart(int32_t causal) const {
    return causal != 0 || current_first == current_last ? current_last : -1;
  }
};

__device__ __forceinline__ int32_t sequence_length(const lacuna_gate_select_params& p, int sequence) {
  if (p.kv_lens == nullptr) return p.kv_len;
  const int32_t length = p.kv_lens[sequence];
  return length < 0 ? 0 : length > p.kv_len ? p.kv_len : length;
}

// Rows [first, first + count) of a sequence of `length` keys.
__device__ __forceinline__ GateRows gate_rows(const lacuna_gate_select_params& p, int32_t length, int32_t first,
                                              int32_t count) {
  GateRows rows = {0, 0, -1, -1, 0, 0};
  // row_tokens is a power of two, so the mask rounds down, also where a sequence is shorter than the call's queries.
  const int64_t origin = static_cast<int64_t>(length - p.q_len) & -static_cast<int64_t>(p.row_tokens);
  const int64_t begin = origin + static_cast<int64_t>(first) * p.row_tokens;
  const int64_t row_end = begin + p.row_tokens;
  const int64_t last_end = begin + static_cast<int64_t>(count) * p.row_tokens;
  if (begin >= length || last_end <= 0) return rows;
  const int32_t first_last = static_cast<int32_t>((row_end < 1 ? 1 : row_end < length ? row_end : length) - 1);
  const int32_t last_last = static_cast<int32_t>((last_end < length ? last_end : length) - 1);
  rows.current_first = first_last / p.block;
  rows.current_last = last_last / p.block;
  rows.visible = p.causal != 0 ? rows.current_last + 1 : (length + p.block - 1) / p.block;
  rows.open = length % p.block != 0 ? length / p.block : -1;
  const int32_t row = last_last / p.row_tokens;
  const int32_t rows_of_sequence = (length + p.row_tokens - 1) / p.row_tokens;
  rows.dense = rows_of_sequence - row <= p.last_rows_dense ? 1 : 0;
  rows.sinks = p.sink_blocks < rows.visible ? p.sink_blocks : rows.visible;
  return rows;
}

__device__ __forceinline__ bool is_forced(const lacuna_gate_select_params& p, const GateRows& rows, int32_t block) {
  return block < rows.sinks || (p.force_diagonal != 0 && block >= rows.current_first && block <= rows.current_last);
}

// How many blocks is_forced says yes to.
__device__ __forceinline__ int32_t forced_blocks(const lacuna_gate_select_params& p, const GateRows& rows) {
  if (p.force_diagonal == 0 || rows.visible == 0) return rows.sinks;
  const int32_t first = rows.current_first < rows.sinks ? rows.sinks : rows.current_first;
  return rows.sinks + (rows.current_last < first ? 0 : rows.current_last - first + 1);
}

}  // namespace LACUNA_NS
