// Host-side checks of the launcher ABI: whatever the parameter structs say, no kernel starts on sizes that contradict
// each other. (What device memory holds is checked by the kernels themselves.)
#pragma once

#include "lacuna_kernels.h"
#include "ptx/launch.h"

namespace LACUNA_NS {

inline bool is_block_size(int size) { return size == 16 || size == 32 || size == 64 || size == 128; }

#define LACUNA_REQUIRE(condition, ...) \
  if (!(condition)) return set_error(LACUNA_INVALID_ARGUMENT, __VA_ARGS__)

// A product of counts for a grid; beyond what any grid has, also of blocks that do many at a time, it stops counting.
inline int64_t grid_product(int64_t a, int64_t b) {
  constexpr int64_t kTooMany = int64_t{1} << 48;
  return a != 0 && b > kTooMany / a ? kTooMany : a * b;
}

// What a family reads of the lengths on the device.
enum class Lengths { kNone, kKeys, kRagged };

inline int32_t check_shape(const lacuna_shape& s, Lengths lengths = Lengths::kNone) {
  constexpr int kMax = 1 << 30;
  LACUNA_REQUIRE(s.batch >= 1 && s.batch <= kMax, "batch must be in 1..=2^30, got %d", s.batch);
  LACUNA_REQUIRE(s.kv_heads >= 1 && s.kv_heads <= kMax, "kv_heads must be in 1..=2^30, got %d", s.kv_heads);
  LACUNA_REQUIRE(s.q_heads >= 1 && s.q_heads <= kMax && s.q_heads % s.kv_heads == 0,
                 "q_heads must be a positive multiple of kv_heads (%d), got %d", s.kv_heads, s.q_heads);
  LACUNA_REQUIRE(s.q_len >= 1 && s.q_len <= kMax, "q_len must be in 1..=2^30, got %d", s.q_len);
  LACUNA_REQUIRE(s.kv_len >= 0 && s.kv_len <= kMax, "kv_len must be in 0..=2^30, got %d", s.kv_len);
  LACUNA_REQUIRE(s.dtype == LACUNA_F16 || s.dtype == LACUNA_BF16, "dtype must be f16 (0) or bf16 (1), got %d", s.dtype);
  const bool packed = s.cu_seqlens_q != nullptr || s.cu_seqlens_k != nullptr;
  if (packed && lengths != Lengths::kRagged) {
    return set_error(LACUNA_UNSUPPORTED, "packed sequences (cu_seqlens): only forward takes them");
  }
  if (s.kv_lens != nullptr && lengths == Lengths::kNone) {
    return set_error(LACUNA_UNSUPPORTED, "lengths on the device (kv_lens): only forward and decode take them");
  }
  LACUNA_REQUIRE(s.cu_seqlens_q == nullptr || (s.q_rows >= 0 && s.q_rows <= kMax), "q_rows must be in 0..=2^30, got %d",
                 s.q_rows);
  LACUNA_REQUIRE(s.cu_seqlens_k == nullptr || (s.k_rows >= 0 && s.k_rows <= kMax), "k_rows must be in 0..=2^30, got %d",
                 s.k_rows);
  LACUNA_REQUIRE(s.cu_seqlens_k == nullptr || (s.kv_lens == nullptr && s.block_table == nullptr),
                 "cu_seqlens_k goes neither with kv_lens nor with block_table");
  if (s.block_table == nullptr) return LACUNA_OK;
  LACUNA_REQUIRE(s.page_size >= 16 && s.page_size <= kMax && s.page_size % 16 == 0,
                 "page_size must be a multiple of 16 in 16..=2^30, got %d", s.page_size);
  LACUNA_REQUIRE(s.pages >= 0 && s.pages <= kMax, "pages must be in 0..=2^30, got %d", s.pages);
  LACUNA_REQUIRE(s.block_table_batch_stride >= 0 && s.block_table_head_stride >= 0,
                 "strides of block_table must be >= 0, got %lld and %lld",
                 static_cast<long long>(s.block_table_batch_stride), static_cast<long long>(s.block_table_head_stride));
  return LACUNA_OK;
}

inline int32_t check_family(int32_t family) {
  LACUNA_REQUIRE(family == LACUNA_FAMILY_AUTO || family == LACUNA_FAMILY_PORTABLE || family == LACUNA_FAMILY_HOPPER,
                 "family must be 0 (auto), 80 or 90, got %d", family);
  return LACUNA_OK;
}

inline int32_t check_mask(const lacuna_mask& m, const lacuna_shape& s) {
  LACUNA_REQUIRE(m.causal == 0 || m.causal == 1, "causal must be 0 or 1, got %d", m.causal);
  LACUNA_REQUIRE(m.causal == 0 || s.q_len <= s.kv_len, "causal needs q_len <= kv_len, got %d > %d", s.q_len, s.kv_len);
  LACUNA_REQUIRE(m.window_left >= -1 && m.window_right >= -1, "windows must be -1 (none) or more, got %d and %d",
                 m.window_left, m.window_right);
  return LACUNA_OK;
}

inline int32_t check_plan(const lacuna_block_plan& p, const lacuna_shape& s) {
  LACUNA_REQUIRE(p.kind == LACUNA_PLAN_FORMULA || p.kind == LACUNA_PLAN_LISTS, "plan kind %d", p.kind);
  LACUNA_REQUIRE(is_block_size(p.block_q) && is_block_size(p.block_k),
                 "block sizes must be 16, 32, 64 or 128, got %d x %d", p.block_q, p.block_k);
  LACUNA_REQUIRE(p.plan_batch == 1 || p.plan_batch == s.batch, "plan_batch must be 1 or batch (%d), got %d", s.batch,
                 p.plan_batch);
  LACUNA_REQUIRE(p.heads == 1 || p.heads == s.kv_heads || p.heads == s.q_heads,
                 "plan heads must be 1, kv_heads (%d) or q_heads (%d), got %d", s.kv_heads, s.q_heads, p.heads);
  LACUNA_REQUIRE(p.row_shift >= 0 && p.row_shift < p.block_q, "row_shift must be in 0..%d, got %d", p.block_q,
                 p.row_shift);
  LACUNA_REQUIRE(p.first_row >= -(1 << 30) && p.first_row <= (1 << 30), "first_row must be in -2^30..=2^30, got %d",
                 p.first_row);
  LACUNA_REQUIRE(s.kv_len / p.block_k < (1 << 24), "at most 2^24 KV blocks, got %d", s.kv_len / p.block_k);
  if (p.kind == LACUNA_PLAN_LISTS) {
    LACUNA_REQUIRE(p.capacity >= 0 && p.row_offsets != nullptr && (p.indices != nullptr || p.capacity == 0),
                   "a list plan needs row_offsets, indices and a capacity");
    return LACUNA_OK;
  }
  const lacuna_block_formula& f = p.formula;
  LACUNA_REQUIRE(f.vertical_stride >= 1, "vertical_stride must be >= 1, got %d", f.vertical_stride);
  LACUNA_REQUIRE(f.local_blocks >= 0 && f.sink_blocks >= 0, "local_blocks and sink_blocks must be >= 0, got %d and %d",
                 f.local_blocks, f.sink_blocks);
  LACUNA_REQUIRE(f.head_step >= 0 && f.head_step < f.vertical_stride && f.head_offset >= 0 &&
                     f.head_offset < f.vertical_stride && f.heads_per_step >= 1,
                 "head_step and head_offset must be in 0..vertical_stride (%d) and heads_per_step >= 1, got %d, %d, %d",
                 f.vertical_stride, f.head_step, f.head_offset, f.heads_per_step);
  LACUNA_REQUIRE(f.local_after >= (f.local_blocks == 0 ? -1 : 0),
                 "local_after must be >= 0, or -1 with local_blocks 0, got %d with %d", f.local_after, f.local_blocks);
  LACUNA_REQUIRE(f.relative == 0 || f.relative == 1, "relative must be 0 or 1, got %d", f.relative);
  return LACUNA_OK;
}

// `schedule_q`: query rows that the kernel needs in a schedule row. More are as good, in whole tiles and whole query
// blocks, of which an entry has bits for 8.
inline int32_t check_schedule(const lacuna_schedule& s, const lacuna_block_plan& p, const lacuna_shape& shape,
                              int schedule_q) {
  LACUNA_REQUIRE(s.tile_q >= 16 && s.tile_q % p.block_q == 0 && s.tile_q / p.block_q <= 8,
                 "tile_q of the schedule must be 1 to 8 times block_q (%d), got %d", p.block_q, s.tile_q);
  LACUNA_REQUIRE(s.tile_q % schedule_q == 0, "tile_q of the schedule must be a multiple of %d for this kernel, got %d",
                 schedule_q, s.tile_q);
  LACUNA_REQUIRE(s.unit == p.block_k, "the schedule is for blocks of %d keys, the plan has blocks of %d", s.unit,
                 p.block_k);
  const int64_t rows =
      static_cast<int64_t>(p.plan_batch) * p.heads * ((shape.q_len + p.row_shift + s.tile_q - 1) / s.tile_q);
  LACUNA_REQUIRE(s.rows == rows, "the schedule has %d rows, this call needs %lld", s.rows,
                 static_cast<long long>(rows));
  LACUNA_REQUIRE(
      s.capacity >= 0 && s.offsets != nullptr && s.order != nullptr && (s.entries != nullptr || s.capacity == 0),
      "the schedule lacks offsets, order or entries");
  return LACUNA_OK;
}

#define LACUNA_CHECK(call) \
  if (const int32_t status = (call); status != LACUNA_OK) return status

}  // namespace LACUNA_NS
