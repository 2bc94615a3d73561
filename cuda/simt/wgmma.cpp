// wgmma.fence, wgmma.mma_async, wgmma.commit_group, wgmma.wait_group. Only the wait blocks, at which the lanes of a
// warp meet; the others leave their part and run on. An operation exists once all 128 threads have issued it.
//
// Accumulators move out of a thread at issue and come back at its wait; between, the registers hold poison: reading
// them gives NaN, and a write is seen at the wait. A registers are copied at issue and compared at the wait.
#include "simt/wgmma.h"

#include <string.h>

#include "simt/error.h"
#include "simt/memory.h"
#include "simt/module.h"
#include "simt/proxy.h"
#include "simt/warpgroup.h"

namespace lacuna_simt {

namespace {

constexpr uint32_t kPoison = 0xffa5a5a5u;  // a signalling NaN

const char* step_name(WgmmaStep step) {
  static const char* const names[] = {"wgmma.fence", "wgmma.mma_async", "wgmma.commit_group", "wgmma.wait_group"};
  return names[static_cast<int>(step)];
}

int index_of(const Fiber& fiber) { return fiber.thread % kWarpgroupThreads; }

bool checking(const Warpgroup& group) { return group.block->worker->config.checks != 0; }

// The current thread's next event, which it is the first to reach if `fresh`.
WgmmaEvent& next_event(Warpgroup& group, int index, WgmmaStep step, int line, bool& fresh) {
  const uint32_t number = group.members[index].event;
  fresh = number == group.events.end();
  if (fresh) return group.events.push({step, line, kWarpgroupThreads, nullptr, 0, 0, 0});
  WgmmaEvent& event = group.events[number];
  if (event.step != step || event.line != line) {
    fail(line, "divergent warpgroup: %s meets %s of line %d", step_name(step), step_name(event.step), event.line);
  }
  return event;
}

// `event` may be gone afterwards.
void pass(Warpgroup& group, int index, WgmmaEvent& event) {
  ++group.members[index].event;
  --event.left;
  while (!group.events.empty() && group.events.front().left == 0) group.events.pop();
}

void check_equal(const WgmmaOperands& mine, const WgmmaOperands& theirs, int line) {
  const auto check = [line](const char* what, uint64_t own, uint64_t other) {
    if (own == other) return;
    fail(line, "divergent warpgroup: this thread's wgmma has %s 0x%llx, the others' 0x%llx", what,
         static_cast<unsigned long long>(own), static_cast<unsigned long long>(other));
  };
  check("N", static_cast<uint64_t>(mine.columns), static_cast<uint64_t>(theirs.columns));
  check("A in registers", mine.a_in_registers, theirs.a_in_registers);
  check("A descriptor", mine.a, theirs.a);
  check("B descriptor", mine.b, theirs.b);
  check("MN-major B", mine.b_mn_major, theirs.b_mn_major);
  check("accumulate", mine.accumulate, theirs.accumulate);
  check("bf16", mine.bfloat16, theirs.bfloat16);
}

// The accumulators in flight that `d` is, or null; other overlaps are errors.
Accumulators* in_flight(const Warpgroup& group, int index, const float* d, int count, int line) {
  for (Accumulators* held : group.accumulators) {
    if (held->last < group.waited) continue;  // this thread has them back
    const float* const theirs = held->d[index];
    if (theirs == d && held->count == count) return held;
    if (d < theirs + held->count && theirs < d + count) {
      fail(line, "wgmma: accumulators overlap those of the wgmma of line %d in flight, which has another shape",
           held->line);
    }
  }
  return nullptr;
}

template <class T>
T* take(std::vector<T*>& free) {
  if (free.empty()) return new T;
  T* const taken = free.back();
  free.pop_back();
  return taken;
}

// The first thread's part.
WgmmaOperation* begin(Warpgroup& group, int index, const WgmmaOperands& operands, const float* d, int line) {
  if (operands.columns < 8 || operands.columns > kMaxWgmmaColumns || operands.columns % 8 != 0) {
    fail(line, "wgmma: N = %d, possible are multiples of 8 up to %d", operands.columns, kMaxWgmmaColumns);
  }
  Accumulators* held = in_flight(group, index, d, operands.columns / 2, line);
  // Sums of one shape that follow each other need no fence; A registers always do once they may have been touched.
  if (!group.fenced && (held == nullptr || operands.a_in_registers)) {
    if (group.last_wait_line == 0) fail(line, "wgmma: no wgmma.fence since the kernel began");
    fail(line, "wgmma: no wgmma.fence since the wgmma.wait_group of line %d", group.last_wait_line);
  }
  WgmmaOperation* const operation = take(group.free_operations);
  operation->operands = operands;
  operation->line = line;
  operation->chained = held != nullptr;
  operation->issued = 0;
  operation->left = kWarpgroupThreads;
  if (!operands.a_in_registers) k_major_chunks(operands.a, kWgmmaRows, "A", operation->a_chunks, line);
  if (operands.b_mn_major) {
    mn_major_chunks(operands.b, operands.columns, "B", operation->b_chunks, line);
  } else {
    k_major_chunks(operands.b, operands.columns, "B", operation->b_chunks, line);
  }
  if (held == nullptr) {
    held = take(group.free_accumulators);
    held->count = operands.columns / 2;
    held->left = kWarpgroupThreads;
    group.accumulators.push_back(held);
  }
  held->last = group.operations.end();
  held->line = line;
  operation->accumulators = held;
  group.operations.push(operation);
  return operation;
}

void move_out(Accumulators& held, int index, float* d, bool accumulate, bool poison) {
  held.d[index] = d;
  if (accumulate) scatter_accumulators(d, index, held.c, 2 * held.count);
  if (!poison) return;
  for (int i = 0; i < held.count; ++i) memcpy(&d[i], &kPoison, sizeof kPoison);
}

void move_back(Accumulators& held, int index, bool check, int line) {
  float* const d = held.d[index];
  if (check) {
    uint32_t changed = 0;
    for (int i = 0; i < held.count; ++i) {
      uint32_t bits;
      memcpy(&bits, &d[i], sizeof bits);
      changed |= bits ^ kPoison;
    }
    if (changed != 0) fail(line, "accumulators of the wgmma of line %d were written while it was in flight", held.line);
  }
  gather_accumulators(d, index, held.c, 2 * held.count);
}

// Reads of shared memory by the operation see ordinary writes that were fenced only.
void check_proxy(const Chunk* chunks, int count, int line) {
  for (int i = 0; i < count;) {
    // Swizzles keep pairs of chunks together.
    const bool pair = i + 1 < count && (chunks[i] ^ chunks[i + 1]) == 1;
    const uint32_t first = pair ? chunks[i] & ~1u : chunks[i];
    proxy_check_read(kSharedBase + 16 * first, pair ? 32 : 16, "wgmma", line);
    i += pair ? 2 : 1;
  }
}

// All threads have issued it.
void finish_issue(Warpgroup& group, const WgmmaOperation& operation) {
  Worker& worker = *group.block->worker;
  const WgmmaOperands& operands = operation.operands;
  ++group.issued;
  worker.counters.mma_macs += static_cast<uint64_t>(kWgmmaRows * kWgmmaDepth * operands.columns);
  if (checking(group)) {
    if (!operands.a_in_registers) check_proxy(operation.a_chunks, kWgmmaRows * kWgmmaDepth / 8, operation.line);
    check_proxy(operation.b_chunks, operands.columns * kWgmmaDepth / 8, operation.line);
  }
  if (worker.config.async_mode == LACUNA_SIMT_EARLY) complete_operations(group, group.issued);
}

// The thread's registers of operations `from` .. `to` - 1 belong to it again.
void take_back(Warpgroup& group, int index, uint32_t from, uint32_t to, int line) {
  const bool check = checking(group);
  for (size_t i = 0; i < group.accumulators.size();) {
    Accumulators& held = *group.accumulators[i];
    if (held.last >= from && held.last < to) {
      move_back(held, index, check, line);
      if (--held.left == 0) {
        group.free_accumulators.push_back(&held);
        group.accumulators.erase(group.accumulators.begin() + static_cast<ptrdiff_t>(i));
        continue;
      }
    }
    ++i;
  }
  for (uint32_t number = from; number < to; ++number) {
    WgmmaOperation& operation = *group.operations[number];
    if (check && operation.operands.a_in_registers &&
        memcmp(operation.a_registers[index], operation.a_values[index], sizeof operation.a_values[index]) != 0) {
      fail(line, "A registers of the wgmma of line %d were written while it was in flight", operation.line);
    }
    --operation.left;
  }
  group.members[index].waited = to;
  while (!group.operations.empty() && group.operations.front()->left == 0) {
    group.free_operations.push_back(group.operations.front());
    group.operations.pop();
  }
}

}  // namespace

void warpgroup_fence(int line) {
  Warpgroup& group = current_warpgroup(line);
  const int index = index_of(current_fiber());
  bool fresh;
  WgmmaEvent& event = next_event(group, index, WgmmaStep::kFence, line, fresh);
  if (fresh) group.fenced = true;
  pass(group, index, event);
}

void warpgroup_product(float* d, int count, uint64_t a, const uint32_t* a_registers, uint64_t b, bool b_mn_major,
                       bool accumulate, bool bfloat16, int line) {
  Warpgroup& group = current_warpgroup(line);
  const int index = index_of(current_fiber());
  const WgmmaOperands operands{2 * count, a, b, a_registers != nullptr, b_mn_major, accumulate, bfloat16};
  bool fresh;
  WgmmaEvent& event = next_event(group, index, WgmmaStep::kProduct, line, fresh);
  if (fresh) {
    event.operation = begin(group, index, operands, d, line);
  } else {
    check_equal(operands, event.operation->operands, line);
  }
  WgmmaOperation& operation = *event.operation;
  pass(group, index, event);
  Accumulators& held = *operation.accumulators;
  if (!operation.chained) {
    move_out(held, index, d, accumulate, checking(group));
  } else if (held.d[index] != d) {
    fail(line, "divergent warpgroup: this thread's accumulators are not those in flight that the others add to");
  }
  if (a_registers != nullptr) {
    operation.a_registers[index] = a_registers;
    memcpy(operation.a_values[index], a_registers, sizeof operation.a_values[index]);
  }
  ++group.members[index].issued;
  if (++operation.issued == kWarpgroupThreads) finish_issue(group, operation);
}

void warpgroup_commit(int line) {
  Warpgroup& group = current_warpgroup(line);
  const int index = index_of(current_fiber());
  bool fresh;
  WgmmaEvent& event = next_event(group, index, WgmmaStep::kCommit, line, fresh);
  if (fresh) group.commits.push(group.operations.end());
  pass(group, index, event);
  scheduling_point();
}

void warpgroup_wait(int pending, int line) {
  Warpgroup& group = current_warpgroup(line);
  const Fiber& self = current_fiber();
  Worker& worker = *group.block->worker;
  const int index = index_of(self);
  bool fresh;
  WgmmaEvent& event = next_event(group, index, WgmmaStep::kWait, line, fresh);
  if (fresh) {
    event.pending = pending;
    event.from = group.waited;
    for (; group.commits.size() > static_cast<uint32_t>(pending); group.commits.pop()) {
      group.waited = group.commits.front();
    }
    event.to = group.waited;
    group.fenced = false;
    group.last_wait_line = line;
  } else if (event.pending != pending) {
    fail(line, "divergent warpgroup: wgmma.wait_group %d meets wgmma.wait_group %d", pending, event.pending);
  }
  const uint32_t from = event.from;
  const uint32_t to = event.to;
  pass(group, index, event);
  const int warp = index / 32;
  group.arrived[warp] |= 1u << self.lane;
  if (group.arrived[warp] != ~0u) {
    block_fiber("wgmma.wait_group", line);
  } else {
    const bool at_once = worker.config.async_mode == LACUNA_SIMT_MIXED && to <= group.issued;
    if (at_once && worker.random.below(2) == 0) complete_operations(group, to);
    if (to <= group.completed) {
      wake_warp(group, warp);
      scheduling_point();
    } else {
      group.waiting[warp] = true;
      group.wait_to[warp] = to;
      block_fiber("wgmma.wait_group", line);
    }
  }
  take_back(group, index, from, to, line);
}

}  // namespace lacuna_simt
