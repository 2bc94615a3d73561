// When wgmma operations complete: at quiescence when somebody waits ("late"), at issue ("early") or at seeded moments
// between ("mixed"). One completion computes all 64 rows; each thread gets its part back at its own wait.
#include "simt/warpgroup.h"

#include <stdio.h>

#include "simt/error.h"
#include "simt/module.h"

namespace lacuna_simt {

namespace {

void perform(Warpgroup& group, const WgmmaOperation& operation) {
  WgmmaScratch& scratch = group.block->warpgroups->scratch;
  const unsigned char* const shared_memory = group.block->arena;
  const WgmmaOperands& operands = operation.operands;
  if (operands.a_in_registers) {
    widen_a(scratch, operation.a_values, operands.bfloat16);
  } else {
    widen_a(scratch, shared_memory, operation.a_chunks, operands.bfloat16);
  }
  widen_b(scratch, shared_memory, operation.b_chunks, operands.columns * kWgmmaDepth / 8, operands.bfloat16);
  multiply_wgmma(scratch, operands.b_mn_major, operation.accumulators->c, operands.columns, operands.accumulate);
}

void forget(Warpgroup& group) {
  group.events.reset();
  group.fenced = false;
  group.last_wait_line = 0;
  group.waited = group.issued = group.completed = 0;
  group.commits.reset();
  for (WarpgroupMember& member : group.members) member = {};
  for (; !group.operations.empty(); group.operations.pop()) group.free_operations.push_back(group.operations.front());
  group.operations.reset();
  group.free_accumulators.insert(group.free_accumulators.end(), group.accumulators.begin(), group.accumulators.end());
  group.accumulators.clear();
  for (int warp = 0; warp < 4; ++warp) {
    group.arrived[warp] = 0;
    group.waiting[warp] = false;
  }
}

bool wanted(const Warpgroup& group, int warp) { return group.waiting[warp] && group.wait_to[warp] <= group.issued; }

// Calls use(group) for each warpgroup that has executed anything, until it returns true.
template <class Use>
void for_each_group(const Block& block, Use use) {
  const WarpgroupState& state = *block.warpgroups;
  for (uint32_t left = state.used; left != 0; left &= left - 1) {
    if (use(*state.groups[__builtin_ctz(left)])) return;
  }
}

size_t count_wanted(const Block& block) {
  size_t count = 0;
  for_each_group(block, [&](const Warpgroup& group) {
    for (int warp = 0; warp < 4; ++warp) count += wanted(group, warp) ? 1 : 0;
    return false;
  });
  return count;
}

void finish_wanted(Block& block, uint32_t index) {
  for_each_group(block, [&](Warpgroup& group) {
    for (int warp = 0; warp < 4; ++warp) {
      if (!wanted(group, warp) || index-- != 0) continue;
      complete_operations(group, group.wait_to[warp]);
      return true;
    }
    return false;
  });
}

size_t count_pending(const Block& block) {
  size_t count = 0;
  for_each_group(block, [&](const Warpgroup& group) {
    count += group.issued - group.completed;
    return false;
  });
  return count;
}

// The oldest operation of a seeded warpgroup: they complete in order.
void finish_pending(Block& block, Random& random) {
  uint32_t index = random.below(static_cast<uint32_t>(count_pending(block)));
  for_each_group(block, [&](Warpgroup& group) {
    const uint32_t here = group.issued - group.completed;
    if (index < here) {
      complete_operations(group, group.completed + 1);
      return true;
    }
    index -= here;
    return false;
  });
}

void make(Block& block) { block.warpgroups = new WarpgroupState{}; }

void start(Block& block) {
  for_each_group(block, [](Warpgroup& group) {
    forget(group);
    return false;
  });
  block.warpgroups->used = 0;
}

void exit(Fiber& fiber) {
  const WarpgroupState& state = *fiber.block->warpgroups;
  const int index = fiber.thread / kWarpgroupThreads;
  if ((state.used >> index & 1) == 0) return;
  const Warpgroup& group = *state.groups[index];
  const WarpgroupMember& member = group.members[fiber.thread % kWarpgroupThreads];
  if (member.waited == member.issued) return;
  fail(group.operations[member.waited]->line, "the thread exits with a wgmma that it never waited for");
}

// Warps that wait for an operation that others have not issued.
void describe(const Block& block, char* text, size_t bytes) {
  size_t used = 0;
  for_each_group(block, [&](const Warpgroup& group) {
    bool waits = false;
    for (int warp = 0; warp < 4; ++warp) waits |= group.waiting[warp];
    if (!waits || group.issued == group.operations.end()) return false;
    for (int warp = 0; warp < 4; ++warp) {
      uint32_t missing = 0;
      for (int lane = 0; lane < 32; ++lane) {
        if (group.members[32 * warp + lane].issued <= group.issued) missing |= 1u << lane;
      }
      if (missing == 0 || used >= bytes) continue;
      const int wrote =
          snprintf(text + used, bytes - used, "%swarp %d lanes 0x%08x have not issued the wgmma of line %d",
                   used == 0 ? "" : ", ", 4 * group.index + warp, missing, group.operations[group.issued]->line);
      if (wrote > 0) used += static_cast<size_t>(wrote);
    }
    return false;
  });
}

}  // namespace

Warpgroup& current_warpgroup(int line) {
  const Fiber& self = current_fiber();
  Block& block = *self.block;
  if (block.threads % kWarpgroupThreads != 0) {
    fail(line, "wgmma in a block of %d threads: it needs whole warpgroups of %d", block.threads, kWarpgroupThreads);
  }
  WarpgroupState& state = *block.warpgroups;
  const int index = self.thread / kWarpgroupThreads;
  if (state.groups[index] == nullptr) {
    state.groups[index] = new Warpgroup{};
    state.groups[index]->block = &block;
    state.groups[index]->index = index;
  }
  state.used |= 1u << index;
  return *state.groups[index];
}

void wake_warp(Warpgroup& group, int warp) {
  group.arrived[warp] = 0;
  group.waiting[warp] = false;
  make_lanes_ready(group.block->warp[4 * group.index + warp], ~0u);
}

void complete_operations(Warpgroup& group, uint32_t to) {
  for (; group.completed < to; ++group.completed) {
    perform(group, *group.operations[group.completed]);
  }
  for (int warp = 0; warp < 4; ++warp) {
    if (group.waiting[warp] && group.wait_to[warp] <= group.completed) wake_warp(group, warp);
  }
}

const Module warpgroup_module = {
    make, start, exit, nullptr, count_wanted, finish_wanted, count_pending, finish_pending, describe,
};

}  // namespace lacuna_simt
