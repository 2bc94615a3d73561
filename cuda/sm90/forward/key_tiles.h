// The key tiles of a work item: pairs of 64-key boxes, each with who wants it and who must mask it. One producer thread
// walks them ahead of the consumers; the walk lives in shared memory, as registers are scarce there.
//
// Boxes that the same warpgroups want, unmasked, are paired with each other, so that a tile is whole work for whoever
// wants it and nothing for the others; masked boxes and leftovers make tiles that consumers take box by box.
#pragma once

#include "common/block_formula.h"
#include "sm90/forward/work.h"

namespace LACUNA_NS {
namespace sm90 {

constexpr int kBoxKeys = 64;
constexpr int kBoxes = 2;
constexpr int kTileKeys = kBoxes * kBoxKeys;
constexpr int kPieceKeys = 16;  // pages are whole pieces
constexpr int kBoxPieces = kBoxKeys / kPieceKeys;

// Bit w: for warpgroup w.
struct Box {
  int key;           // -1: none
  uint32_t wanted;   // some row of the warpgroup attends it
  uint32_t masked;   // and some row of it does not see all of it
  uint32_t missing;  // bit i: keys [16 i, 16 i + 16) lie in no page
  int page;          // gathering: page of piece 0; else the page, or the sequence if there are none
};

// A key tile, as the producer tells the consumers.
struct alignas(16) KeyTile {
  int key[kBoxes];
  uint32_t flags;  // bits 0..3 wanted, 4..7 masked (2 * box + warpgroup), 8..15 missing pieces, 16 last of the item
  int reserved;

  static constexpr uint32_t kLast = 1u << 16;

  __device__ __forceinline__ bool wanted(int box, int warpgroup) const { return flags >> (2 * box + warpgroup) & 1; }
  __device__ __forceinline__ bool masked(int box, int warpgroup) const {
    return flags >> (4 + 2 * box + warpgroup) & 1;
  }
  __device__ __forceinline__ uint32_t missing(int box) const { return flags >> (8 + kBoxPieces * box) & 0xFu; }
  // Nothing to mask: one product over all 128 keys.
  __device__ __forceinline__ bool whole(int warpgroup) const { return ((flags >> warpgroup) & 0x55u) == 0x05u; }
  __device__ __forceinline__ bool unwanted(int warpgroup) const { return ((flags >> warpgroup) & 0x05u) == 0; }
  // Whole for both warpgroups: they take turns.
  __device__ __forceinline__ bool whole_for_all() const { return (flags & 0xFFu) == 0x0Fu; }
  __device__ __forceinline__ bool last() const { return (flags & kLast) != 0; }
};

// Where the rows of a tile to be gathered lie, for each piece of 16 keys.
struct GatherRows {
  int page[kBoxes * kBoxPieces];
  int row[kBoxes * kBoxPieces];    // in the page
  int count[kBoxes * kBoxPieces];  // rows that exist; the rest are zeros
  int kv_head;
  int more;  // 0: no tile
};

struct KeyTiles {
  // Of the work item.
  KeyRange visible[kConsumers];  // to some row of the warpgroup
  KeyRange common[kConsumers];   // to all rows
  int batch;
  int kv_head;
  uint32_t both;  // groups of an entry that are for all warpgroups: one query block, or one list for two heads
  // Of the walk over blocks.
  int at;  // formula: next candidate block; lists: next entry
  int end;
  bool dense;
  int phase;        // formula: (at + shift) % vertical_stride
  int local_first;  // formula: first block that is local to some query block of the tile
  int query;        // formula: absolute query block of group 0
  int groups;
  // Of the current block.
  int key;
  int key_end;
  uint32_t wanting;  // warpgroups
  // Boxes without a partner yet, by class: 0 masked, else who wants it.
  Box alone[4];
  uint32_t waiting;  // classes that have one

  __device__ __forceinline__ void start(const ForwardArgs& args, const Assignment& assignment) {
    const lacuna_forward_params& p = args.params;
    batch = assignment.work.batch;
    kv_head = assignment.kv_head;
    int low = p.shape.kv_len;
    int high = 0;
    for (int w = 0; w < kConsumers; ++w) {
      const int first_row = assignment.work.first_row[w];
      const int64_t first = key_position(p.shape, first_row);
      const int64_t last = first + kWarpgroupRows - 1;
      visible[w] = visible_to_rows(p.shape, p.mask, first_row, kWarpgroupRows);
      common[w] = KeyRange{visible_keys(p.mask, p.shape.kv_len, last, last).low,
                           visible_keys(p.mask, p.shape.kv_len, first, first).high};
      if (visible[w].low >= visible[w].high) continue;
      low = visible[w].low < low ? visible[w].low : low;
      high = visible[w].high > high ? visible[w].high : high;
    }
    groups = args.heads == 1 && p.plan.block_q < kTileRows ? kTileRows / p.plan.block_q : 1;
    both = groups == 1;
    at = end = key = key_end = 0;
    wanting = waiting = 0;
    dense = false;
    if (low >= high) return;
    int64_t first;
    int64_t count;
    if (p.plan.kind == LACUNA_PLAN_FORMULA) {
      dense = formula_is_dense(p.plan.formula, assignment.plan_head);
      const int keys = dense ? kBoxKeys : p.plan.block_k;
      first = low / keys;
      count = (high + keys - 1) / keys - first;
    } else {
      first = p.schedule.offsets[assignment.schedule_row];
      count = p.schedule.offsets[assignment.schedule_row + 1] - first;
    }
    at = static_cast<int>(first + count * assignment.work.split / p.splits);
    end = static_cast<int>(first + count * (assignment.work.split + 1) / p.splits);
    if (p.plan.kind == LACUNA_PLAN_FORMULA && !dense) {
      const lacuna_block_formula& formula = p.plan.formula;
      query = p.plan.first_row + assignment.first_block;
      local_first = query - formula.local_blocks + 1;
      phase = static_cast<int>((static_cast<int64_t>(at) + formula_shift(formula, assignment.plan_head)) %
                               formula.vertical_stride);
    }
  }

