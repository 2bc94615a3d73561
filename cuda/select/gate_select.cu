// Block lists from gate vectors: score and select, lengths to offsets within the capacity, select again what had to be
// cut, fill.
#include "select/gate_cut.h"

#include <cmath>

#include "families.h"
#include "ptx/launch.h"
#include "select/gate_select_kernel.h"

namespace LACUNA_NS {

namespace {

// What every GPU from compute capability 8.0 on gives a thread block.
constexpr int64_t kMostShared = 99 * 1024;
constexpr int kFillWarps = 4;

// Bits to indices, a warp a list.
__global__ void __launch_bounds__(kFillWarps* kWarpThreads) gate_fill_kernel(const __grid_constant__ SelectArgs args) {
  const int64_t list = static_cast<int64_t>(block_index()) * kFillWarps + thread_index() / kWarpThreads;
  const int lane = thread_index() % kWarpThreads;
  if (list >= static_cast<int64_t>(args.p.batch) * args.p.plan_heads * args.lists_per_head) return;
  int32_t at = args.p.row_offsets[list];
  const int32_t end = args.p.row_offsets[list + 1];
#pragma unroll 4
  for (int32_t word = 0; word < args.words; ++word) {
    const uint32_t bits = args.p.selected[list * args.words + word];
    const int32_t place = at + popcount(bits & ((1u << lane) - 1));
    if ((bits >> lane & 1u) != 0 && place < end) args.p.indices[place] = word * 32 + lane;
    at += popcount(bits);
  }
}

template <int kRows, int kStages>
int64_t shared_bytes(const SelectArgs& args, int64_t lists_per_block) {
  const int64_t rows = kRows + (args.members == 1 ? 0 : lists_per_block);
  return static_cast<int64_t>(sizeof(SelectShared<kRows, kStages>)) + rows * args.kv_blocks * 4;
}

template <int kRows, int kStages>
int32_t launch_select(SelectArgs& args, void* stream) {
  const lacuna_gate_select_params& p = args.p;
  args.lists_per_block = args.lists_per_head == 1 ? 1 : kRows;
  args.groups = (args.lists_per_head + args.lists_per_block - 1) / args.lists_per_block;
  const int64_t heads = grid_product(p.batch, p.plan_heads);
  const int64_t blocks = grid_product(heads, args.groups);
  const int32_t lists = static_cast<int32_t>(heads * args.lists_per_head);
  const size_t smem_bytes = static_cast<size_t>(shared_bytes<kRows, kStages>(args, args.lists_per_block));
  const CutArgs cut{p.counts, lists, p.capacity, p.row_offsets, p.overflow};
  constexpr auto kSelect = gate_select_kernel<kRows, kStages, false>;
  constexpr auto kReselect = gate_select_kernel<kRows, kStages, true>;
  LACUNA_CHECK(launch<kSelect>("gate_select", blocks, kScoreThreads, smem_bytes, stream, args));
  LACUNA_CHECK(launch<gate_cut_kernel<CutArgs>>("gate_cut", 1, kScanThreads, sizeof(ScanShared), stream, cut));
  if (p.capacity < static_cast<int64_t>(lists) * args.kv_blocks) {
    LACUNA_CHECK(launch<kReselect>("gate_reselect", blocks, kScoreThreads, smem_bytes, stream, args));
  }
  const int64_t fills = (static_cast<int64_t>(lists) + kFillWarps - 1) / kFillWarps;
  return launch<gate_fill_kernel>("gate_fill", fills, kFillWarps * kWarpThreads, 0, stream, args);
}

// The most rows a tile that shared memory holds and the call fills: rows share a load of the keys. One row alone waits
// for memory, so it has more stages in flight.
int32_t launch_widest(SelectArgs& args, void* stream) {
  const lacuna_gate_select_params& p = args.p;
  const int64_t heads = p.q_heads / p.plan_heads;
  const int64_t heads_of_key = p.q_heads / p.k_heads < heads ? p.q_heads / p.k_heads : heads;
  const bool one_list = args.lists_per_head == 1;
  const int64_t rows = one_list ? heads_of_key * p.rows : p.rows;
  const auto fits = [&](int64_t bytes) { return bytes <= kMostShared; };
  if (rows > 4 && fits(shared_bytes<8, 2>(args, one_list ? 1 : 8))) return launch_select<8, 2>(args, stream);
  if (rows > 2 && fits(shared_bytes<4, 2>(args, one_list ? 1 : 4))) return launch_select<4, 2>(args, stream);
  if (rows > 1 && fits(shared_bytes<2, 2>(args, one_list ? 1 : 2))) return launch_select<2, 2>(args, stream);
  if (fits(shared_bytes<1, 6>(args, 1))) return launch_select<1, 6>(args, stream);
  if (fits(shared_bytes<1, 2>(args, 1))) return launch_select<1, 2>(args, stream);
  const int64_t most =
      (kMostShared - static_cast<int64_t>(sizeof(SelectShared<1, 2>))) / 4 / (args.members == 1 ? 1 : 2);
  return set_error(LACUNA_UNSUPPORTED, "a row of gate scores lies in shared memory: at most %lld KV blocks, got %d",
                   static_cast<long long>(most), args.kv_blocks);
}

int32_t check_rule(const lacuna_gate_select_params& p) {
  // Written so that NaN is refused.
  switch (p.rule) {
    case LACUNA_GATE_COUNT:
      LACUNA_REQUIRE(p.count >= 1, "count must be >= 1, got %d", p.count);
      return LACUNA_OK;
    case LACUNA_GATE_FRACTION:
      LACUNA_REQUIRE(p.value >= 0.0 && p.value <= 1.0, "a fraction must be in 0..=1, got %g", p.value);
      return LACUNA_OK;
    case LACUNA_GATE_TOP_P:
      LACUNA_REQUIRE(p.value >= 0.0, "a mass must be >= 0, got %g", p.value);
      return LACUNA_OK;
    case LACUNA_GATE_THRESHOLD:
      LACUNA_REQUIRE(p.value == p.value, "a threshold must be a number, got %g", p.value);
      return LACUNA_OK;
    default:
      return set_error(LACUNA_INVALID_ARGUMENT,
                       "rule must be threshold (0), count (1), fraction (2) or top-p (3), got %d", p.rule);
  }
}

int32_t check_select(const lacuna_gate_select_params& p) {
  LACUNA_REQUIRE(p.batch >= 1 && p.batch <= kMaxPosition, "batch must be in 1..2^30, got %d", p.batch);
  LACUNA_REQUIRE(p.q_heads >= 1 && p.q_heads <= kMaxPosition, "q_heads must be in 1..2^30, got %d", p.q_heads);
  LACUNA_REQUIRE(p.k_heads >= 1 && p.q_heads % p.k_heads == 0, "k_heads must divide q_heads (%d), got %d", p.q_heads,
                 p.k_heads);
  LACUNA_REQUIRE(p.plan_heads >= 1 && p.q_heads % p.plan_heads == 0, "plan_heads must divide q_heads (%d), got %d",
                 p.q_heads, p.plan_heads);
  LACUNA_CHECK(check_gate_dim(p.gate_dim));
  LACUNA_REQUIRE(p.rows >= 1 && p.rows <= kMaxPosition, "rows must be in 1..2^30, got %d", p.rows);
  LACUNA_REQUIRE(p.rows_per_list == 1 || p.rows_per_list == p.rows, "rows_per_list must be 1 or rows (%d), got %d",
                 p.rows, p.rows_per_list);
  LACUNA_REQUIRE(is_block_size(p.block), "block must be 16, 32, 64 or 128 tokens, got %d", p.block);
  LACUNA_REQUIRE(p.row_tokens == 1 || p.row_tokens == p.block, "row_tokens must be 1 or block (%d), got %d", p.block,
                 p.row_tokens);
  LACUNA_REQUIRE(p.kv_len >= 0 && p.kv_len <= kMaxPosition, "kv_len must be in 0..2^30, got %d", p.kv_len);
  LACUNA_REQUIRE(p.q_len >= 1 && p.q_len <= kMaxPosition, "q_len must be in 1..2^30, got %d", p.q_len);
  LACUNA_REQUIRE(p.causal == 0 || p.causal == 1, "causal must be 0 or 1, got %d", p.causal);
  LACUNA_REQUIRE(p.current >= LACUNA_GATE_CURRENT_SCORED && p.current <= LACUNA_GATE_CURRENT_NEUTRAL,
                 "current must be scored (0), apart (1) or neutral (2), got %d", p.current);
  LACUNA_REQUIRE(p.force_diagonal == 0 || p.force_diagonal == 1, "force_diagonal must be 0 or 1, got %d",
                 p.force_diagonal);
  LACUNA_REQUIRE(p.last_rows_dense >= 0 && p.sink_blocks >= 0,
                 "last_rows_dense and sink_blocks must be >= 0, got %d and %d", p.last_rows_dense, p.sink_blocks);
  const int32_t kv_blocks = (p.kv_len + p.block - 1) / p.block;
  LACUNA_REQUIRE(p.k_rows >= kv_blocks, "k_rows must be at least the KV blocks (%d), got %d", kv_blocks, p.k_rows);
  LACUNA_REQUIRE(p.capacity >= 0, "capacity must be >= 0, got %d", p.capacity);
  LACUNA_REQUIRE(p.row_offsets != nullptr && p.counts != nullptr && p.overflow != nullptr &&
                     (p.indices != nullptr || p.capacity == 0),
                 "row_offsets, counts, overflow or indices is null");
  LACUNA_REQUIRE(p.q_gate != nullptr && ((p.k_gate != nullptr && p.selected != nullptr) || kv_blocks == 0),
                 "q_gate, k_gate or selected is null");
  return check_rule(p);
}

}  // namespace

int32_t gate_select(const lacuna_gate_select_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "gate_select: null argument");
  const lacuna_gate_select_params& p = *params;
  LACUNA_CHECK(check_select(p));
  SelectArgs args = {};
  args.p = p;
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.gate_dim)));
  args.log_value = p.rule == LACUNA_GATE_THRESHOLD && p.value >= 0.0 ? static_cast<float>(std::log(p.value)) : 0.0f;
  args.kv_blocks = (p.kv_len + p.block - 1) / p.block;
  args.words = (args.kv_blocks + 31) / 32;
  args.lists_per_head = p.rows / p.rows_per_list;
  const int64_t members = static_cast<int64_t>(p.q_heads / p.plan_heads) * p.rows_per_list;
  const int64_t lists = grid_product(grid_product(p.batch, p.plan_heads), args.lists_per_head);
  LACUNA_REQUIRE(members <= (1 << 24) && lists <= kMaxPosition,
                 "at most 2^24 members of a list and 2^30 lists, got %lld and %lld", static_cast<long long>(members),
                 static_cast<long long>(lists));
  args.members = static_cast<int32_t>(members);
  args.aligned = allows_vectors(p.k_gate, p.gate_dim * static_cast<int64_t>(sizeof(float)));
  return launch_widest(args, stream);
}

}  // namespace LACUNA_NS
