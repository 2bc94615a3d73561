// Which fiber runs next. Blocked fibers leave the ready sets, so nothing polls: waking is one OR into a mask. When no
// fiber is ready, one asynchronous operation that somebody waits for completes; when there is none, it is a deadlock.
#include "simt/error.h"
#include "simt/launch.h"
#include "simt/memory.h"
#include "simt/module.h"
#include "simt/text.h"

namespace lacuna_simt {

thread_local Worker* current_worker __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

// A policy may prefer one thread, or its warp, for ever. When that thread polls, any other one gets a turn now and
// then, a copy that somebody waits for completes now and then, and at last it is a livelock.
constexpr int64_t kPollsToTurn = 16;
constexpr int64_t kPollsToCompletion = 1024;
constexpr int64_t kMostPolls = int64_t{1} << 24;

int lowest(uint32_t mask) { return __builtin_ctz(mask); }

int nth_set(uint32_t mask, uint32_t n) {
  for (; n > 0; --n) mask &= mask - 1;
  return lowest(mask);
}

int random_set(Random& random, uint32_t mask) {
  return nth_set(mask, random.below(static_cast<uint32_t>(__builtin_popcount(mask))));
}

Fiber* lane_of(Warp& warp, int lane) { return warp.block->fibers[static_cast<size_t>(warp.index * 32 + lane)]; }

// The set bit after `position`, cyclically.
int after(uint32_t mask, int position) {
  const uint32_t above = position == 31 ? 0 : mask & (~0u << (position + 1));
  return lowest(above != 0 ? above : mask);
}

Fiber* in_order(Worker& worker) {
  if (worker.current != nullptr) {
    Fiber& last = *worker.current;
    Block& block = *last.block;
    if (last.warp->ready != 0) return lane_of(*last.warp, after(last.warp->ready, last.lane));
    if (block.ready_warps != 0) {
      Warp& warp = block.warp[after(block.ready_warps, last.warp->index)];
      return lane_of(warp, lowest(warp.ready));
    }
  }
  const int blocks = worker.config.resident;
  for (int i = 0; i < blocks; ++i) {
    worker.next_block = (worker.next_block + 1) % blocks;
    Block& block = *worker.blocks[static_cast<size_t>(worker.next_block)];
    if (block.ready_warps == 0) continue;
    Warp& warp = block.warp[lowest(block.ready_warps)];
    return lane_of(warp, lowest(warp.ready));
  }
  return nullptr;
}

Fiber* at_random(Worker& worker) {
  const uint32_t blocks = static_cast<uint32_t>(worker.config.resident);
  const uint32_t first = blocks > 1 ? worker.random.below(blocks) : 0;
  for (uint32_t i = 0; i < blocks; ++i) {
    Block& block = *worker.blocks[(first + i) % blocks];
    if (block.ready_warps == 0) continue;
    Warp& warp = block.warp[random_set(worker.random, block.ready_warps)];
    return lane_of(warp, random_set(worker.random, warp.ready));
  }
  return nullptr;
}

// Some bugs need a lane starved for thousands of steps: the interval is log-uniform in 2^6 .. 2^16.
void draw_priorities(Worker& worker) {
  for (int b = 0; b < worker.config.resident; ++b) {
    // Only as many draws as there are threads: the block may have fibers left from a larger one.
    Block& block = *worker.blocks[static_cast<size_t>(b)];
    if (block.live == 0) continue;
    for (int thread = 0; thread < block.threads; ++thread) {
      block.fibers[static_cast<size_t>(thread)]->priority = static_cast<uint32_t>(worker.random.next());
    }
  }
  const uint32_t exponent = 6 + worker.random.below(11);
  worker.steps_to_redraw = static_cast<int64_t>(1) << exponent;
}

Fiber* by_priority(Worker& worker) {
  if (--worker.steps_to_redraw <= 0) draw_priorities(worker);
  Fiber* best = nullptr;
  for (int b = 0; b < worker.config.resident; ++b) {
    Block& block = *worker.blocks[static_cast<size_t>(b)];
    for (uint32_t warps = block.ready_warps; warps != 0; warps &= warps - 1) {
      Warp& warp = block.warp[lowest(warps)];
      for (uint32_t lanes = warp.ready; lanes != 0; lanes &= lanes - 1) {
        Fiber* fiber = lane_of(warp, lowest(lanes));
        if (best == nullptr || fiber->priority > best->priority) best = fiber;
      }
    }
  }
  return best;
}

Fiber* ready_fiber(Worker& worker) {
  switch (worker.config.policy) {
    case LACUNA_SIMT_ROUND_ROBIN:
      return in_order(worker);
    case LACUNA_SIMT_WARP_FIRST:
      if (worker.current != nullptr && worker.current->warp->ready != 0) {
        return lane_of(*worker.current->warp, random_set(worker.random, worker.current->warp->ready));
      }
      return at_random(worker);
    case LACUNA_SIMT_PRIORITY:
      return by_priority(worker);
    default:
      return at_random(worker);
  }
}

// Completes one operation that a blocked thread of the block waits for, a seeded one; if nobody waits for any, one of
// those in flight. False when there is none.
bool complete_in(Worker& worker, Block& block, bool only_wanted) {
  size_t wanted = 0;
  for (const Module* module : kModules) wanted += module->wanted != nullptr ? module->wanted(block) : 0;
  if (wanted > 0) {
    size_t index = worker.random.below(static_cast<uint32_t>(wanted));
    for (const Module* module : kModules) {
      const size_t here = module->wanted != nullptr ? module->wanted(block) : 0;
      if (index < here) {
        module->finish_wanted(block, static_cast<uint32_t>(index));
        return true;
      }
      index -= here;
    }
  }
  if (only_wanted) return false;
  size_t pending = 0;
  for (const Module* module : kModules) pending += module->pending != nullptr ? module->pending(block) : 0;
  if (pending == 0) return false;
  size_t index = worker.random.below(static_cast<uint32_t>(pending));
  for (const Module* module : kModules) {
    const size_t here = module->pending != nullptr ? module->pending(block) : 0;
    if (index < here) {
      module->finish_pending(block, worker.random);
      return true;
    }
    index -= here;
  }
  return false;
}

bool complete_one(Worker& worker) {
  const uint32_t blocks = static_cast<uint32_t>(worker.config.resident);
  const uint32_t first = blocks > 1 ? worker.random.below(blocks) : 0;
  for (const bool only_wanted : {true, false}) {
    for (uint32_t i = 0; i < blocks; ++i) {
      Block& block = *worker.blocks[(first + i) % blocks];
      if (block.live > 0 && complete_in(worker, block, only_wanted)) return true;
    }
  }
  return false;
}

// LACUNA_SIMT_MIXED: now and then some operation in flight completes although nobody needs it yet.
void complete_sometimes(Worker& worker) {
  if (worker.config.async_mode != LACUNA_SIMT_MIXED || worker.random.below(8) != 0) return;
  Block& block = *worker.blocks[worker.random.below(static_cast<uint32_t>(worker.config.resident))];
  if (block.live == 0) return;
  for (const Module* module : kModules) {
    const size_t pending = module->pending != nullptr ? module->pending(block) : 0;
    if (pending > 0 && worker.random.below(2) == 0) module->finish_pending(block, worker.random);
  }
}

// Null: nothing can run, or an operation failed as it completed.
Fiber* next_fiber(Worker& worker) {
  complete_sometimes(worker);
  for (;;) {
    if (worker.failed) return nullptr;
    if (Fiber* fiber = ready_fiber(worker)) return fiber;
    if (!complete_one(worker)) return nullptr;
  }
}

void report_waiters(Worker& worker, const char* what) {
  char buffer[kReportBytes];
  Text text{buffer, sizeof buffer};
  text.add("%s:", what);
  for (int b = 0; b < worker.config.resident; ++b) {
    Block& block = *worker.blocks[static_cast<size_t>(b)];
    if (block.live == 0) continue;
    text.add(" block %lld:", static_cast<long long>(block.index));
    for (int w = 0; w < block.warps; ++w) {
      Warp& warp = block.warp[w];
      uint32_t left = warp.lanes & ~warp.exited;
      while (left != 0) {
        const Fiber& first = *lane_of(warp, lowest(left));
        uint32_t same = 0;
        for (uint32_t lanes = left; lanes != 0; lanes &= lanes - 1) {
          const Fiber& other = *lane_of(warp, lowest(lanes));
          if (other.waits_for == first.waits_for && other.wait_line == first.wait_line) same |= 1u << other.lane;
        }
        if (first.waits_for == nullptr) {
          text.add(" warp %d lanes 0x%08x can run;", w, same);
        } else {
          text.add(" warp %d lanes 0x%08x wait in %s (line %d);", w, same, first.waits_for, first.wait_line);
        }
        left &= ~same;
      }
      if (warp.exited != 0) text.add(" warp %d lanes 0x%08x exited;", w, warp.exited);
    }
    for (const Module* module : kModules) {
      if (module->describe == nullptr) continue;
      char state[kReportBytes / 2];
      state[0] = 0;
      module->describe(block, state, sizeof state);
      if (state[0] != 0) text.add(" %s;", state);
    }
  }
  record_failure(worker, buffer);
}

// Leaves the kernel with a report of who waits for what.
[[noreturn]] void abandon(Worker& worker, const char* what) {
  report_waiters(worker, what);
  void* abandoned = nullptr;
  lacuna_simt_switch(&abandoned, worker.main_stack_pointer);
  __builtin_unreachable();
}

void switch_to(Worker& worker, Fiber& self, Fiber& next) {
  worker.current = &next;
  lacuna_simt_switch(&self.stack_pointer, next.stack_pointer);
}

// Leaves the current fiber, which is not ready or has exited.
void switch_away(Worker& worker, Fiber& self) {
  Fiber* next = next_fiber(worker);
  if (next == &self) return;
  if (next == nullptr) abandon(worker, "deadlock");
  switch_to(worker, self, *next);
}

void leave_ready(Fiber& fiber) {
  Warp& warp = *fiber.warp;
  warp.ready &= ~(1u << fiber.lane);
  if (warp.ready == 0) fiber.block->ready_warps &= ~(1u << warp.index);
}

void release_barrier(Block& block) {
  block.barrier_arrived = 0;
  ++block.worker->counters.barriers;
  for (int w = 0; w < block.warps; ++w) {
    Warp& warp = block.warp[w];
    ++warp.meetings;
    make_lanes_ready(warp, warp.lanes & ~warp.exited);
  }
}

void check_arena_slack(const Block& block) {
  for (const unsigned char* at = block.arena - kArenaMargin; at < block.arena; ++at) {
    if (*at != 0xFF) {
      fail(0, "shared memory written %d bytes before its start", static_cast<int>(block.arena - at));
    }
  }
  for (const unsigned char* at = block.arena + block.arena_bytes; at < block.arena_end; ++at) {
    if (*at != 0xFF) {
      fail(0, "shared memory written %d bytes past the end of its %u bytes",
           static_cast<int>(at - (block.arena + block.arena_bytes)), block.arena_bytes);
    }
  }
}

}  // namespace

