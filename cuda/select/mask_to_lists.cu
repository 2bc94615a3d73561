// CSR lists from a dense u8 mask: count, scan, fill, a warp a row.
#include "common/validate.h"
#include "families.h"
#include "ptx/shuffle.h"
#include "select/scan.h"

namespace LACUNA_NS {

namespace {

constexpr int kRowWarps = 4;

template <bool kFill>
__global__ void __launch_bounds__(kRowWarps * 32)
    mask_rows_kernel(const __grid_constant__ lacuna_mask_to_lists_params p) {
  const int64_t row = static_cast<int64_t>(block_index()) * kRowWarps + thread_index() / kWarpThreads;
  if (row >= p.rows) return;
  const int lane = thread_index() % kWarpThreads;
  const uint8_t* mask = p.mask + row * p.kv_blocks;
  int32_t at = 0;
  int32_t end = 0;
  if constexpr (kFill) {
    at = p.row_offsets[row];
    end = p.row_offsets[row + 1];
  }
  int32_t count = 0;
  for (int base = 0; base < p.kv_blocks; base += kWarpThreads) {
    const int block = base + lane;
    const bool attend = block < p.kv_blocks && mask[block] != 0;
    const uint32_t attended = ballot(attend);
    if constexpr (kFill) {
      const int32_t place = at + count + popcount(attended & ((1u << lane) - 1));
      if (attend && place < end) p.indices[place] = block;
    }
    count += popcount(attended);
  }
  if constexpr (!kFill) {
    if (lane == 0) p.counts[row] = count;
  }
}

}  // namespace

int32_t mask_to_lists(const lacuna_mask_to_lists_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "mask_to_lists: null argument");
  const lacuna_mask_to_lists_params& p = *params;
  LACUNA_REQUIRE(p.rows >= 1 && p.kv_blocks >= 0 && p.capacity >= 0, "rows %d, kv_blocks %d, capacity %d", p.rows,
                 p.kv_blocks, p.capacity);
  LACUNA_REQUIRE((p.mask != nullptr || p.kv_blocks == 0) && p.row_offsets != nullptr && p.counts != nullptr &&
                     p.overflow != nullptr && (p.indices != nullptr || p.capacity == 0),
                 "mask, row_offsets, indices, counts or overflow is null");
  const int64_t blocks = (static_cast<int64_t>(p.rows) + kRowWarps - 1) / kRowWarps;
  const ScanArgs scan{p.counts, p.rows, p.capacity, p.row_offsets, p.overflow, nullptr};
  LACUNA_CHECK(launch<mask_rows_kernel<false>>("mask_to_lists_count", blocks, kRowWarps * 32, 0, stream, p));
  LACUNA_CHECK(launch<scan_kernel<ScanArgs>>("mask_to_lists_scan", 1, kScanThreads, sizeof(ScanShared), stream, scan));
  return launch<mask_rows_kernel<true>>("mask_to_lists_fill", blocks, kRowWarps * 32, 0, stream, p);
}

}  // namespace LACUNA_NS
