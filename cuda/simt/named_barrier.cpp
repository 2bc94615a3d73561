#include "simt/named_barrier.h"

#include "simt/error.h"
#include "simt/module.h"
#include "simt/text.h"

namespace lacuna_simt {

namespace {

constexpr int kBarriers = 16;

const char* name_of(bool wait) { return wait ? "bar.sync" : "bar.arrive"; }

// A warp on its way to a barrier: its lanes execute the instruction together, so the first ones wait for the others.
struct Arrival {
  uint32_t lanes;  // that have come
  int id;
  int threads;
  int line;
  bool wait;
};

struct Barrier {
  int threads;       // as the first warp of the phase said
  int line;          // where it said so
  uint32_t arrived;  // warps
  uint32_t waiting;  // those of them that wait
};

}  // namespace

struct NamedBarrierState {
  Arrival arrivals[32];  // of each warp
  Barrier barriers[kBarriers];
};

namespace {

void check_operands(const Block& block, int id, int threads, bool wait, int line) {
  const char* const what = name_of(wait);
  if (id == 0) fail(line, "%s: barrier 0 is the one of sync_threads", what);
  if (id < 0 || id >= kBarriers) fail(line, "%s: barrier %d, not 1 to 15", what, id);
  if (threads < 32 || threads > 1024 || threads % 32 != 0) {
    fail(line, "%s %d: %d threads, not a multiple of 32 up to 1024", what, id, threads);
  }
  if (threads > 32 * block.warps) {
    fail(line, "%s %d: %d threads, but the block has %d", what, id, threads, block.threads);
  }
}

uint32_t live_lanes(const Warp& warp) { return warp.lanes & ~warp.exited; }

// All lanes of the warp have come.
void warp_arrives(Warp& warp) {
  Block& block = *warp.block;
  NamedBarrierState& state = *block.named_barriers;
  const Arrival arrival = state.arrivals[warp.index];
  Barrier& barrier = state.barriers[arrival.id];
  const uint32_t bit = 1u << warp.index;
  state.arrivals[warp.index].lanes = 0;
  ++warp.meetings;
  if (barrier.arrived == 0) {
    barrier.threads = arrival.threads;
    barrier.line = arrival.line;
  } else if (barrier.threads != arrival.threads) {
    fail(arrival.line, "%s %d: warp %d says %d threads, line %d said %d in the same phase", name_of(arrival.wait),
         arrival.id, warp.index, arrival.threads, barrier.line, barrier.threads);
  }
  if ((barrier.arrived & bit) != 0) {
    fail(arrival.line, "%s %d: warp %d arrives twice in a phase (%d of %d threads have come, the first at line %d)",
         name_of(arrival.wait), arrival.id, warp.index, 32 * __builtin_popcount(barrier.arrived), barrier.threads,
         barrier.line);
  }
  barrier.arrived |= bit;
  if (arrival.wait) {
    barrier.waiting |= bit;
  } else {
    make_lanes_ready(warp, live_lanes(warp));
  }
  if (32 * __builtin_popcount(barrier.arrived) < barrier.threads) return;
  for (uint32_t warps = barrier.waiting; warps != 0; warps &= warps - 1) {
    Warp& waiter = block.warp[__builtin_ctz(warps)];
    make_lanes_ready(waiter, live_lanes(waiter));
  }
  barrier = {};
}

}  // namespace

void named_barrier(int id, int threads, bool wait, int line) {
  Fiber& self = current_fiber();
  Warp& warp = *self.warp;
  Block& block = *self.block;
  check_operands(block, id, threads, wait, line);
  Arrival& arrival = block.named_barriers->arrivals[warp.index];
  if (arrival.lanes == 0) {
    arrival = {0, id, threads, line, wait};
  } else if (arrival.id != id || arrival.threads != threads || arrival.line != line || arrival.wait != wait) {
    fail(line, "divergent warp: %s %d, %d meets %s %d, %d of line %d", name_of(wait), id, threads,
         name_of(arrival.wait), arrival.id, arrival.threads, arrival.line);
  }
  arrival.lanes |= 1u << self.lane;
  if (arrival.lanes == live_lanes(warp)) {
    warp_arrives(warp);
    if ((block.named_barriers->barriers[id].waiting >> warp.index & 1) == 0) {
      scheduling_point();
      return;
    }
  }
  block_fiber(name_of(wait), line);
}

namespace {

// A warp whose last missing lane exits has arrived.
void exited(Fiber& fiber) {
  Warp& warp = *fiber.warp;
  const uint32_t lanes = fiber.block->named_barriers->arrivals[warp.index].lanes;
  if (lanes != 0 && lanes == live_lanes(warp)) warp_arrives(warp);
}

void describe(const Block& block, char* buffer, size_t bytes) {
  Text text{buffer, bytes};
  for (int id = 0; id < kBarriers; ++id) {
    const Barrier& barrier = block.named_barriers->barriers[id];
    if (barrier.arrived == 0) continue;
    text.add("%sbarrier %d: %d of %d threads have come, warps 0x%x", text.separator("; "), id,
             32 * __builtin_popcount(barrier.arrived), barrier.threads, barrier.arrived);
  }
}

}  // namespace

const Module named_barrier_module = {
    [](Block& block) { block.named_barriers = new NamedBarrierState{}; },
    [](Block& block) { *block.named_barriers = {}; },
    nullptr,
    exited,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    describe,
};

}  // namespace lacuna_simt
