// What a backward pass keeps on the device: the schedule of its KV tiles, and the workspace of a call. Both sides of
// the launchers lay them out with the functions here.
#pragma once

#include "common/query_tile.h"

namespace LACUNA_NS {

constexpr int kColumnKeys = 64;       // keys of a column: a KV tile of one sequence and KV head
constexpr int kStatRows = 128;        // rows of a head in the statistics are padded to whole query blocks and tiles
constexpr int kMaxPieces = 512;       // parts that the long columns of a sequence are cut into
constexpr int kPieceRows = 1024;      // query rows of a part at least: below, a partial result costs more than it saves
constexpr int kTransposeRows = 64;    // plan rows that a warp sorts at least
constexpr int kTransposeChunks = 32;  // warps that sort the rows of a plan head at most

// Who attends the columns, and in which order they are worked on.
//
// A column's entries are those of the query heads of its group, one head after the other: positions 0, 1, ... A formula
// has an entry for each query block between the first and the last one that attend the column.
struct BackwardSchedule {
  int tiles;       // columns of a (sequence, KV head)
  int columns;     // column (b * kv_heads + kv head) * tiles + tile
  int slots;       // pieces of a sequence; 0: nothing is ever cut
  int unit;        // lists: keys of a row of `entries`
  int units;       // lists: rows of a (sequence, plan head)
  int rows;        // lists: row (b * plan heads + plan head) * units + unit
  int capacity;    // lists: elements of entries
  int chunks;      // lists: parts of the rows of a plan head that are sorted at the same time
  int chunk_rows;  // plan rows of such a part

  int32_t* lengths;       // [columns] positions of a column, cut to 2^31 - 1
  int32_t* order;         // [columns] longest first
  int32_t* pieces;        // [columns] parts that the column is cut into
  int32_t* first_slot;    // [columns] slot of the first part within the sequence; -1: the column is whole
  int32_t* slot_columns;  // [batch * slots] the column that a slot belongs to; -1: none
  int32_t* sums;          // [columns + 1] scratch
  int32_t* overflow;      // [2] scratch; lists: the first is what did not fit into entries

  int32_t* offsets;   // [rows + 1]
  uint32_t* entries;  // [capacity] query block << 8 | mask of the unit's KV blocks, ascending query blocks in a row
  int32_t* totals;    // [rows] scratch
  int32_t* counts;    // [plan_batch * plan heads, chunks, units] scratch
};

struct BackwardWorkspace {
  int stat_rows;    // of a head; row r stands for call row r - row_shift
  float* lse;       // [batch, q_heads, stat_rows] natural log; +inf for rows that attend nothing or do not exist
  float* delta;     // [batch, q_heads, stat_rows]
  float* partials;  // [batch * slots, 2, kColumnKeys, head_dim] sums of a part for dk (not yet scaled) and dv
};

// Hands out pieces of a buffer, each aligned to 16 bytes; counts alone if the buffer is null.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<unsigned char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    unsigned char* const at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (static_cast<uint64_t>(count) * sizeof(T) + 15) / 16 * 16;
    return reinterpret_cast<T*>(at);
  }

  uint64_t used() const { return used_; }

 private:
  unsigned char* base_;
  uint64_t used_ = 0;
};

inline int64_t backward_columns(const lacuna_shape& shape) {
  const int64_t tiles = (static_cast<int64_t>(shape.kv_len) + kColumnKeys - 1) / kColumnKeys;
  const int64_t heads = static_cast<int64_t>(shape.batch) * shape.kv_heads;
  return heads > 0x7fffffff ? heads : heads * tiles;
}

inline int min_piece_entries(const lacuna_block_plan& plan) { return kPieceRows / plan.block_q; }

// For a shape and plan whose columns and rows fit 32 bits. Returns the bytes that it takes.
inline uint64_t lay_out(const lacuna_shape& shape, const lacuna_block_plan& plan, void* memory, BackwardSchedule& to) {
  to = {};
  to.tiles = static_cast<int>((static_cast<int64_t>(shape.kv_len) + kColumnKeys - 1) / kColumnKeys);
  to.columns = static_cast<int>(backward_columns(shape));
  const int64_t q_blocks = plan_query_blocks(plan, shape.q_len);
  const int64_t longest = q_blocks * (shape.q_heads / shape.kv_heads);
  // A column of fewer than two shortest parts is not cut; lists may be longer than this, but rarely are.
  const int64_t most = longest / min_piece_entries(plan) * shape.kv_heads * to.tiles;
  to.slots = most < 2 || longest < 2 * min_piece_entries(plan) ? 0
             : most < kMaxPieces                               ? static_cast<int>(most)
                                                               : kMaxPieces;
  Carver carver(memory);
  to.lengths = carver.take<int32_t>(to.columns);
  to.order = carver.take<int32_t>(to.columns);
  to.pieces = carver.take<int32_t>(to.columns);
  to.first_slot = carver.take<int32_t>(to.columns);
  to.slot_columns = carver.take<int32_t>(static_cast<int64_t>(shape.batch) * to.slots);
  to.sums = carver.take<int32_t>(static_cast<int64_t>(to.columns) + 1);
  to.overflow = carver.take<int32_t>(2);
  if (plan.kind != LACUNA_PLAN_LISTS) return carver.used();
  const int64_t heads = static_cast<int64_t>(plan.plan_batch) * plan.heads;
  to.unit = plan.block_k > kColumnKeys ? plan.block_k : kColumnKeys;
  to.units = (shape.kv_len + to.unit - 1) / to.unit;
  to.rows = static_cast<int>(heads * to.units);
  to.capacity = plan.capacity;
  const int64_t chunks = (q_blocks + kTransposeRows - 1) / kTransposeRows;
  to.chunks = chunks < 1 ? 1 : chunks < kTransposeChunks ? static_cast<int>(chunks) : kTransposeChunks;
  to.chunk_rows = static_cast<int>((q_blocks + to.chunks - 1) / to.chunks);
  to.offsets = carver.take<int32_t>(static_cast<int64_t>(to.rows) + 1);
  to.entries = carver.take<uint32_t>(to.capacity);
  to.totals = carver.take<int32_t>(to.rows);
  to.counts = carver.take<int32_t>(heads * to.chunks * to.units);
  return carver.used();
}

inline uint64_t lay_out(const lacuna_shape& shape, const lacuna_block_plan& plan, int slots, void* memory,
                        BackwardWorkspace& to) {
  const int64_t rows = (static_cast<int64_t>(shape.q_len) + plan.row_shift + kStatRows - 1) / kStatRows * kStatRows;
  const int64_t heads = static_cast<int64_t>(shape.batch) * shape.q_heads;
  to.stat_rows = static_cast<int>(rows);
  Carver carver(memory);
  to.lse = carver.take<float>(heads * rows);
  to.delta = carver.take<float>(heads * rows);
  to.partials = carver.take<float>(static_cast<int64_t>(shape.batch) * slots * 2 * kColumnKeys * shape.head_dim);
  return carver.used();
}

}  // namespace LACUNA_NS
