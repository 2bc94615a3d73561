#include "simt/collective.h"

#include "simt/error.h"

namespace lacuna_simt {

namespace {

CollectiveSlot& slot_for(Warp& warp, uint32_t mask, int line) {
  CollectiveSlot* free_slot = nullptr;
  for (CollectiveSlot& slot : warp.slots) {
    if (slot.arrived != 0 && slot.mask == mask) return slot;
    if (slot.arrived == 0 && free_slot == nullptr) free_slot = &slot;
  }
  if (free_slot == nullptr) fail(line, "more than %d warp collectives with different masks at once", kCollectiveSlots);
  free_slot->mask = mask;
  free_slot->name = nullptr;
  return *free_slot;
}

}  // namespace

void collective(const char* name, uint32_t mask, void* arguments, Finisher finish, int line) {
  Fiber& self = current_fiber();
  Warp& warp = *self.warp;
  const uint32_t bit = 1u << self.lane;
  if ((mask & bit) == 0) fail(line, "%s: lane %d is not in its mask 0x%08x", name, self.lane, mask);
  if ((mask & ~warp.lanes) != 0) {
    fail(line, "%s: mask 0x%08x names lanes that the warp lacks (it has 0x%08x)", name, mask, warp.lanes);
  }
  if ((mask & warp.exited) != 0) {
    fail(line, "%s: lanes 0x%08x of mask 0x%08x have exited", name, mask & warp.exited, mask);
  }
  CollectiveSlot& slot = slot_for(warp, mask, line);
  if (slot.name == nullptr) {
    slot.name = name;
    slot.line = line;
  } else if (slot.name != name || slot.line != line) {
    fail(line, "divergent warp: %s meets %s of line %d", name, slot.name, slot.line);
  }
  warp.arguments[self.lane] = arguments;
  slot.arrived |= bit;
  if (slot.arrived != mask) {
    block_fiber(name, line);
    return;
  }
  ++warp.block->worker->counters.collectives;
  slot.arrived = 0;
  if (mask == (warp.lanes & ~warp.exited)) ++warp.meetings;
  if (finish != nullptr) finish(warp, mask, line);
  make_lanes_ready(warp, mask);
  scheduling_point();
}

void warp_sync(uint32_t mask, int line) { collective("__syncwarp", mask, nullptr, nullptr, line); }

namespace {

// The stream of random numbers that elects a lane.
constexpr uint64_t kElection = 0x656c656374;

struct Exchange {
  int32_t value;
  int source;
  int32_t result;
};

struct QuadReduction {
  float* values;
  int count;
  bool maximum;
};

// fmaxf: a NaN loses against a number.
float maximum_of(float a, float b) {
  if (a != a) return b;
  if (b != b) return a;
  return a > b ? a : b;
}

void finish_shuffle(Warp& warp, uint32_t, int line) {
  for (int lane = 0; lane < 32; ++lane) {
    Exchange& mine = *static_cast<Exchange*>(warp.arguments[lane]);
    if (mine.source < 0 || mine.source > 31) fail(line, "shfl: source lane %d", mine.source);
    mine.result = static_cast<Exchange*>(warp.arguments[mine.source])->value;
  }
}

void finish_ballot(Warp& warp, uint32_t, int) {
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (static_cast<Exchange*>(warp.arguments[lane])->value != 0) bits |= 1u << lane;
  }
  for (int lane = 0; lane < 32; ++lane) {
    static_cast<Exchange*>(warp.arguments[lane])->result = static_cast<int32_t>(bits);
  }
}

void finish_minimum(Warp& warp, uint32_t, int) {
  int32_t low = INT32_MAX;
  for (int lane = 0; lane < 32; ++lane) {
    const int32_t value = static_cast<Exchange*>(warp.arguments[lane])->value;
    low = value < low ? value : low;
  }
  for (int lane = 0; lane < 32; ++lane) static_cast<Exchange*>(warp.arguments[lane])->result = low;
}

void finish_total(Warp& warp, uint32_t, int) {
  uint32_t sum = 0;  // redux.sync.add wraps
  for (int lane = 0; lane < 32; ++lane)
    sum += static_cast<uint32_t>(static_cast<Exchange*>(warp.arguments[lane])->value);
  for (int lane = 0; lane < 32; ++lane) {
    static_cast<Exchange*>(warp.arguments[lane])->result = static_cast<int32_t>(sum);
  }
}

// The butterfly of shfl.xor with 16, 8, 4, 2, 1: addition commutes, so all lanes hold the same bits.
void finish_float_total(Warp& warp, uint32_t, int) {
  float sums[32];
  for (int lane = 0; lane < 32; ++lane) sums[lane] = *static_cast<float*>(warp.arguments[lane]);
  for (int width = 16; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  }
  for (int lane = 0; lane < 32; ++lane) *static_cast<float*>(warp.arguments[lane]) = sums[0];
}

void finish_quads(Warp& warp, uint32_t, int) {
  for (int quad = 0; quad < 32; quad += 4) {
    float* x[4];
    for (int t = 0; t < 4; ++t) x[t] = static_cast<QuadReduction*>(warp.arguments[quad + t])->values;
    const QuadReduction& first = *static_cast<QuadReduction*>(warp.arguments[quad]);
    for (int i = 0; i < first.count; ++i) {
      const float all = first.maximum ? maximum_of(maximum_of(x[0][i], x[1][i]), maximum_of(x[2][i], x[3][i]))
                                      : (x[0][i] + x[1][i]) + (x[2][i] + x[3][i]);
      for (int t = 0; t < 4; ++t) x[t][i] = all;
    }
  }
}

}  // namespace

int32_t warp_shuffle(int32_t value, int source, int line) {
  Exchange exchange{value, source, 0};
  collective("shfl", 0xffffffffu, &exchange, finish_shuffle, line);
  return exchange.result;
}

uint32_t warp_ballot(bool predicate, int line) {
  Exchange exchange{predicate ? 1 : 0, 0, 0};
  collective("ballot", 0xffffffffu, &exchange, finish_ballot, line);
  return static_cast<uint32_t>(exchange.result);
}

bool warp_elect(int line) {
  const Fiber& self = current_fiber();
  collective("elect.sync", 0xffffffffu, nullptr, nullptr, line);
  Random random = seeded(self.block->worker->config.seed, kElection);
  return self.lane == static_cast<int>(random.below(32));
}

int32_t warp_minimum(int32_t value, int line) {
  Exchange exchange{value, 0, 0};
  collective("redux.min", 0xffffffffu, &exchange, finish_minimum, line);
  return exchange.result;
}

int32_t warp_total(int32_t value, int line) {
  Exchange exchange{value, 0, 0};
  collective("redux.add", 0xffffffffu, &exchange, finish_total, line);
  return exchange.result;
}

float warp_float_total(float value, int line) {
  collective("shfl (sum)", 0xffffffffu, &value, finish_float_total, line);
  return value;
}

void warp_quad_reduce(float* values, int count, bool maximum, int line) {
  QuadReduction reduction{values, count, maximum};
  collective(maximum ? "shfl (quad max)" : "shfl (quad sum)", 0xffffffffu, &reduction, finish_quads, line);
}

}  // namespace lacuna_simt
