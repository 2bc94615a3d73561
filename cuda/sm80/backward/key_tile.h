// The work of a block of the key kernel: which part of which column, its loads, its mask, and where its sums go.
#pragma once

#include "common/query_source.h"
#include "sm80/backward/args.h"
#include "sm80/forward/kernel.h"

namespace LACUNA_NS {
namespace sm80 {

struct ColumnWork {
  Column column;
  int piece;
  int pieces;
  int slot;  // of the sequences' slots, when the column is cut
  bool valid;
};

// The first blocks take the parts of columns that are cut, the others whole columns, longest first.
__device__ __forceinline__ ColumnWork column_work(const BackwardArgs& args, int index) {
  const lacuna_shape& shape = args.forward.params.shape;
  const BackwardSchedule& schedule = args.schedule;
  const int cut = shape.batch * schedule.slots;
  ColumnWork work;
  work.slot = index;
  work.piece = 0;
  work.pieces = 1;
  const int column = index < cut ? schedule.slot_columns[index] : schedule.order[index - cut];
  work.valid = column >= 0 && column < schedule.columns;
  if (!work.valid) return work;
  work.column = column_at(shape, schedule, column);
  const int first = schedule.first_slot[column];
  if (index < cut) {
    work.pieces = schedule.pieces[column];
    work.piece = index - work.column.batch * schedule.slots - first;
    work.valid = first >= 0 && work.pieces >= 1 && work.piece >= 0 && work.piece < work.pieces;
  } else {
    work.valid = first < 0;
  }
  return work;
}

// The 64 rows of k or v of a column; keys at or beyond kv_len become zeros.
template <class Traits>
__device__ __forceinline__ void load_keys(typename Traits::Element* tile, const void* tensor,
                                          const lacuna_strides& stride, const lacuna_forward_params& p,
                                          const Column& column, bool vectors) {
  const auto* rows =
      static_cast<const typename Traits::Element*>(tensor) + column.batch * stride.batch + column.kv_head * stride.head;
  load_queries<Traits::kThreads, Traits::kHeadDim, kColumnKeys>(tile, rows, stride.seq, column.tile * kColumnKeys,
                                                                p.shape.kv_len, vectors);
}

// The rows of q and dout of each slot, and their statistics; zeros for empty slots and for rows that do not exist.
template <class Traits>
__device__ __forceinline__ void load_query_slots(typename Traits::Shared& smem, const BackwardArgs& args, int batch,
                                                 int stage, const QuerySlots<Traits::kSlots>& slots) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kPieces = kGroupRows * kDim / 8;  // 16-byte chunks of a slot
  constexpr int kStats = kGroupRows / 4;
  static_assert(2 * kStats * Traits::kSlots <= Traits::kThreads, "a thread moves one chunk of the statistics");
  const lacuna_forward_params& p = args.forward.params;
  if (slots.row[0] < 0) return;
#pragma unroll 1
  for (int i = 0; i < (Traits::kSlots * kPieces + Traits::kThreads - 1) / Traits::kThreads; ++i) {
    const int piece = i * Traits::kThreads + thread_index();
    if (Traits::kSlots * kPieces % Traits::kThreads != 0 && piece >= Traits::kSlots * kPieces) break;
    const int slot = piece / kPieces;
    const int chunk = piece % (kDim / 8);
    const int row = slots.row[slot] - p.plan.row_shift + piece % kPieces / (kDim / 8);
    const bool present = slots.row[slot] >= 0 && row >= 0 && row < p.shape.q_len;
    const int64_t head = present ? slots.head[slot] : 0;
    const int64_t from = present ? row : 0;
    const int to = swizzled<kDim>(piece / (kDim / 8), chunk);
    const T* q = static_cast<const T*>(p.q) + batch * p.q_stride.batch + head * p.q_stride.head +
                 from * p.q_stride.seq + chunk * 8;
    const T* dout = static_cast<const T*>(args.dout) + batch * args.dout_stride.batch + head * args.dout_stride.head +
                    from * args.dout_stride.seq + chunk * 8;
    load_chunk(smem.q[stage] + to, q, present, args.forward.q_vectors);
    load_chunk(smem.dout[stage] + to, dout, present, args.dout_vectors);
  }
  const int piece = thread_index();
  if (piece >= 2 * kStats * Traits::kSlots) return;
  const int slot = piece / (2 * kStats);
  const int first = piece % kStats * 4;
  const bool present = slots.row[slot] >= 0;
  const int64_t head = static_cast<int64_t>(batch) * p.shape.q_heads + (present ? slots.head[slot] : 0);
  const int64_t from = head * args.workspace.stat_rows + (present ? slots.row[slot] + first : 0);
  const bool is_lse = piece % (2 * kStats) < kStats;
  float* const to = (is_lse ? smem.lse[stage] : smem.delta[stage]) + slot * kGroupRows + first;
  cp_async_16(shared_address(to), (is_lse ? args.workspace.lse : args.workspace.delta) + from, present ? 16 : 0);
}

// Hides what the token mask hides. scores: 16 keys from `first_key` on, down, against the 16 call rows from `row` on.
__device__ __forceinline__ void mask_column(float (&scores)[2][4], const lacuna_forward_params& p, int row,
                                            int first_key) {
  const KeyRange common = common_keys(p.shape, p.mask, row);
  if (first_key >= common.low && first_key + kGroupRows <= common.high) return;
  const int lane = thread_index() % 32;
  const int key = first_key + lane / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t position = key_position(p.shape, row + 8 * (i >> 1) + 2 * (lane % 4) + (i & 1));
    const KeyRange range = visible_keys(p.mask, p.shape.kv_len, position, position);
    if (key < range.low || key >= range.high) scores[i >> 1][i & 1] = minus_infinity();
    if (key + 8 < range.low || key + 8 >= range.high) scores[i >> 1][2 + (i & 1)] = minus_infinity();
  }
}

// Writes a warp's sums: rows of dv or dk, or of the partial result of a part.
template <class Traits>
__device__ __forceinline__ void write_column(const BackwardArgs& args, const ColumnWork& work,
                                             const Accumulator<Traits>& acc, bool is_dv, int first_key) {
  using T = typename Traits::Element;
  const lacuna_forward_params& p = args.forward.params;
  const Column& column = work.column;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int key = fragment_row(first_key, r);
    if (work.pieces > 1) {
      const int64_t row = (static_cast<int64_t>(work.slot) * 2 + (is_dv ? 1 : 0)) * kColumnKeys + key % kColumnKeys;
      write_row<Traits>(args.workspace.partials + row * Traits::kHeadDim, acc, r, 1.0f);
      continue;
    }
    if (key >= p.shape.kv_len) continue;
    const lacuna_strides& stride = is_dv ? args.dv_stride : args.dk_stride;
    T* const to = static_cast<T*>(is_dv ? args.dv : args.dk) + column.batch * stride.batch +
                  column.kv_head * stride.head + key * stride.seq;
    write_row<Traits>(to, acc, r, is_dv ? 1.0f : p.scale, is_dv ? args.dv_pairs : args.dk_pairs);
  }
}

}  // namespace sm80
}  // namespace LACUNA_NS
