// The lists of a plan by KV tile, on the device: a stable counting sort.
//
// A warp takes a run of the rows of a plan head and counts, then places, their blocks: its counters belong to it alone,
// and its rows come one after the other, so that the query blocks of a tile ascend. Blocks of one row that share a tile
// become one entry. Blocks that none of the row's queries can see are dropped, as in the schedule of the forward pass.
#include "common/backward_steps.h"
#include "common/validate.h"
#include "ptx/shuffle.h"
#include "select/row_list.h"
#include "select/scan.h"

namespace LACUNA_NS {

namespace {

constexpr int kSortWarps = 4;
constexpr int kTotalThreads = 128;
constexpr int32_t kMost = 0x7fffffff;

struct TransposeArgs {
  lacuna_shape shape;
  lacuna_mask mask;
  lacuna_block_plan plan;
  BackwardSchedule schedule;
};

__device__ __forceinline__ void add_one(int32_t& count) { count += count < kMost ? 1 : 0; }

// Whether the block at `at` begins an entry; those behind it that it takes along are of the same tile, and ascend.
__device__ __forceinline__ bool joins_entry(const TransposeArgs& args, const RowList& list, int32_t at,
                                            int blocks_per_unit) {
  if (at <= list.at) return false;
  const int32_t block = args.plan.indices[at];
  const int32_t last = args.plan.indices[at - 1];
  return last < block && last / blocks_per_unit == block / blocks_per_unit &&
         keeps_block(args.shape, args.plan, list, last);
}

__device__ __forceinline__ uint32_t entry_mask(const TransposeArgs& args, const RowList& list, int32_t at,
                                               int blocks_per_unit) {
  uint32_t mask = 1u << args.plan.indices[at] % blocks_per_unit;
  for (++at; at < list.end && keeps_block(args.shape, args.plan, list, args.plan.indices[at]) &&
             joins_entry(args, list, at, blocks_per_unit);
       ++at) {
    mask |= 1u << args.plan.indices[at] % blocks_per_unit;
  }
  return mask;
}

// Counts entries; with kFill, the counters start as the places where this warp's entries go.
template <bool kFill>
__global__ void __launch_bounds__(kSortWarps * 32) transpose_sort_kernel(const __grid_constant__ TransposeArgs args) {
  const lacuna_block_plan& plan = args.plan;
  const BackwardSchedule& schedule = args.schedule;
  const int64_t index = static_cast<int64_t>(block_index()) * kSortWarps + thread_index() / kWarpThreads;
  const int64_t heads = static_cast<int64_t>(plan.plan_batch) * plan.heads;
  const int64_t head = index / schedule.chunks;
  if (head >= heads) return;
  const int lane = thread_index() % kWarpThreads;
  const int q_blocks = plan_query_blocks(plan, args.shape.q_len);
  const int blocks_per_unit = schedule.unit / plan.block_k;
  int32_t* const counts = schedule.counts + index * schedule.units;
  if constexpr (!kFill) {
    for (int unit = lane; unit < schedule.units; unit += kWarpThreads) counts[unit] = 0;
    sync_warp();
  }
  const int64_t first = index % schedule.chunks * schedule.chunk_rows;
  for (int64_t q_block = first; q_block < first + schedule.chunk_rows && q_block < q_blocks; ++q_block) {
    const RowList list = row_list(args.shape, args.mask, plan, head * q_blocks + q_block, static_cast<int>(q_block));
    for (int64_t base = list.at; base < list.end; base += kWarpThreads) {
      const bool inside = base + lane < list.end;
      const int32_t at = static_cast<int32_t>(inside ? base + lane : base);
      const int32_t block = plan.indices[at];
      const bool entry =
          inside && keeps_block(args.shape, plan, list, block) && !joins_entry(args, list, at, blocks_per_unit);
      // Entries of an ascending list belong to different tiles. Where a list does not ascend, lanes take turns.
      const bool ascends = !inside || lane == 0 || plan.indices[at - 1] < block;
      const uint32_t entries = ballot(entry);
      const uint32_t turns = ballot(!ascends) == 0 ? 0 : entries;
      const int unit = block / blocks_per_unit;
      const auto add = [&]() {
        int32_t& count = counts[unit];
        if constexpr (kFill) {
          const int64_t row = head * schedule.units + unit;
          const int64_t place = static_cast<int64_t>(schedule.offsets[row]) + count;
          if (place < schedule.offsets[row + 1]) {
            schedule.entries[place] = static_cast<uint32_t>(q_block) << 8 | entry_mask(args, list, at, blocks_per_unit);
          }
        }
        add_one(count);
      };
      if (turns == 0) {
        if (entry) add();
        sync_warp();
        continue;
      }
      for (uint32_t waiting = turns; waiting != 0; waiting &= waiting - 1) {
        if (lane == lowest_bit(waiting)) add();
        sync_warp();
      }
    }
  }
}

// Turns the counts of the warps of a tile into where each begins within the tile's entries.
__global__ void __launch_bounds__(kTotalThreads) transpose_totals_kernel(const __grid_constant__ TransposeArgs args) {
  const BackwardSchedule& schedule = args.schedule;
  const int64_t row = static_cast<int64_t>(block_index()) * kTotalThreads + thread_index();
  if (row >= schedule.rows) return;
  int32_t* count = schedule.counts + row / schedule.units * schedule.chunks * schedule.units + row % schedule.units;
  int32_t total = 0;
  for (int chunk = 0; chunk < schedule.chunks; ++chunk, count += schedule.units) {
    const int32_t own = *count;
    *count = total;
    total = own < kMost - total ? total + own : kMost;
  }
  schedule.totals[row] = total;
}

}  // namespace

int32_t transpose_lists(const lacuna_forward_params& params, const BackwardSchedule& schedule, void* stream) {
  const TransposeArgs args{params.shape, params.mask, params.plan, schedule};
  const int64_t warps = static_cast<int64_t>(params.plan.plan_batch) * params.plan.heads * schedule.chunks;
  const int64_t blocks = (warps + kSortWarps - 1) / kSortWarps;
  const ScanArgs scan{schedule.totals, schedule.rows, schedule.capacity, schedule.offsets, schedule.overflow, nullptr};
  LACUNA_CHECK(launch<transpose_sort_kernel<false>>("transpose_count", blocks, kSortWarps * 32, 0, stream, args));
  LACUNA_CHECK(launch<transpose_totals_kernel>(
      "transpose_totals", (static_cast<int64_t>(schedule.rows) + kTotalThreads - 1) / kTotalThreads, kTotalThreads, 0,
      stream, args));
  LACUNA_CHECK(launch<scan_kernel<ScanArgs>>("transpose_scan", 1, kScanThreads, sizeof(ScanShared), stream, scan));
  return launch<transpose_sort_kernel<true>>("transpose_fill", blocks, kSortWarps * 32, 0, stream, args);
}

}  // namespace LACUNA_NS
