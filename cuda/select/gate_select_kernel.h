// Scores and selection in one kernel: a thread block scores the members of a few lists, folds them to one row of scores
// a list in shared memory, and each warp selects from such rows into a bit a block. With kCut it does the same for
// lists that are longer than their room, and leaves the best.
#pragma once

#include "select/gate_rank.h"
#include "select/gate_rows.h"
#include "select/gate_score.h"

namespace LACUNA_NS {

struct SelectArgs {
  lacuna_gate_select_params p;
  float scale;      // of the logits
  float log_value;  // of a threshold
  int32_t kv_blocks;
  int32_t words;           // of selected, a list
  int32_t lists_per_head;  // of a (sequence, plan head)
  int32_t lists_per_block;
  int32_t groups;   // thread blocks a (sequence, plan head)
  int32_t members;  // (head, row) pairs of a list
  int32_t aligned;  // rows of k_gate start at multiples of 16 bytes
};

// A row of a tile: a member of a list.
struct TileRow {
  int32_t head;  // of q_gate
  int32_t row;   // -1: no row
  int32_t list;  // of the thread block
  int32_t visible;
  int32_t apart;    // takes no part, or -1
  int32_t neutral;  // has a logit of 0, or -1
};

// Behind it [kRows, kv_blocks] scores of a tile, and where lists have several members [lists_per_block, kv_blocks] of
// the lists.
template <int kRows, int kStages>
struct SelectShared {
  ScoreShared<kRows, kStages> score;
  TileRow rows[kRows];
  GateRows lists[kRows];
  float lse[kRows];
};

__device__ __forceinline__ float not_a_number() { return bits_float(0x7fc00000u); }

// A logit as selection wants it: NaN, which is what bad data gives, counts as -inf, and there is no -0.
__device__ __forceinline__ float score_of(float logit) {
  constexpr float kMost = 3.402823466e+38f;
  if (logit != logit) return minus_infinity();
  return (logit < kMost ? logit : kMost) + 0.0f;
}

__device__ __forceinline__ TileRow tile_row(const SelectArgs& args, int32_t length, int head, int row, int list) {
  const lacuna_gate_select_params& p = args.p;
  const GateRows sees = gate_rows(p, length, row, 1);
  TileRow result = {head, row, list, sees.visible, -1, -1};
  if (p.current == LACUNA_GATE_CURRENT_APART) result.apart = sees.current_last;
  if (p.current == LACUNA_GATE_CURRENT_NEUTRAL && sees.open == sees.current_last) result.neutral = sees.open;
  return result;
}

// Scores of the rows in smem.rows, NaN where a row takes no part, and their logits.
template <int kRows, int kStages, bool kCut>
__device__ __forceinline__ void score_rows(const SelectArgs& args, SelectShared<kRows, kStages>& smem, float* tile,
                                           int sequence, int key_head, int columns) {
  const lacuna_gate_select_params& p = args.p;
  const int padded = (p.gate_dim + kScoreDepth - 1) / kScoreDepth * kScoreDepth;
  for (int at = thread_index(); at < kRows * padded; at += kScoreThreads) {
    const int r = at / padded;
    const int k = at % padded;
    const TileRow& row = smem.rows[r];
    const int64_t from = (static_cast<int64_t>(sequence) * p.q_heads + row.head) * p.rows + row.row;
    smem.score.queries[r][k / 4].x[k % 4] = row.row >= 0 && k < p.gate_dim ? p.q_gate[from * p.gate_dim + k] : 0.0f;
  }
  const ScoreKeys keys = {p.k_gate + (static_cast<int64_t>(sequence) * p.k_heads + key_head) * p.k_rows * p.gate_dim,
                          columns, p.gate_dim, args.aligned};
  score_tile<kRows, kStages>(smem.score, keys, [&](int column, const float(&dots)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const TileRow& row = smem.rows[r];
      const bool sees = column < row.visible;
      const float logit = column == row.neutral ? 0.0f : score_of(dots[r] * args.scale);
      tile[r * args.kv_blocks + column] = sees && column != row.apart ? logit : not_a_number();
      if constexpr (!kCut) {
        if (p.logits != nullptr && sees) {
          p.logits[((static_cast<int64_t>(sequence) * p.q_heads + row.head) * p.rows + row.row) * args.kv_blocks +
                   column] = logit;
        }
      }
    }
  });
  if constexpr (!kCut) {
    if (p.logits == nullptr) return;
    for (int r = 0; r < kRows; ++r) {
      const TileRow& row = smem.rows[r];
      if (row.row < 0) continue;
      float* const to =
          p.logits + ((static_cast<int64_t>(sequence) * p.q_heads + row.head) * p.rows + row.row) * args.kv_blocks;
      for (int column = row.visible + thread_index(); column < args.kv_blocks; column += kScoreThreads) {
        to[column] = minus_infinity();
      }
    }
  }
}

