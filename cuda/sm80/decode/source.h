// The keys of a decode tile: which blocks its queries visit, the part of them that a split takes, and their slots.
//
// The queries of a call are so few that they lie in at most two query blocks of a plan. Blocks come from a sequence of
// candidates: all KV blocks of the visible range for a formula, the entries of one or two lists otherwise.
#pragma once

#include "common/block_formula.h"
#include "common/key_source.h"
#include "ptx/thread.h"

namespace LACUNA_NS {
namespace sm80 {

constexpr int kMostQueries = 16;

// In shared memory, since one thread walks it and all read it.
struct DecodeSource {
  lacuna_shape shape;      // of this sequence: its own kv_len
  lacuna_block_plan plan;  // with the row_shift and first_row of this sequence
  QueryTile tile;          // its rows are the call's queries
  KeyRange visible;        // to some query
  int groups;              // plan query blocks that hold queries: 1 or 2
  int candidates;
  int list_begin[2];
  int list_count[2];
  int next;  // candidate
  int left;  // visited blocks that the split has not taken yet
  int key;   // next slot of the current block
  int key_end;
  uint32_t wanting;  // query blocks that want the current block

  // The call of one sequence; `plan_head` and heads of its tile.
  __device__ __forceinline__ void start(const lacuna_forward_params& p, int batch, int kv_head, int plan_head) {
    shape = p.shape;
    plan = p.plan;
    if (p.shape.kv_lens != nullptr) {
      const int len = p.shape.kv_lens[batch];
      shape.kv_len = len < 0 ? 0 : len > p.shape.kv_len ? p.shape.kv_len : len;
      if (plan.kind == LACUNA_PLAN_FORMULA && plan.absolute != 0) {
        const int past = shape.kv_len > shape.q_len ? shape.kv_len - shape.q_len : 0;
        plan.row_shift = past % plan.block_q;
        plan.first_row = past / plan.block_q;
      }
    }
    tile.batch = batch;
    tile.kv_head = kv_head;
    tile.plan_head = plan_head;
    tile.head = 0;
    tile.first_row = -plan.row_shift;
    tile.first_block = 0;
    groups = plan_query_blocks(plan, shape.q_len);
    visible = visible_to_rows(shape, p.mask, 0, shape.q_len);
    list_count[0] = list_count[1] = 0;
    list_begin[0] = list_begin[1] = 0;
    next = left = key = key_end = candidates = 0;
    wanting = 0;
    if (visible.low >= visible.high) return;
    if (plan.kind == LACUNA_PLAN_FORMULA) {
      candidates = (visible.high + plan.block_k - 1) / plan.block_k - visible.low / plan.block_k;
      return;
    }
    const int64_t row = (static_cast<int64_t>(plan.plan_batch == 1 ? 0 : batch) * plan.heads + plan_head) * groups;
    for (int g = 0; g < groups; ++g) {
      const int begin = clamp_entry(plan.row_offsets[row + g]);
      const int end = clamp_entry(plan.row_offsets[row + g + 1]);
      list_begin[g] = begin;
      list_count[g] = end > begin ? end - begin : 0;
    }
    candidates = list_count[0] + list_count[1];
  }

  __device__ __forceinline__ int clamp_entry(int32_t offset) const {
    return offset < 0 ? 0 : offset > plan.capacity ? plan.capacity : offset;
  }

  // The block of a candidate and the query blocks that want it and see some of it: 0 if it is not visited.
  __device__ __forceinline__ BlockEntry candidate(const lacuna_mask& mask, int index) const {
    BlockEntry entry;
    entry.groups = 0;
    if (plan.kind == LACUNA_PLAN_FORMULA) {
      entry.block = visible.low / plan.block_k + index;
      const bool dense = formula_is_dense(plan.formula, tile.plan_head);
      const int shift = formula_shift(plan.formula, tile.plan_head);
      for (int g = 0; g < groups; ++g) {
        if (formula_attends(plan.formula, dense, shift, plan.first_row + g, entry.block) &&
            sees(mask, g, entry.block)) {
          entry.groups |= 1u << g;
        }
      }
      return entry;
    }
    const int g = index < list_count[0] ? 0 : 1;
    entry.block = plan.indices[list_begin[g] + index - (g == 0 ? 0 : list_count[0])];
    const int blocks = (shape.kv_len + plan.block_k - 1) / plan.block_k;
    if (entry.block >= 0 && entry.block < blocks && sees(mask, g, entry.block)) entry.groups = 1u << g;
    return entry;
  }

