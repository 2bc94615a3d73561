// One record for each 16 bytes of shared memory: which lanes of a warp have written there with ordinary instructions,
// and when. Neighbouring lanes that write parts of it do not hide each other; writers of two warps do, the last warp
// counts. Whether the reader is synchronised with the writers is the business of the barriers; other checks see that.
//
// Time is a count of fences that never goes back, not even between blocks: nothing is erased when a block begins.
#include "simt/proxy.h"

#include <vector>

#include "simt/error.h"
#include "simt/memory.h"
#include "simt/module.h"

namespace lacuna_simt {

constexpr uint32_t kGranuleBytes = 16;
constexpr size_t kGranules = (size_t{256} << 10) / kGranuleBytes;  // of the largest arena
constexpr uint64_t kInFlight = ~uint64_t{0};                       // later than every fence

struct Granule {
  uint64_t time;   // of the last write, or of its wait: none of `lanes` had fenced its write by then
  uint32_t lanes;  // writers; some may have fenced since
  uint32_t warp : 5;
  uint32_t copied : 1;  // the last write was a cp.async
  uint32_t line : 26;   // of the last write
};

// A cp.async that its thread has not waited for.
struct AwaitedCopy {
  uint32_t granule;
  uint32_t group;
};

struct ProxyState {
  uint64_t time = 1;
  uint64_t start = 1;  // granules of earlier times belong to other blocks
  uint64_t fenced[1024] = {};
  std::vector<AwaitedCopy> copies[1024];
  Granule granules[kGranules] = {};
};

namespace {

// Null in launches without checks.
ProxyState* checking_state() {
  const Block& block = *current_fiber().block;
  return block.worker->config.checks != 0 ? block.proxy : nullptr;
}

// The writers that have not fenced.
uint32_t unfenced(const ProxyState& state, const Granule& granule) {
  if (granule.time < state.start) return 0;
  uint32_t left = 0;
  for (uint32_t lanes = granule.lanes; lanes != 0; lanes &= lanes - 1) {
    const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(lanes));
    if (state.fenced[32 * granule.warp + lane] <= granule.time) left |= 1u << lane;
  }
  return left;
}

// The current thread has written the granule, all of it or a part.
void note_write(ProxyState& state, Granule& granule, bool whole, uint64_t time, bool copied, int line) {
  const Fiber& self = current_fiber();
  const uint32_t warp = static_cast<uint32_t>(self.warp->index);
  const bool shared = !whole && granule.warp == warp && granule.lanes != 0;
  granule.lanes = (shared ? unfenced(state, granule) : 0) | 1u << self.lane;
  granule.time = time;
  granule.warp = warp & 31;
  granule.copied = copied;
  granule.line = static_cast<uint32_t>(line) & 0x3ffffff;
}

void check(uint32_t address, uint32_t bytes, const char* what, const char* does, int line) {
  const ProxyState* const state = checking_state();
  if (state == nullptr || bytes == 0) return;
  const uint32_t from = (address - kSharedBase) / kGranuleBytes;
  const uint32_t last = (address - kSharedBase + bytes - 1) / kGranuleBytes;
  for (uint32_t at = from; at <= last; ++at) {
    const Granule& granule = state->granules[at];
    const uint32_t lanes = unfenced(*state, granule);
    if (lanes == 0) continue;
    const int writer = static_cast<int>(32 * granule.warp) + __builtin_ctz(lanes);
    if (granule.time == kInFlight) {
      fail(line,
           "%s %s shared memory at 0x%x, which the cp.async of thread %d (line %d) writes: it has not been waited for",
           what, does, at * kGranuleBytes, writer, static_cast<int>(granule.line));
    }
    fail(line, "%s %s shared memory at 0x%x, which thread %d wrote (line %d) without a fence.proxy.async since%s", what,
         does, at * kGranuleBytes, writer, static_cast<int>(granule.line), granule.copied ? " its wait" : "");
  }
}

void start(Block& block) {
  ProxyState& state = *block.proxy;
  state.start = ++state.time;
  // A launch that failed may have left some.
  for (std::vector<AwaitedCopy>& copies : state.copies) {
    for (const AwaitedCopy& copy : copies) state.granules[copy.granule].lanes = 0;
    copies.clear();
  }
}

}  // namespace

void proxy_generic_write(uint32_t address, uint32_t bytes, int line) {
  ProxyState* const state = checking_state();
  if (state == nullptr) return;
  const uint32_t first = address - kSharedBase;
  const uint32_t end = first + bytes;
  for (uint32_t at = first / kGranuleBytes; at * kGranuleBytes < end; ++at) {
    const bool whole = first <= at * kGranuleBytes && (at + 1) * kGranuleBytes <= end;
    note_write(*state, state->granules[at], whole, state->time, false, line);
  }
}

void proxy_copy(uint32_t address, uint32_t group, int line) {
  ProxyState* const state = checking_state();
  if (state == nullptr) return;
  const uint32_t at = (address - kSharedBase) / kGranuleBytes;
  note_write(*state, state->granules[at], true, kInFlight, true, line);
  state->copies[current_fiber().thread].push_back({at, group});
}

void proxy_await_copies(uint32_t group) {
  ProxyState* const state = checking_state();
  if (state == nullptr) return;
  const Fiber& self = current_fiber();
  std::vector<AwaitedCopy>& copies = state->copies[self.thread];
  size_t count = 0;
  for (; count < copies.size() && copies[count].group < group; ++count) {
    Granule& granule = state->granules[copies[count].granule];
    const bool own = granule.warp == static_cast<uint32_t>(self.warp->index) && granule.lanes == 1u << self.lane;
    if (own && granule.time == kInFlight) granule.time = state->time;
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(count));
}

void proxy_fence() {
  ProxyState* const state = checking_state();
  if (state != nullptr) state->fenced[current_fiber().thread] = ++state->time;
}

void proxy_check_read(uint32_t address, uint32_t bytes, const char* what, int line) {
  check(address, bytes, what, "reads", line);
}

void proxy_check_overwrite(uint32_t address, uint32_t bytes, const char* what, int line) {
  check(address, bytes, what, "overwrites", line);
}

void proxy_async_write(uint32_t address, uint32_t bytes) {
  ProxyState* const state = checking_state();
  if (state == nullptr) return;
  const uint32_t first = address - kSharedBase;
  for (uint32_t at = first / kGranuleBytes; at * kGranuleBytes < first + bytes; ++at) state->granules[at].lanes = 0;
}

const Module proxy_module = {
    [](Block& block) { block.proxy = new ProxyState; },
    start,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace lacuna_simt
