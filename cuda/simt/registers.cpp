#include "simt/registers.h"

#include "simt/collective.h"
#include "simt/error.h"
#include "simt/module.h"
#include "simt/text.h"

namespace lacuna_simt {

namespace {

constexpr int kBlockRegisters = 65536;
constexpr int kMostAtEntry = 255;

const char* name_of(bool increase) { return increase ? "setmaxnreg.inc" : "setmaxnreg.dec"; }

// The warps of a warpgroup execute the same setmaxnreg, each when it comes to it.
struct Round {
  uint32_t warps;  // of the four, those that have executed it; 0: none is open
  int registers;
  int line;
  bool increase;
};

struct Change {
  int registers;
  bool increase;
};

}  // namespace

struct RegisterState {
  int free;        // registers of the pool: what warps have released and no other has taken
  bool released;   // has any warp executed setmaxnreg.dec?
  int count[32];   // registers a thread of each warp
  int wanted[32];  // while a warp waits for the pool: the count that it asks for; else 0
  Round rounds[8];
};

namespace {

int group_of(const Warp& warp) { return warp.index / 4; }

void check_round(Warp& warp, const Change& change, int line) {
  const Block& block = *warp.block;
  const int group = group_of(warp);
  const char* const what = name_of(change.increase);
  Round& round = block.registers->rounds[group];
  const uint32_t bit = 1u << warp.index % 4;
  // A warp may have executed it and be gone already.
  for (int w = 4 * group; w < 4 * group + 4; ++w) {
    if (block.warp[w].exited == 0 || (round.warps >> w % 4 & 1) != 0) continue;
    fail(line, "%s: threads of warp %d of the warpgroup have exited", what, w);
  }
  if (round.warps == 0) {
    round = {0, change.registers, line, change.increase};
  } else if ((round.warps & bit) != 0) {
    fail(line, "%s: warp %d executes it again before all warps of its warpgroup executed that of line %d", what,
         warp.index, round.line);
  } else if (round.registers != change.registers || round.increase != change.increase) {
    fail(line, "%s %d: another warp of the warpgroup executes %s %d (line %d)", what, change.registers,
         name_of(round.increase), round.registers, round.line);
  }
  round.warps |= bit;
  for (int w = 0; w < 4; ++w) {
    if ((round.warps >> w & 1) == 0 && block.warp[4 * group + w].exited != 0) {
      fail(line, "%s: threads of warp %d of the warpgroup have exited without it", what, 4 * group + w);
    }
  }
  if (round.warps == 0xf) round.warps = 0;
}

// Hands registers of the pool to the warps that wait for them.
void serve(Block& block) {
  RegisterState& state = *block.registers;
  for (int w = 0; w < block.warps; ++w) {
    const int more = 32 * (state.wanted[w] - state.count[w]);
    if (state.wanted[w] == 0 || more > state.free) continue;
    state.free -= more;
    state.count[w] = state.wanted[w];
    state.wanted[w] = 0;
    make_lanes_ready(block.warp[w], block.warp[w].lanes);
  }
}

void finish_change(Warp& warp, uint32_t, int line) {
  Block& block = *warp.block;
  RegisterState& state = *block.registers;
  const Change change = *static_cast<const Change*>(warp.arguments[0]);
  for (int lane = 1; lane < 32; ++lane) {
    const int other = static_cast<const Change*>(warp.arguments[lane])->registers;
    if (other != change.registers) {
      fail(line, "%s: lanes name different counts, %d and %d", name_of(change.increase), change.registers, other);
    }
  }
  check_round(warp, change, line);
  int& count = state.count[warp.index];
  if (change.increase ? change.registers < count : change.registers > count) {
    fail(line, "%s %d: the warp has %d registers a thread", name_of(change.increase), change.registers, count);
  }
  if (change.increase) {
    state.wanted[warp.index] = change.registers;
  } else {
    state.free += 32 * (count - change.registers);
    state.released = true;
    count = change.registers;
  }
  serve(block);
}

}  // namespace

void registers_change(int registers, bool increase, int line) {
  const Fiber& self = current_fiber();
  const Block& block = *self.block;
  const char* const what = name_of(increase);
  if (block.threads % 128 != 0) {
    fail(line, "%s: the block's %d threads are no whole number of warpgroups", what, block.threads);
  }
  Change change{registers, increase};
  collective(what, 0xffffffffu, &change, finish_change, line);
  if (block.registers->wanted[self.warp->index] != 0) block_fiber(what, line);
}

namespace {

// All registers of the block are in use: each thread has its share, rounded down to the unit of setmaxnreg.
void start(Block& block) {
  RegisterState& state = *block.registers;
  state = {};
  const int share = kBlockRegisters / block.threads;
  const int entry = (share < kMostAtEntry ? share : kMostAtEntry) / 8 * 8;
  for (int& count : state.count) count = entry;
}

void exit(Fiber& fiber) {
  const Warp& warp = *fiber.warp;
  const Round& round = fiber.block->registers->rounds[group_of(warp)];
  if (round.warps == 0 || (round.warps >> warp.index % 4 & 1) != 0) return;
  fail(round.line, "the thread exits without the %s %d that other warps of its warpgroup execute",
       name_of(round.increase), round.registers);
}

void describe(const Block& block, char* buffer, size_t bytes) {
  const RegisterState& state = *block.registers;
  Text text{buffer, bytes};
  for (int w = 0; w < block.warps; ++w) {
    if (state.wanted[w] == 0) continue;
    text.add("%swarp %d has %d registers a thread and wants %d", text.separator(", "), w, state.count[w],
             state.wanted[w]);
  }
  if (text.used == 0) return;
  text.add(": the block's pool holds %d%s", state.free, state.released ? "" : ", no warp has executed setmaxnreg.dec");
}

}  // namespace

const Module register_module = {
    [](Block& block) { block.registers = new RegisterState{}; },
    start,
    exit,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    describe,
};

}  // namespace lacuna_simt
