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
  KeyRange seen[2];        // by each plan query block that holds queries
  int groups;              // of those: 1 or 2
  int dense;               // 1: a formula that attends every block
  int shift;               // of a formula
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
    for (int g = 0; g < 2; ++g) {
      seen[g] = visible_to_rows(shape, p.mask, tile.first_row + g * plan.block_q, plan.block_q);
    }
    dense = shift = 0;
    list_count[0] = list_count[1] = 0;
    list_begin[0] = list_begin[1] = 0;
    next = left = key = key_end = candidates = 0;
    wanting = 0;
    if (visible.low >= visible.high) return;
    if (plan.kind == LACUNA_PLAN_FORMULA) {
      dense = formula_is_dense(plan.formula, plan_head) ? 1 : 0;
      shift = formula_shift(plan.formula, plan_head);
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
  __device__ __forceinline__ BlockEntry candidate(int index) const {
    BlockEntry entry;
    entry.groups = 0;
    if (plan.kind == LACUNA_PLAN_FORMULA) {
      entry.block = visible.low / plan.block_k + index;
      for (int g = 0; g < groups; ++g) {
        if (sees(g, entry.block) && formula_attends(plan.formula, dense != 0, shift, plan.first_row + g, entry.block)) {
          entry.groups |= 1u << g;
        }
      }
      return entry;
    }
    const int g = index < list_count[0] ? 0 : 1;
    entry.block = plan.indices[list_begin[g] + index - (g == 0 ? 0 : list_count[0])];
    const int blocks = (shape.kv_len + plan.block_k - 1) / plan.block_k;
    if (entry.block >= 0 && entry.block < blocks && sees(g, entry.block)) entry.groups = 1u << g;
    return entry;
  }

  __device__ __forceinline__ bool sees(int group, int block) const {
    return overlaps(seen[group], block * plan.block_k, plan.block_k);
  }

  // Fills the next key tile for one thread; keys.key[0] is -1 when no key is left.
  template <int kSlots>
  __device__ __forceinline__ void fill(KeyTile<kSlots>& keys) {
#pragma unroll 1
    for (int slot = 0; slot < kSlots; ++slot) {
      const bool more = next_slot(keys.place[slot]);
      keys.key[slot] = more ? key : -1;
      keys.rows[slot] = more ? wanting : 0;
      key += more ? kSlotKeys : 0;
    }
  }

  __device__ __forceinline__ bool next_slot(KeyPlace& place) {
    while (key < key_end || next_block()) {
      place = key_place(shape, tile.batch, tile.kv_head, key);
      if (place.page >= 0) return true;
      key += kSlotKeys;
    }
    return false;
  }

  __device__ __forceinline__ bool next_block() {
    while (left > 0 && next < candidates) {
      if (plan.kind == LACUNA_PLAN_FORMULA && dense == 0) {
        const int first = visible.low / plan.block_k;
        next = formula_skip(plan.formula, shift, plan.first_row, plan.first_row + groups - 1, first + next) - first;
        if (next >= candidates) return false;
      }
      const BlockEntry entry = candidate(next++);
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

// Visited blocks before those of this thread (the ones from candidate `begin` on), its own, and all. Every thread of
// the block comes here.
struct VisitedBlocks {
  int64_t before;
  int64_t own;
  int64_t total;
};

template <int kThreads>
__device__ __forceinline__ VisitedBlocks count_visited(const DecodeSource& source, int32_t* counts, int begin,
                                                       int end) {
  const int thread = thread_index();
  // The blocks between the first and the last key that some query sees are seen by some query each.
  if (source.dense != 0) return VisitedBlocks{begin, end - begin, source.candidates};
  int32_t own = 0;
  for (int index = begin; index < end; ++index) own += source.candidate(index).groups != 0 ? 1 : 0;
  counts[thread] = own;
  sync_threads();
  VisitedBlocks visited = {0, own, 0};
  for (int other = 0; other < kThreads; ++other) {
    visited.before += other < thread ? counts[other] : 0;
    visited.total += counts[other];
  }
  return visited;
}

// Places `source` at split `split` of the blocks that it visits and says whether there are any; every thread of the
// block comes here, with shared memory for kThreads counts. A split takes blocks of at least split_keys keys, and a
// 64th of all if that is more: the cut depends on the sequence's own blocks.
template <int kThreads>
__device__ __forceinline__ bool take_split(DecodeSource& source, int32_t* counts, const lacuna_forward_params& p,
                                           int split) {
  const int thread = thread_index();
  const int64_t candidates = source.candidates;
  const int begin = static_cast<int>(candidates * thread / kThreads);
  const int end = static_cast<int>(candidates * (thread + 1) / kThreads);
  const VisitedBlocks visited = count_visited<kThreads>(source, counts, begin, end);
  const int64_t total = visited.total;
  const int block_k = source.plan.block_k;
  int64_t blocks = (p.split_keys + block_k - 1) / block_k;
  const int64_t share = (total + LACUNA_MAX_SPLITS - 1) / LACUNA_MAX_SPLITS;
  blocks = blocks > share ? blocks : share;
  // Only lists that name blocks more than once need more splits than the host counted.
  const int64_t fit = (total + p.splits - 1) / p.splits;
  blocks = blocks > fit ? blocks : fit;
  const int64_t first = split * blocks;
  if (first >= total) return false;
  if (first >= visited.before && first < visited.before + visited.own) {
    int64_t skip = first - visited.before;
    int index = begin;
    if (source.dense != 0) {
      index += static_cast<int>(skip);
    } else {
      for (;; ++index) {
        if (source.candidate(index).groups == 0) continue;
        if (skip-- == 0) break;
      }
    }
    source.next = index;
    source.left = static_cast<int>(total - first < blocks ? total - first : blocks);
  }
  sync_threads();
  return true;
}

}  // namespace sm80
}  // namespace LACUNA_NS
