// A ring of TMA loads and stores through the same shared memory, on every multiprocessor: what the forward kernel's Q
// buffers go through (loaded, read, overwritten by ordinary stores, stored by TMA, loaded again).
#include "checks/checks.h"
#include "checks/tensor.h"
#include "ptx/bulk.h"
#include "ptx/tma.h"
#include "sm90/forward/ring.h"

namespace facts {

namespace {

constexpr int kWriters = 4;  // warps, 16 rows each
constexpr int kThreads = (kWriters + 1) * 32;
constexpr int kStages = 2;
constexpr int kRows = 64;
constexpr int kTiles = 48;  // of a block
constexpr int kBlocks = 132;

struct PipelineParams {
  TensorMap source;  // [1][blocks][kTiles * 64 rows][64], boxes of 64 rows
  TensorMap target;  // the same, boxes of 16 rows
};

struct PipelineShared {
  alignas(1024) uint16_t tile[kStages][kRows * kBoxColumns];
  Mbarrier full[kStages];
  Mbarrier empty[kStages];
};

__global__ void __launch_bounds__(kThreads) pipeline_kernel(const __grid_constant__ PipelineParams p) {
  auto& smem = shared<PipelineShared>();
  const int warp = thread_index() / 32;
  const int lane = thread_index() % 32;
  if (thread_index() == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(smem.full[stage], 1);
      mbarrier_init(smem.empty[stage], kWriters);
    }
    fence_mbarrier_init();
  }
  sync_threads();
  sm90::Ring<kStages> ring;
  if (warp == kWriters) {
    if (lane != 0) return;
    for (int tile = 0; tile < kTiles; ++tile) {
      mbarrier_wait(smem.empty[ring.stage], ring.parity ^ 1);
      mbarrier_arrive_expect(smem.full[ring.stage], kRows * kBoxColumns * 2);
      tma_load_4d(shared_address(smem.tile[ring.stage]), p.source, smem.full[ring.stage], 0, tile * kRows,
                  block_index(), 0, kEvictFirst);
      ring.advance();
    }
    return;
  }
  for (int tile = 0; tile < kTiles; ++tile) {
    mbarrier_wait(smem.full[ring.stage], ring.parity);
    uint16_t* const mine = smem.tile[ring.stage] + warp * 16 * kBoxColumns;
    for (int i = lane; i < 16 * kBoxColumns; i += 32) {
      store_shared(mine + i, static_cast<uint16_t>(mine[i] * 3 + tile));
    }
    fence_async_shared();
    sync_warp();
    if (lane == 0) {
      tma_store_4d(p.target, shared_address(mine), 0, tile * kRows + warp * 16, block_index(), 0);
      bulk_commit();
      bulk_wait_read<0>();
      mbarrier_arrive(smem.empty[ring.stage]);
    }
    ring.advance();
  }
}

void check_pipeline(Finding& finding) {
  const Tensor tensor = {1, kBlocks, kTiles * kRows, kBoxColumns, false};
  std::vector<uint16_t> contents(tensor.count());
  for (size_t i = 0; i < contents.size(); ++i) contents[i] = static_cast<uint16_t>(mixed(static_cast<uint32_t>(i)));
  const Buffer<uint16_t> source(contents);
  const Buffer<uint16_t> target(tensor.count());
  PipelineParams params = {};
  params.source = tensor.map(source.data(), tensor.len, kRows, true);
  params.target = tensor.map(target.data(), tensor.len, 16, true);
  run<pipeline_kernel>("pipeline", kBlocks, kThreads, sizeof(PipelineShared), params);
  const std::vector<uint16_t> got = target.values();
  for (size_t i = 0; i < got.size(); ++i) {
    const size_t tile = i / (kRows * kBoxColumns) % kTiles;
    const uint16_t expected = static_cast<uint16_t>(contents[i] * 3 + tile);
    if (got[i] == expected) continue;
    finding.differs("block %zu, tile %zu, element %zu is 0x%04x, expected 0x%04x", i / (kTiles * kRows * kBoxColumns),
                    tile, i % (kRows * kBoxColumns), got[i], expected);
    return;
  }
}

constexpr Fact kFacts[] = {
    {"tma_ring", "buffers that TMA fills, threads change and TMA stores again, released by bulk waits and mbarriers",
     check_pipeline},
};

}  // namespace

List<Fact> pipeline_facts() { return list_of(kFacts); }

}  // namespace facts
