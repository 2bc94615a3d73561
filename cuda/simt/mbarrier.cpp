#include "simt/mbarrier.h"

#include <stdio.h>
#include <string.h>

#include "simt/error.h"
#include "simt/memory.h"
#include "simt/module.h"
#include "simt/text.h"
#include "simt/wait_history.h"

namespace lacuna_simt {

namespace {

// Pending and expected arrivals, and the magnitude of the tx-count.
constexpr int32_t kMostCount = (1 << 20) - 1;
// An mbarrier's eight bytes hold kCookie ^ address: other contents show that somebody wrote over it.
constexpr uint64_t kCookie = 0x6d62617272696572u;

struct Object {
  uint32_t address;
  int line;          // of its mbarrier_init
  int32_t expected;  // arrivals a phase
  int32_t pending;   // arrivals that the current phase lacks
  int32_t tx;        // bytes announced and not yet complete; negative when they complete before they are announced
  int64_t phase;     // the current one, from 0
  bool polled;       // mbarrier_try said no since the phase began
  uint32_t waiting_warps;
  uint32_t waiting[32];    // of each warp: lanes blocked until the current phase completes
  uint32_t histories[32];  // of each warp: 1 + index into MbarrierState::histories; 0: none yet
};

}  // namespace

struct MbarrierState {
  std::vector<Object> objects;
  std::vector<uint16_t> slots;  // by shared offset / 8: 1 + index into objects; 0: none
  std::vector<WaitHistory> histories;
};

namespace {

// Of an address whose alignment and range are checked: its index, or -1.
int index_of(const MbarrierState& state, uint32_t address) {
  const size_t slot = (address - kSharedBase) / 8;
  return slot < state.slots.size() ? state.slots[slot] - 1 : -1;
}

bool overwritten(const Block& block, const Object& object) {
  uint64_t cookie;
  memcpy(&cookie, block.arena + (object.address - kSharedBase), sizeof cookie);
  return cookie != (kCookie ^ object.address);
}

// The index of a live mbarrier.
size_t find_object(uint32_t address, const char* what, int line) {
  const Block& block = *current_fiber().block;
  shared_pointer(address, 8, 8, what, line);
  const int index = index_of(*block.mbarriers, address);
  if (index < 0) fail(line, "%s: no mbarrier was initialised at shared address 0x%x", what, address - kSharedBase);
  const Object& object = block.mbarriers->objects[static_cast<size_t>(index)];
  if (overwritten(block, object)) {
    fail(line, "%s: the mbarrier at shared address 0x%x, initialised at line %d, was overwritten", what,
         address - kSharedBase, object.line);
  }
  return static_cast<size_t>(index);
}

void complete_if_due(Block& block, Object& object) {
  if (object.pending != 0 || object.tx != 0) return;
  ++object.phase;
  object.pending = object.expected;
  object.polled = false;
  block.worker->polls = 0;
  for (uint32_t warps = object.waiting_warps; warps != 0; warps &= warps - 1) {
    const int w = __builtin_ctz(warps);
    make_lanes_ready(block.warp[w], object.waiting[w]);
    object.waiting[w] = 0;
  }
  object.waiting_warps = 0;
}

// The phase that a wait for `parity` means: the current one or the one before.
int64_t phase_meant(const Object& object, uint32_t parity, const char* what, int line) {
  if (parity > 1) fail(line, "%s: parity %u", what, parity);
  return (object.phase & 1) == static_cast<int64_t>(parity) ? object.phase : object.phase - 1;
}

void note_wait(MbarrierState& state, Object& object, const Fiber& self, int64_t phase, int line) {
  if (self.block->worker->config.checks == 0) return;
  uint32_t& history = object.histories[self.warp->index];
  if (history == 0) {
    state.histories.emplace_back();
    history = static_cast<uint32_t>(state.histories.size());
  }
  int64_t meant = 0;
  if (state.histories[history - 1].add(self.lane, {phase, self.warp->meetings, line}, &meant)) return;
  fail(line,
       "mbarrier at shared address 0x%x: the lane is behind the others of its warp: it comes to wait for phase %lld "
       "when phase %lld is current, and the parity is the same again (sync_warp after the wait, or one elected lane)",
       object.address - kSharedBase, static_cast<long long>(meant), static_cast<long long>(object.phase));
}

}  // namespace

void mbarrier_start(uint32_t address, int arrivals, int line) {
  Block& block = *current_fiber().block;
  MbarrierState& state = *block.mbarriers;
  unsigned char* const at = shared_pointer(address, 8, 8, "mbarrier_init", line);
  if (arrivals < 1 || arrivals > kMostCount) fail(line, "mbarrier_init: %d arrivals, not 1 to 2^20 - 1", arrivals);
  if (const int old = index_of(state, address); old >= 0) {
    fail(line, "mbarrier_init: the mbarrier at shared address 0x%x was already initialised at line %d",
         address - kSharedBase, state.objects[static_cast<size_t>(old)].line);
  }
  Object object{};
  object.address = address;
  object.line = line;
  object.expected = arrivals;
  object.pending = arrivals;
  state.objects.push_back(object);
  const size_t slot = (address - kSharedBase) / 8;
  if (slot >= state.slots.size()) state.slots.resize(slot + 1, 0);
  state.slots[slot] = static_cast<uint16_t>(state.objects.size());
  const uint64_t cookie = kCookie ^ address;
  memcpy(at, &cookie, sizeof cookie);
}

void mbarrier_arrival(uint32_t address, int bytes, int line) {
  Block& block = *current_fiber().block;
  Object& object = block.mbarriers->objects[find_object(address, "mbarrier_arrive", line)];
  if (bytes < 0 || bytes > kMostCount || object.tx + bytes > kMostCount) {
    fail(line, "mbarrier at shared address 0x%x: the tx-count overflows (%d bytes missing, %d more announced)",
         address - kSharedBase, object.tx, bytes);
  }
  if (object.pending == 0) {
    fail(line, "mbarrier at shared address 0x%x: more than the %d arrivals of phase %lld (%d bytes missing)",
         address - kSharedBase, object.expected, static_cast<long long>(object.phase), object.tx + bytes);
  }
  object.tx += bytes;
  --object.pending;
  complete_if_due(block, object);
  scheduling_point();
}

bool mbarrier_poll(uint32_t address, uint32_t parity, int line) {
  polling_point();
  Fiber& self = current_fiber();
  Worker& worker = *self.block->worker;
  MbarrierState& state = *self.block->mbarriers;
  Object& object = state.objects[find_object(address, "mbarrier_try", line)];
  const int64_t phase = phase_meant(object, parity, "mbarrier_try", line);
  const bool completed = phase != object.phase;
  if (!completed || (worker.config.checks != 0 && worker.random.below(8) == 0)) {
    object.polled = true;
    return false;
  }
  note_wait(state, object, self, phase, line);
  return true;
}

void mbarrier_await(uint32_t address, uint32_t parity, int line) {
  Fiber& self = current_fiber();
  MbarrierState& state = *self.block->mbarriers;
  const size_t index = find_object(address, "mbarrier_wait", line);
  Object& object = state.objects[index];
  const int64_t phase = phase_meant(object, parity, "mbarrier_wait", line);
  note_wait(state, object, self, phase, line);
  if (phase != object.phase) return;
  const int w = self.warp->index;
  object.waiting[w] |= 1u << self.lane;
  object.waiting_warps |= 1u << w;
  block_fiber("mbarrier_wait", line);
  // Others may have initialised mbarriers: `object` may have moved.
  const int64_t current = state.objects[index].phase;
  if (current > phase + 1) {
    fail(line,
         "mbarrier at shared address 0x%x: phase %lld completed before this thread saw that phase %lld had: nothing "
         "made it wait for this thread, which might see the old parity again and wait for ever",
         address - kSharedBase, static_cast<long long>(current - 1), static_cast<long long>(phase));
  }
}

void mbarrier_check(uint32_t address, const char* what, int line) { find_object(address, what, line); }

void mbarrier_complete(Block& block, uint32_t address, uint32_t bytes, int line) {
  Object& object = block.mbarriers->objects[static_cast<size_t>(index_of(*block.mbarriers, address))];
  const char* const wrong = overwritten(block, object)                              ? "it was overwritten"
                            : object.tx - static_cast<int64_t>(bytes) < -kMostCount ? "its tx-count overflows"
                                                                                    : nullptr;
  if (wrong != nullptr) {
    char text[256];
    snprintf(text, sizeof text,
             "block %lld, line %d: the copy completes at the mbarrier at shared address 0x%x (initialised at line "
             "%d), but %s",
             static_cast<long long>(block.index), line, address - kSharedBase, object.line, wrong);
    record_failure(*block.worker, text);
    return;
  }
  object.tx -= static_cast<int32_t>(bytes);
  complete_if_due(block, object);
}

bool mbarrier_is_awaited(const Block& block, uint32_t address) {
  return block.mbarriers->objects[static_cast<size_t>(index_of(*block.mbarriers, address))].waiting_warps != 0;
}

namespace {

void start(Block& block) {
  MbarrierState& state = *block.mbarriers;
  for (const Object& object : state.objects) state.slots[(object.address - kSharedBase) / 8] = 0;
  state.objects.clear();
  state.histories.clear();
}

void describe(const Block& block, char* buffer, size_t bytes) {
  const MbarrierState& state = *block.mbarriers;
  Text text{buffer, bytes};
  for (const Object& object : state.objects) {
    if (object.waiting_warps == 0 && !object.polled) continue;
    text.add(
        "%smbarrier at shared address 0x%x (initialised at line %d): phase %lld lacks %d of %d arrivals, tx-count %d, "
        "awaited by warps 0x%x",
        text.separator("; "), object.address - kSharedBase, object.line, static_cast<long long>(object.phase),
        object.pending, object.expected, object.tx, object.waiting_warps);
    for (uint32_t warps = object.waiting_warps; warps != 0; warps &= warps - 1) {
      const int w = __builtin_ctz(warps);
      if (object.histories[w] == 0) continue;
      const uint32_t fewer = state.histories[object.histories[w] - 1].fewer(object.waiting[w]);
      if (fewer != 0) text.add(", lanes 0x%08x of warp %d have made fewer waits than others of it", fewer, w);
    }
  }
}

}  // namespace

const Module mbarrier_module = {
    [](Block& block) { block.mbarriers = new MbarrierState; },
    start,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    describe,
};

}  // namespace lacuna_simt