void make_lanes_ready(Warp& warp, uint32_t lanes) {
  if (lanes == 0) return;
  warp.ready |= lanes;
  warp.block->ready_warps |= 1u << warp.index;
}

void make_ready(Fiber& fiber) { make_lanes_ready(*fiber.warp, 1u << fiber.lane); }

void block_fiber(const char* waits_for, int line) {
  Worker& worker = *current_worker;
  Fiber& self = *worker.current;
  self.waits_for = waits_for;
  self.wait_line = line;
  worker.polls = 0;
  leave_ready(self);
  switch_away(worker, self);
  self.waits_for = nullptr;
}

void scheduling_point() {
  Worker& worker = *current_worker;
  if (worker.config.policy == LACUNA_SIMT_ROUND_ROBIN && worker.config.resident == 1) return;
  switch_away(worker, *worker.current);
}

void polling_point() {
  Worker& worker = *current_worker;
  Fiber& self = *worker.current;
  ++worker.polls;
  if (worker.config.checks != 0 && worker.polls == kMostPolls) abandon(worker, "livelock, all running threads poll");
  if (worker.polls % kPollsToCompletion == 0) complete_one(worker);
  if (worker.failed) abandon(worker, "an operation failed as it completed");
  if (worker.polls % kPollsToTurn != 0) {
    scheduling_point();
  } else if (Fiber* next = at_random(worker); next != &self) {
    switch_to(worker, self, *next);
  }
}

