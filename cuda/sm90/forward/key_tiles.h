// The key tiles of a work item: pairs of 64-key boxes, each with who wants it and who must mask it. The producer warp
// walks them ahead of the consumers, 32 candidate boxes at a time, one a lane.
//
// Boxes that the same warpgroups want, unmasked, are paired with each other, so that a tile is whole work for whoever
// wants it and nothing for the others; masked boxes and leftovers make tiles that consumers take box by box. A tile is
// complete when its second box comes up: the order of tiles does not depend on how candidates are batched.
#pragma once

#include "common/block_formula.h"
#include "ptx/shuffle.h"
#include "sm90/forward/key_tile.h"
#include "sm90/forward/work.h"

namespace LACUNA_NS {
namespace sm90 {

// What the walk keeps in shared memory.
struct WalkShared {
  KeyRange visible[kConsumers];  // to some row of the warpgroup
  KeyRange common[kConsumers];   // to all its rows
  int kv_len;                    // of the sequence
  int k_first;                   // row of k and v that holds its first key
  Box alone[kBoxKinds];          // boxes without a partner yet; of lane 0 only
};

// All lanes of the warp hold the same values, but for `mine`. kRagged: lengths are on the device.
template <bool kRagged>
struct KeyTiles {
  WalkShared& shared;
  int batch = 0;
  int kv_head = 0;
  // Of the walk over blocks.
  int first = 0;      // block of candidate 0, or its entry
  int next = 0;       // candidate of lane 0 in the next batch
  int end = 0;        // candidates
  int box_shift = 0;  // log2 of the boxes of a block
  bool dense = false;
  int shift = 0;  // formula: (block or distance + shift) % vertical_stride == 0: vertical
  int query = 0;  // formula: absolute query block of group 0
  int groups = 0;
  Box mine = {};                  // this lane's candidate
  uint32_t left[kBoxKinds] = {};  // lanes whose candidates are not taken yet, by kind
  uint32_t waiting = 0;           // kinds that have a box without a partner

  __device__ __forceinline__ explicit KeyTiles(WalkShared& walk_shared) : shared(walk_shared) {}

  __device__ __forceinline__ void start(const ForwardArgs& args, const Assignment& assignment) {
    const lacuna_forward_params& p = args.params;
    batch = assignment.work.batch;
    kv_head = assignment.kv_head;
    if (const int w = thread_index(); w < kConsumers) {
      const int first_row = w == 0 ? assignment.work.first_row[0] : assignment.work.first_row[1];
      const auto& lengths = lengths_of<kRagged>(p, assignment.work);
      const int64_t top = key_position(lengths, first_row);
      const int64_t bottom = top + kWarpgroupRows - 1;
      shared.visible[w] = visible_to_rows(lengths, p.mask, first_row, kWarpgroupRows);
      shared.common[w] = KeyRange{visible_keys(p.mask, lengths.kv_len, bottom, bottom).low,
                                  visible_keys(p.mask, lengths.kv_len, top, top).high};
      shared.kv_len = lengths.kv_len;
      shared.k_first = assignment.sequence.k_first;
    }
    sync_warp();
    int low = p.shape.kv_len;  // no sequence has more
    int high = 0;
    for (int w = 0; w < kConsumers; ++w) {
      const KeyRange range = shared.visible[w];
      if (range.low >= range.high) continue;
      low = range.low < low ? range.low : low;
      high = range.high > high ? range.high : high;
    }
    groups = args.heads == 1 && p.plan.block_q < kTileRows ? kTileRows / p.plan.block_q : 1;
    dense = p.plan.kind == LACUNA_PLAN_FORMULA && formula_is_dense(p.plan.formula, assignment.plan_head);
    const int keys = dense ? kBoxKeys : p.plan.block_k;
    box_shift = keys == kBoxKeys ? 0 : 1;
    waiting = 0;
    for (uint32_t& lanes : left) lanes = 0;
    next = end = 0;
    if (low >= high) return;
    int64_t begin;
    int64_t count;
    if (p.plan.kind == LACUNA_PLAN_FORMULA) {
      begin = low / keys;
      count = (high + keys - 1) / keys - begin;
      shift = dense ? 0 : formula_shift(p.plan.formula, assignment.plan_head);
      query = assignment.sequence.first_row + assignment.first_block;
    } else {
      begin = p.schedule.offsets[assignment.schedule_row];
      count = p.schedule.offsets[assignment.schedule_row + 1] - begin;
    }
    const int64_t from = count * assignment.work.split / p.splits;
    const int64_t to = count * (assignment.work.split + 1) / p.splits;
    first = static_cast<int>(begin + from);
    end = static_cast<int>(to - from) << box_shift;
  }

  // The next tile, for lane 0; false, for all lanes, when there is none. `boxes` without a key are not to be loaded.
  __device__ __forceinline__ bool take(const ForwardArgs& args, Box (&boxes)[kBoxes]) {
    for (;;) {
      // The pair that is complete first.
      int kind = -1;
      int second = kWarpThreads;
#pragma unroll
      for (int k = 0; k < kBoxKinds; ++k) {
        const uint32_t lanes = (waiting >> k & 1) != 0 ? left[k] : left[k] & (left[k] - 1);
        const int at = lanes != 0 ? lowest_bit(lanes) : kWarpThreads;
        if (at < second) {
          second = at;
          kind = k;
        }
      }
      if (kind >= 0) {
        take_pair(kind, second, boxes);
        return true;
      }
      keep_leftovers();
      if (next >= end) return take_leftovers(boxes);
      evaluate_batch(args);
    }
  }

  __device__ __forceinline__ int kv_len(const lacuna_shape& shape) const {
    return kRagged ? shared.kv_len : shape.kv_len;
  }

