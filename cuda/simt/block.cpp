// Blocks with their fibers, stacks and shared memory, made once and reused.
#include <stdlib.h>
#include <string.h>

#include "simt/error.h"
#include "simt/launch.h"
#include "simt/memory.h"
#include "simt/module.h"

namespace lacuna_simt {

void* entry_frame(void* stack_top);

namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kArenaBytes = 256 * 1024;  // more than any architecture gives a block

// Stacks at equal offsets share cache sets; shifting the tops by a few lines spreads them.
size_t colour(int thread) { return static_cast<size_t>((5 * thread) % 64) * 64; }

void add_fiber(Block& block) {
  const int thread = static_cast<int>(block.fibers.size());
  unsigned char* stack = static_cast<unsigned char*>(map_guarded(kStackBytes));
  if (stack == nullptr) abort_out_of_memory("a thread's stack");
  Fiber* fiber = new Fiber{};
  fiber->stack_low = stack;
  fiber->stack_top = stack + kStackBytes - colour(thread);
  fiber->block = &block;
  fiber->warp = &block.warp[thread / 32];
  fiber->thread = thread;
  fiber->lane = thread % 32;
  block.fibers.push_back(fiber);
}

}  // namespace

Block* make_block(Worker& worker) {
  Block* block = new Block{};
  block->worker = &worker;
  unsigned char* arena = static_cast<unsigned char*>(map_guarded(kArenaBytes));
  if (arena == nullptr) abort_out_of_memory("shared memory");
  block->arena_end = arena + kArenaBytes;
  for (int w = 0; w < 32; ++w) {
    block->warp[w].block = block;
    block->warp[w].index = w;
  }
  for (const Module* module : kModules) {
    if (module->make != nullptr) module->make(*block);
  }
  return block;
}

void prepare_block(Block& block, int64_t index, int64_t grid, int threads, uint32_t arena_bytes) {
  Worker& worker = *block.worker;
  while (static_cast<int>(block.fibers.size()) < threads) add_fiber(block);
  block.index = index;
  block.grid = grid;
  block.threads = threads;
  block.live = threads;
  block.warps = (threads + 31) / 32;
  block.ready_warps = 0;
  block.barrier_arrived = 0;
  block.arena_bytes = arena_bytes;
  const size_t rounded = (arena_bytes + 1023) / 1024 * 1024;
  block.arena = block.arena_end - rounded;
  // NaN in every float type, -1 as an index.
  if (worker.config.checks != 0) memset(block.arena - kArenaMargin, 0xFF, rounded + kArenaMargin);
  for (int w = 0; w < block.warps; ++w) {
    Warp& warp = block.warp[w];
    const int lanes = threads - 32 * w;
    warp.lanes = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    warp.ready = 0;
    warp.exited = 0;
    warp.meetings = 0;
    for (CollectiveSlot& slot : warp.slots) slot.arrived = 0;
    make_lanes_ready(warp, warp.lanes);
  }
  // With one resident block all choices inside it depend on the seed and its index alone.
  if (worker.config.resident == 1) {
    worker.random = seeded(worker.config.seed, static_cast<uint64_t>(index));
    worker.steps_to_redraw = 0;
    worker.current = nullptr;
  }
  for (int thread = 0; thread < threads; ++thread) {
    Fiber& fiber = *block.fibers[static_cast<size_t>(thread)];
    fiber.stack_pointer = entry_frame(fiber.stack_top);
    fiber.waits_for = nullptr;
    fiber.wait_line = 0;
    fiber.committed = 0;
    fiber.copies.clear();
    fiber.copies_done = 0;
    fiber.priority = 0;
  }
  for (const Module* module : kModules) {
    if (module->start != nullptr) module->start(block);
  }
}

}  // namespace lacuna_simt
