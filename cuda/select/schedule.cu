// A schedule from CSR lists, on the device: count, scan, fill. A schedule row merges the lists of the query blocks
// that share a kernel tile into one list of (block, who wants it); blocks that none of a query block's rows can see are
// dropped here, so that kernels visit no dead block (with lengths on the device they are cut by the kernels instead:
// sequences that share a list see different keys).
//
// Merge: lane g of a warp walks list g; each step emits the smallest head and advances the lists that have it. A block
// that a list names twice is therefore emitted twice, and an unsorted list loses nothing but sharing.
#include "common/query_tile.h"
#include "common/validate.h"
#include "families.h"
#include "ptx/shuffle.h"
#include "select/scan.h"

namespace LACUNA_NS {

namespace {

constexpr int kRowWarps = 4;
constexpr int32_t kListEnd = 0x7fffffff;

// A plan row's list and what its query rows can see.
struct RowList {
  int32_t at;
  int32_t end;
  KeyRange visible;
};

__device__ __forceinline__ int32_t clamp_offset(int32_t offset, int32_t capacity) {
  return offset < 0 ? 0 : offset > capacity ? capacity : offset;
}

__device__ __forceinline__ RowList row_list(const lacuna_schedule_params& p, int schedule_row, int group) {
  const lacuna_block_plan& plan = p.plan;
  const int q_blocks = plan_query_blocks(plan, p.shape.q_len);
  const int rows_per_head = p.schedule.rows / (plan.plan_batch * plan.heads);
  const int groups = p.schedule.tile_q / plan.block_q;
  const int head = schedule_row / rows_per_head;  // (sequence, plan head)
  const int q_block = schedule_row % rows_per_head * groups + group;
  if (group >= groups || q_block >= q_blocks) return RowList{0, 0, {0, 0}};
  const int64_t row = static_cast<int64_t>(head) * q_blocks + q_block;
  RowList list;
  list.at = clamp_offset(plan.row_offsets[row], plan.capacity);
  list.end = clamp_offset(plan.row_offsets[row + 1], plan.capacity);
  list.visible = KeyRange{0, p.shape.kv_len};
  if (p.ragged == 0) {
    list.visible = visible_to_rows(p.shape, p.mask, q_block * plan.block_q - plan.row_shift, plan.block_q);
  }
  return list;
}

__device__ __forceinline__ bool keeps(const lacuna_schedule_params& p, const RowList& list, int32_t block) {
  const int32_t blocks = (p.shape.kv_len + p.plan.block_k - 1) / p.plan.block_k;
  return block >= 0 && block < blocks && overlaps(list.visible, block * p.plan.block_k, p.plan.block_k);
}

// Writes entries to `to` as far as `room` goes; returns how many there are.
template <bool kFill>
__device__ __forceinline__ int32_t one_list(const lacuna_schedule_params& p, const RowList& list, uint32_t* to,
                                            int32_t room) {
  const int lane = thread_index() % kWarpThreads;
  int32_t count = 0;
  for (int32_t base = list.at; base < list.end; base += kWarpThreads) {
    const int32_t at = base + lane;
    const int32_t block = at < list.end ? p.plan.indices[at] : -1;
    const bool keep = keeps(p, list, block);
    const uint32_t kept = ballot(keep);
    if constexpr (kFill) {
      const int32_t place = count + popcount(kept & ((1u << lane) - 1));
      if (keep && place < room) to[place] = static_cast<uint32_t>(block) << 8 | 1u;
    }
    count += popcount(kept);
  }
  return count;
}

template <bool kFill>
__device__ __forceinline__ int32_t merged_lists(const lacuna_schedule_params& p, RowList list, uint32_t* to,
                                                int32_t room) {
  int32_t count = 0;
  for (;;) {
    int32_t head = kListEnd;
    while (list.at < list.end) {
      const int32_t block = p.plan.indices[list.at];
      if (keeps(p, list, block)) {
        head = block;
        break;
      }
      ++list.at;
    }
    const int32_t block = warp_min(head);
    if (block == kListEnd) return count;
    const uint32_t groups = ballot(head == block);
    if constexpr (kFill) {
      if (thread_index() % kWarpThreads == 0 && count < room) to[count] = static_cast<uint32_t>(block) << 8 | groups;
    }
    if (head == block) ++list.at;
    ++count;
  }
}

template <bool kFill>
__global__ void __launch_bounds__(kRowWarps * 32)
    schedule_rows_kernel(const __grid_constant__ lacuna_schedule_params p) {
  const int row = block_index() * kRowWarps + thread_index() / kWarpThreads;
  if (row >= p.schedule.rows) return;
  const bool single = p.schedule.tile_q == p.plan.block_q;
  const RowList list = row_list(p, row, single ? 0 : thread_index() % kWarpThreads);
  uint32_t* to = nullptr;
  int32_t room = 0;
  if constexpr (kFill) {
    to = p.schedule.entries + p.schedule.offsets[row];
    room = p.schedule.offsets[row + 1] - p.schedule.offsets[row];
  }
  const int32_t count = single ? one_list<kFill>(p, list, to, room) : merged_lists<kFill>(p, list, to, room);
  if constexpr (!kFill) {
    if (thread_index() % kWarpThreads == 0) p.schedule.counts[row] = count;
  }
}

}  // namespace

int32_t schedule_build(const lacuna_schedule_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "schedule_build: null argument");
  const lacuna_schedule_params& p = *params;
  LACUNA_CHECK(check_shape(p.shape));
  LACUNA_CHECK(check_mask(p.mask, p.shape));
  LACUNA_CHECK(check_plan(p.plan, p.shape));
  LACUNA_REQUIRE(p.ragged == 0 || p.ragged == 1, "ragged must be 0 or 1, got %d", p.ragged);
  LACUNA_REQUIRE(p.plan.kind == LACUNA_PLAN_LISTS, "schedules are for list plans; formulas need none");
  LACUNA_CHECK(check_schedule(p.schedule, p.plan, p.shape, 1));
  LACUNA_REQUIRE(p.schedule.counts != nullptr && p.schedule.overflow != nullptr,
                 "the schedule lacks counts or overflow");
  const int64_t blocks = (static_cast<int64_t>(p.schedule.rows) + kRowWarps - 1) / kRowWarps;
  const ScanArgs scan{p.schedule.counts,  p.schedule.rows,     p.schedule.capacity,
                      p.schedule.offsets, p.schedule.overflow, p.schedule.order};
  LACUNA_CHECK(launch<schedule_rows_kernel<false>>("schedule_count", blocks, kRowWarps * 32, 0, stream, p));
  LACUNA_CHECK(launch<scan_kernel<ScanArgs>>("schedule_scan", 1, kScanThreads, sizeof(ScanShared), stream, scan));
  return launch<schedule_rows_kernel<true>>("schedule_fill", blocks, kRowWarps * 32, 0, stream, p);
}

}  // namespace LACUNA_NS