  // The page of a key, -1 if it is in none.
  __device__ __forceinline__ int page_of(const lacuna_shape& shape, int key) const {
    const int64_t entry = batch * shape.block_table_batch_stride + kv_head * shape.block_table_head_stride;
    const int page = shape.block_table[entry + key / shape.page_size];
    return page < shape.pages && page >= 0 ? page : -1;
  }

 private:
  __device__ __forceinline__ Box of_lane(int lane) const {
    return Box{shuffle(mine.key, lane), static_cast<uint32_t>(shuffle(static_cast<int>(mine.flags), lane)),
               shuffle(mine.page, lane)};
  }

  __device__ __forceinline__ void take_pair(int kind, int second, Box (&boxes)[kBoxes]) {
    const uint32_t bit = 1u << kind;
    uint32_t lanes = 0;
#pragma unroll
    for (int k = 0; k < kBoxKinds; ++k) lanes = k == kind ? left[k] : lanes;
    if ((waiting & bit) != 0) {
      if (thread_index() == 0) boxes[0] = shared.alone[kind];
      waiting &= ~bit;
    } else {
      const int partner = lowest_bit(lanes);
      boxes[0] = of_lane(partner);
      lanes &= lanes - 1;
    }
    boxes[1] = of_lane(second);
    lanes &= lanes - 1;
#pragma unroll
    for (int k = 0; k < kBoxKinds; ++k) left[k] = k == kind ? lanes : left[k];
  }

  // At most one box of a kind is left of a batch.
  __device__ __forceinline__ void keep_leftovers() {
#pragma unroll
    for (int k = 0; k < kBoxKinds; ++k) {
      if (left[k] == 0) continue;
      const Box box = of_lane(lowest_bit(left[k]));
      if (thread_index() == 0) shared.alone[k] = box;
      waiting |= 1u << k;
      left[k] = 0;
    }
  }

  __device__ __forceinline__ bool take_leftovers(Box (&boxes)[kBoxes]) {
    if (waiting == 0) return false;
#pragma unroll
    for (int i = 0; i < kBoxes; ++i) {
      boxes[i] = Box{-1, 0, 0};
      if (waiting == 0) continue;
      if (thread_index() == 0) boxes[i] = shared.alone[lowest_bit(waiting)];
      waiting &= waiting - 1;
    }
    return true;
  }

  __device__ __forceinline__ void evaluate_batch(const ForwardArgs& args) {
    const int candidate = next + thread_index();
    next += kWarpThreads;
    mine = candidate < end ? evaluate(args, candidate) : Box{-1, 0, 0};
#pragma unroll
    for (uint32_t k = 0; k < kBoxKinds; ++k) left[k] = ballot(mine.wanted() != 0 && mine.kind() == k);
  }

  __device__ __forceinline__ Box evaluate(const ForwardArgs& args, int candidate) const {
    const lacuna_forward_params& p = args.params;
    int block = first + (candidate >> box_shift);
    uint32_t wanting = (1u << kConsumers) - 1;
    if (!dense) {
      uint32_t wanting_groups;
      if (p.plan.kind == LACUNA_PLAN_LISTS) {
        const uint32_t packed = p.schedule.entries[block];
        block = static_cast<int>(packed >> 8);
        wanting_groups = packed & 0xFFu;
      } else {
        wanting_groups = groups_of_formula(p.plan.formula, block);
      }
      // One query block, or one list for two heads: what it wants, all want.
      wanting = groups == 1 ? (wanting_groups != 0 ? wanting : 0) : wanting_groups;
    }
    const bool packed = kRagged && p.shape.cu_seqlens_k != nullptr;
    Box box{(block << box_shift | (candidate & ((1 << box_shift) - 1))) * kBoxKeys, 0, packed ? 0 : batch};
#pragma unroll
    for (int w = 0; w < kConsumers; ++w) {
      if ((wanting >> w & 1) == 0 || !overlaps(shared.visible[w], box.key, kBoxKeys)) continue;
      const KeyRange common = shared.common[w];
      box.flags |= Box::kWanted << w;
      if (box.key < common.low || box.key + kBoxKeys > common.high) box.flags |= Box::kMasked << w;
    }
    if (box.wanted() != 0 && p.shape.block_table != nullptr) locate(p.shape, box);
    return box;
  }

  // Query blocks of the tile that attend a block, the token mask aside.
  __device__ __forceinline__ uint32_t groups_of_formula(const lacuna_block_formula& formula, int block) const {
    uint32_t wanting = 0;
    for (int g = 0; g < groups; ++g) {
      if (formula_attends(formula, false, shift, query + g, block)) wanting |= 1u << g;
    }
    return wanting;
  }

  // Finds the pages of a box. Keys of missing pages are masked; a box without any page is wanted by nobody.
  __device__ __forceinline__ void locate(const lacuna_shape& shape, Box& box) const {
    box.page = page_of(shape, box.key);
    uint32_t missing = box.page < 0 ? 1 : 0;
    int pieces = 1;
    if (shape.page_size % kBoxKeys != 0) {
      pieces = (kv_len(shape) - box.key + kPieceKeys - 1) / kPieceKeys;
      pieces = pieces < kBoxPieces ? pieces : kBoxPieces;
      for (int i = 1; i < pieces; ++i) missing |= page_of(shape, box.key + i * kPieceKeys) < 0 ? 1u << i : 0;
    }
    if (missing == (1u << pieces) - 1) {
      box.flags = 0;
    } else if (missing != 0) {
      box.flags |= missing * Box::kMissing | box.wanted() * Box::kMasked;
    }
  }
};

}  // namespace sm90
}  // namespace LACUNA_NS