  __device__ __forceinline__ bool sees(const lacuna_mask& mask, int group, int block) const {
    return overlaps(visible_to_rows(shape, mask, tile.first_row + group * plan.block_q, plan.block_q),
                    block * plan.block_k, plan.block_k);
  }

  // Fills the next key tile for one thread; keys.key[0] is -1 when no key is left.
  template <int kSlots>
  __device__ __forceinline__ void fill(const lacuna_mask& mask, KeyTile<kSlots>& keys) {
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      const bool more = next_slot(mask, keys.place[slot]);
      keys.key[slot] = more ? key : -1;
      keys.rows[slot] = more ? wanting : 0;
      key += more ? kSlotKeys : 0;
    }
  }

  __device__ __forceinline__ bool next_slot(const lacuna_mask& mask, KeyPlace& place) {
    while (key < key_end || next_block(mask)) {
      place = key_place(shape, tile.batch, tile.kv_head, key);
      if (place.page >= 0) return true;
      key += kSlotKeys;
    }
    return false;
  }

  __device__ __forceinline__ bool next_block(const lacuna_mask& mask) {
    while (left > 0 && next < candidates) {
      if (plan.kind == LACUNA_PLAN_FORMULA && !formula_is_dense(plan.formula, tile.plan_head)) {
        const int first = visible.low / plan.block_k;
        next = formula_skip(plan.formula, formula_shift(plan.formula, tile.plan_head), plan.first_row,
                            plan.first_row + groups - 1, first + next) -
               first;
        if (next >= candidates) return false;
      }
      const BlockEntry entry = candidate(mask, next++);
      if (entry.groups == 0) continue;
      --left;
      const int start = entry.block * plan.block_k;
      const int low = visible.low / kSlotKeys * kSlotKeys;
      key = start > low ? start : low;
      key_end = start + plan.block_k < visible.high ? start + plan.block_k : visible.high;
      wanting = entry.groups;
      return true;
    }
    return false;
  }
};

// Places `source` at split `split` of the blocks that it visits; every thread of the block comes here. A split takes
// blocks of at least split_keys keys, and a 64th of all if that is more: the cut depends on the sequence's own blocks.
template <int kThreads>
__device__ __forceinline__ void take_split(DecodeSource& source, int32_t (&visited)[kThreads],
                                           const lacuna_forward_params& p, int split) {
  const int thread = thread_index();
  const int64_t candidates = source.candidates;
  const int begin = static_cast<int>(candidates * thread / kThreads);
  const int end = static_cast<int>(candidates * (thread + 1) / kThreads);
  int count = 0;
  for (int index = begin; index < end; ++index) count += source.candidate(p.mask, index).groups != 0 ? 1 : 0;
  visited[thread] = count;
  sync_threads();
  int before = 0;
  int total = 0;
  for (int other = 0; other < kThreads; ++other) {
    before += other < thread ? visited[other] : 0;
    total += visited[other];
  }
  const int block_k = source.plan.block_k;
  int blocks = (p.split_keys + block_k - 1) / block_k;
  const int share = (total + LACUNA_MAX_SPLITS - 1) / LACUNA_MAX_SPLITS;
  blocks = blocks > share ? blocks : share;
  // Only lists that name blocks more than once need more splits than the host counted.
  const int fit = (total + p.splits - 1) / p.splits;
  blocks = blocks > fit ? blocks : fit;
  const int64_t first = static_cast<int64_t>(split) * blocks;
  if (first >= before && first < before + count) {
    int index = begin;
    for (int64_t skip = first - before;; ++index) {
      if (source.candidate(p.mask, index).groups == 0) continue;
      if (skip-- == 0) break;
    }
    source.next = index;
    source.left = total - first < blocks ? static_cast<int>(total - first) : blocks;
  }
  sync_threads();
}

}  // namespace sm80
}  // namespace LACUNA_NS