  // The next tile; false when there is none. `boxes` without a key are not to be loaded.
  __device__ __forceinline__ bool next(const ForwardArgs& args, Box (&boxes)[kBoxes]) {
    Box box;
    while (next_box(args, box)) {
      const uint32_t kind = box.masked != 0 || box.missing != 0 ? 0 : box.wanted;
      if ((waiting >> kind & 1) == 0) {
        alone[kind] = box;
        waiting |= 1u << kind;
        continue;
      }
      boxes[0] = alone[kind];
      boxes[1] = box;
      waiting &= ~(1u << kind);
      return true;
    }
    if (waiting == 0) return false;
    for (int i = 0; i < kBoxes; ++i) {
      boxes[i].key = -1;
      boxes[i].wanted = boxes[i].masked = boxes[i].missing = 0;
      for (uint32_t kind = 0; kind < 4; ++kind) {
        if ((waiting >> kind & 1) == 0) continue;
        boxes[i] = alone[kind];
        waiting &= ~(1u << kind);
        break;
      }
    }
    return true;
  }

 private:
  // The next box that some warpgroup attends.
  __device__ __forceinline__ bool next_box(const ForwardArgs& args, Box& box) {
    for (;;) {
      while (key >= key_end) {
        if (!next_block(args)) return false;
      }
      box.key = key;
      key += kBoxKeys;
      box.wanted = box.masked = 0;
      for (int w = 0; w < kConsumers; ++w) {
        if ((wanting >> w & 1) == 0 || !overlaps(visible[w], box.key, kBoxKeys)) continue;
        box.wanted |= 1u << w;
        if (box.key < common[w].low || box.key + kBoxKeys > common[w].high) box.masked |= 1u << w;
      }
      if (box.wanted != 0 && locate(args, box)) return true;
    }
  }

  // Finds the pages of a box; false if all its keys are missing.
  __device__ __forceinline__ bool locate(const ForwardArgs& args, Box& box) const {
    const lacuna_shape& shape = args.params.shape;
    box.page = batch;
    box.missing = 0;
    if (shape.block_table == nullptr) return true;
    for (int piece = 0; piece < kBoxPieces; ++piece) {
      const int first = box.key + piece * kPieceKeys;
      if (first < shape.kv_len && page_of(shape, first) < 0) box.missing |= 1u << piece;
      if (shape.page_size % kBoxKeys == 0) {
        if (box.missing != 0) return false;
        break;
      }
    }
    box.page = page_of(shape, box.key);
    int pieces = (shape.kv_len - box.key + kPieceKeys - 1) / kPieceKeys;
    pieces = pieces < kBoxPieces ? pieces : kBoxPieces;
    return box.missing != (1u << pieces) - 1;
  }

 public:
  // The page of a key, -1 if it is in none.
  __device__ __forceinline__ int page_of(const lacuna_shape& shape, int of) const {
    const int64_t entry = batch * shape.block_table_batch_stride + kv_head * shape.block_table_head_stride;
    const int page = shape.block_table[entry + of / shape.page_size];
    return page < shape.pages && page >= 0 ? page : -1;
  }

 private:
  __device__ __forceinline__ bool next_block(const ForwardArgs& args) {
    const lacuna_forward_params& p = args.params;
    if (at >= end) return false;
    uint32_t wanting_groups = 0;
    int block;
    int keys = p.plan.block_k;
    if (dense) {
      block = at++;
      keys = kBoxKeys;
      wanting = (1u << kConsumers) - 1;
    } else {
      if (p.plan.kind == LACUNA_PLAN_LISTS) {
        const uint32_t packed = p.schedule.entries[at++];
        block = static_cast<int>(packed >> 8);
        wanting_groups = packed & 0xFFu;
      } else {
        block = next_of_formula(p.plan.formula, wanting_groups);
      }
      wanting = both != 0 && wanting_groups != 0 ? (1u << kConsumers) - 1 : wanting_groups;
    }
    key = block * keys;
    key_end = wanting != 0 ? key + keys : key;
    return true;
  }

  // Takes candidate `at`; when nobody wants it, goes to the next one that may be wanted.
  __device__ __forceinline__ int next_of_formula(const lacuna_block_formula& formula, uint32_t& wanting_groups) {
    const int block = at;
    if (block < formula.sink_blocks || phase == 0) {
      wanting_groups = (1u << groups) - 1;
    } else {
      for (int g = 0; g < groups; ++g) {
        if (block <= query + g && query + g - block < formula.local_blocks) wanting_groups |= 1u << g;
      }
    }
    int step = 1;
    if (wanting_groups == 0) {
      step = formula.vertical_stride - phase;
      if (local_first > block && local_first - block < step && formula.local_blocks > 0) step = local_first - block;
    }
    phase += step;
    if (phase >= formula.vertical_stride) phase -= formula.vertical_stride;
    at = step > end - block ? end : block + step;
    return block;
  }
};

}  // namespace sm90
}  // namespace LACUNA_NS