// Lists of several members: scores = max(scores, logit - lse) for the members in the tile. In between a barrier.
template <int kRows, int kStages>
__device__ __forceinline__ void fold_rows(const SelectArgs& args, SelectShared<kRows, kStages>& smem, const float* tile,
                                          float* scores, int columns) {
  for (int r = thread_index() / kWarpThreads; r < kRows; r += kScoreThreads / kWarpThreads) {
    const float* const row = tile + r * args.kv_blocks;
    const float lse = row_lse(row, columns, row_range(row, columns).most);
    if (thread_index() % kWarpThreads == 0) smem.lse[r] = lse;
  }
  sync_threads();
  for (int column = thread_index(); column < columns; column += kScoreThreads) {
    for (int r = 0; r < kRows; ++r) {
      if (smem.rows[r].row < 0) continue;
      float& score = scores[smem.rows[r].list * args.kv_blocks + column];
      score = max_float(score, tile[r * args.kv_blocks + column] - smem.lse[r]);
    }
  }
}

// What the rule takes of a list.
__device__ __forceinline__ Cutoff rule_cutoff(const SelectArgs& args, const float* scores, int32_t columns,
                                              int32_t kv_blocks) {
  const lacuna_gate_select_params& p = args.p;
  const RowRange range = row_range(scores, columns);
  if (p.rule == LACUNA_GATE_COUNT) return best_count(scores, columns, range, p.count);
  if (p.rule == LACUNA_GATE_FRACTION) {
    const int32_t wanted = static_cast<int32_t>(p.value * kv_blocks);
    return best_count(scores, columns, range, wanted < 1 ? 1 : wanted);
  }
  // Scores of several members are logarithms of P already; a mass is a part of their sum, which exceeds 1.
  const bool logits = args.members == 1;
  const float lse = logits || p.rule == LACUNA_GATE_TOP_P ? row_lse(scores, columns, range.most) : 0.0f;
  if (p.rule == LACUNA_GATE_TOP_P) return best_mass(scores, columns, range, lse, static_cast<float>(p.value));
  return p.value < 0.0 ? everything() : Cutoff{lse + args.log_value, 0};
}

// Leaves in `scores` those of the blocks that compete for `room` places, and returns their cutoff. Forced blocks come
// before others, and the current block, where it stands apart, before all that compete with it.
__device__ __forceinline__ Cutoff cut_cutoff(const SelectArgs& args, const GateRows& list, float* scores,
                                             const uint32_t* selected, int32_t room, bool keep_forced) {
  constexpr float kMost = 3.402823466e+38f;
  for (int32_t at = thread_index() % kWarpThreads; at < list.visible; at += kWarpThreads) {
    const bool is_selected = (selected[at / 32] >> (at % 32) & 1u) != 0;
    const float score = scores[at];
    if (!is_selected || is_forced(args.p, list, at) == keep_forced) {
      scores[at] = not_a_number();
    } else if (score != score) {
      scores[at] = kMost;
    }
  }
  const int32_t places = keep_forced ? room - forced_blocks(args.p, list) : room;
  return best_count(scores, list.visible, row_range(scores, list.visible), places);
}

// A warp selects for one list.
template <bool kCut>
__device__ __forceinline__ void select_list(const SelectArgs& args, const GateRows& list, float* scores, int64_t index,
                                            int32_t kv_blocks) {
  const lacuna_gate_select_params& p = args.p;
  const int lane = thread_index() % kWarpThreads;
  uint32_t* const selected = p.selected + index * args.words;
  bool keep_forced = true;
  Cutoff cutoff;
  if constexpr (kCut) {
    const int32_t room = p.row_offsets[index + 1] - p.row_offsets[index];
    if (p.counts[index] <= room) return;
    keep_forced = forced_blocks(p, list) < room;
    cutoff = cut_cutoff(args, list, scores, selected, room, keep_forced);
  } else {
    cutoff = rule_cutoff(args, scores, list.visible, kv_blocks);
  }
  int32_t count = 0;
  int32_t ties = 0;
  const int32_t words = (list.visible + 31) / 32;
  for (int32_t word = 0; word < words; ++word) {
    const int32_t block = word * 32 + lane;
    const bool sees = block < list.visible;
    const float score = sees ? scores[block] : not_a_number();
    const uint32_t tied = ballot(score == cutoff.at);
    const bool takes =
        score > cutoff.at || (score == cutoff.at && ties + popcount(tied & ((1u << lane) - 1)) < cutoff.ties);
    ties += popcount(tied);
    const bool forced = sees && ((!kCut && list.dense != 0) || (keep_forced && is_forced(p, list, block)));
    const uint32_t bits = ballot(takes || forced);
    count += popcount(bits);
    if (lane == 0) selected[word] = bits;
  }
  if constexpr (!kCut) {
    for (int32_t word = words + lane; word < args.words; word += kWarpThreads) selected[word] = 0;
    if (lane == 0) p.counts[index] = count;
  }
}