void block_barrier(int line) {
  Fiber& self = current_fiber();
  Block& block = *self.block;
  if (block.barrier_arrived == 0) {
    block.barrier_line = line;
  } else if (block.barrier_line != line) {
    fail(line, "__syncthreads meets another one of the same block at line %d", block.barrier_line);
  }
  if (++block.barrier_arrived == block.live) {
    release_barrier(block);
    scheduling_point();
  } else {
    block_fiber("__syncthreads", line);
  }
}

void run_worker(Worker& worker) {
  Launch& launch = *worker.launch;
  const size_t resident = static_cast<size_t>(worker.config.resident);
  while (worker.blocks.size() < resident) worker.blocks.push_back(make_block(worker));
  worker.current = nullptr;
  worker.next_block = 0;
  worker.failed = false;
  worker.polls = 0;
  worker.random = seeded(launch.config.seed, ~uint64_t{0});
  worker.steps_to_redraw = 0;
  while (!launch.failed.load(std::memory_order_relaxed)) {
    bool any = false;
    for (size_t i = 0; i < resident; ++i) {
      Block& block = *worker.blocks[i];
      if (block.live == 0) {
        const int64_t position = launch.next_block.fetch_add(1);
        if (position >= launch.grid) continue;
        prepare_block(block, block_at(launch, position), launch.grid, launch.threads, launch.smem_bytes);
      }
      any = true;
    }
    if (!any) break;
    Fiber* next = next_fiber(worker);
    if (next == nullptr) {
      report_waiters(worker, "deadlock");
      break;
    }
    worker.current = next;
    lacuna_simt_switch(&worker.main_stack_pointer, next->stack_pointer);
    if (worker.failed) break;
  }
  for (Block* block : worker.blocks) block->live = 0;
}

}  // namespace lacuna_simt

extern "C" void lacuna_simt_fiber_main(void) {
  using namespace lacuna_simt;
  Worker& worker = *current_worker;
  Fiber& self = *worker.current;
  worker.launch->entry(worker.launch->params);
  Warp& warp = *self.warp;
  Block& block = *self.block;
  if (worker.config.checks != 0) {
    for (const Module* module : kModules) {
      if (module->exit != nullptr) module->exit(self);
    }
  }
  for (const CollectiveSlot& slot : warp.slots) {
    if (slot.arrived != 0 && (slot.mask >> self.lane & 1) != 0) {
      fail(slot.line, "the thread exits while lanes 0x%08x of its warp wait for it in %s", slot.arrived, slot.name);
    }
  }
  warp.exited |= 1u << self.lane;
  leave_ready(self);
  --block.live;
  worker.polls = 0;
  for (const Module* module : kModules) {
    if (module->exited != nullptr) module->exited(self);
  }
  if (block.live == 0) {
    if (worker.config.checks != 0) check_arena_slack(block);
    lacuna_simt_switch(&self.stack_pointer, worker.main_stack_pointer);
  } else {
    if (block.barrier_arrived == block.live) release_barrier(block);
    switch_away(worker, self);
  }
  __builtin_unreachable();
}