template <int kRows, int kStages, bool kCut>
__global__ void __launch_bounds__(kScoreThreads, kScoreBlocks)
    gate_select_kernel(const __grid_constant__ SelectArgs args) {
  using Shared = SelectShared<kRows, kStages>;
  const lacuna_gate_select_params& p = args.p;
  Shared& smem = shared<Shared>();
  float* const tile = reinterpret_cast<float*>(&smem + 1);
  float* const scores = args.members == 1 ? tile : tile + static_cast<int64_t>(kRows) * args.kv_blocks;
  const int thread = thread_index();
  const int group = block_index() % args.groups;
  const int plan_head = block_index() / args.groups % p.plan_heads;
  const int sequence = block_index() / args.groups / p.plan_heads;
  const int32_t length = sequence_length(p, sequence);
  const int first_list = group * args.lists_per_block;
  const int lists =
      args.lists_per_head - first_list < args.lists_per_block ? args.lists_per_head - first_list : args.lists_per_block;
  const int64_t first_index =
      (static_cast<int64_t>(sequence) * p.plan_heads + plan_head) * args.lists_per_head + first_list;
  if constexpr (kCut) {
    bool cut = false;
    for (int list = 0; list < lists; ++list) {
      const int64_t index = first_index + list;
      cut = cut || p.counts[index] > p.row_offsets[index + 1] - p.row_offsets[index];
    }
    if (!cut) return;
  }
  if (thread < lists) {
    smem.lists[thread] = gate_rows(p, length, (first_list + thread) * p.rows_per_list, p.rows_per_list);
  }
  sync_threads();
  if (args.members > 1) {
    int columns = 0;
    for (int list = 0; list < lists; ++list)
      columns = columns < smem.lists[list].visible ? smem.lists[list].visible : columns;
    for (int list = 0; list < lists; ++list) {
      for (int column = thread; column < columns; column += kScoreThreads) {
        scores[list * args.kv_blocks + column] = not_a_number();
      }
    }
  }

  // Members head by head. A thread block has several lists or several rows a list, not both.
  const int heads = p.q_heads / p.plan_heads;
  const int heads_per_key = p.q_heads / p.k_heads;
  const int rows = args.lists_per_block * p.rows_per_list;
  const int first_row = first_list * p.rows_per_list;
  for (int done = 0; done < heads * rows;) {
    const int key_head = (plan_head * heads + done / rows) / heads_per_key;
    // A tile has the keys of one head.
    const int heads_end = (key_head + 1) * heads_per_key - plan_head * heads;
    int end = (heads_end < heads ? heads_end : heads) * rows;
    end = end < done + kRows ? end : done + kRows;
    if (thread < kRows) {
      const int member = done + thread;
      const int row = first_row + member % rows;
      smem.rows[thread] = member < end && row < p.rows ? tile_row(args, length, plan_head * heads + member / rows, row,
                                                                  args.lists_per_block == 1 ? 0 : member % rows)
                                                       : TileRow{0, -1, 0, 0, -1, -1};
    }
    sync_threads();
    int columns = 0;
    for (int r = 0; r < kRows; ++r) columns = columns < smem.rows[r].visible ? smem.rows[r].visible : columns;
    score_rows<kRows, kStages, kCut>(args, smem, tile, sequence, key_head, columns);
    sync_threads();
    if (args.members > 1) {
      fold_rows(args, smem, tile, scores, columns);
      sync_threads();
    }
    done = end;
  }
  const int32_t kv_blocks = (length + p.block - 1) / p.block;
  for (int list = thread / kWarpThreads; list < lists; list += kScoreThreads / kWarpThreads) {
    select_list<kCut>(args, smem.lists[list], scores + static_cast<int64_t>(list) * args.kv_blocks, first_index + list,
                      kv_blocks);
  }
}

}  // namespace LACUNA_NS
