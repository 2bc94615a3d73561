// One record for each 16 bytes of shared memory: who wrote it last with ordinary instructions, and how many fences that
// thread had made by then. It is fenced when the thread has made another one since. Whether the reader is synchronised
// with the writer is the business of the barriers; other checks see that.
#include "simt/proxy.h"

#include <vector>

#include "simt/error.h"
#include "simt/memory.h"
#include "simt/module.h"

namespace lacuna_simt {

namespace {

constexpr uint32_t kGranuleBytes = 16;
constexpr uint32_t kGranules = 256 * 1024 / kGranuleBytes;  // of the largest arena
constexpr int kMostThreads = 1024;

struct Record {
  uint32_t block;  // number of the block run that wrote it; others are void
  uint32_t fences;
  int thread;
  int line;
};

}  // namespace

struct ProxyState {
  uint32_t block;  // counts block runs: nothing has to be erased between them
  std::vector<Record> records;
  uint32_t fences[kMostThreads];
};

namespace {

bool checking(const Fiber& fiber) { return fiber.block->worker->config.checks != 0; }

// Calls `act` for the record of each granule of a range, as far as it lies in shared memory.
template <class Act>
void for_records(ProxyState& state, uint32_t address, uint32_t bytes, Act act) {
  if (address < kSharedBase || bytes == 0) return;
  const uint32_t first = (address - kSharedBase) / kGranuleBytes;
  const uint32_t last = (address - kSharedBase + bytes - 1) / kGranuleBytes;
  for (uint32_t i = first; i <= last && i < kGranules; ++i) act(state.records[i], i);
}

void check(uint32_t address, uint32_t bytes, const char* what, const char* does, int line) {
  const Fiber& self = current_fiber();
  if (!checking(self)) return;
  ProxyState& state = *self.block->proxy;
  for_records(state, address, bytes, [&](const Record& record, uint32_t granule) {
    if (record.block != state.block || state.fences[record.thread] != record.fences) return;
    fail(line, "%s %s shared memory at 0x%x, which thread %d wrote (line %d) without a fence.proxy.async since", what,
         does, granule * kGranuleBytes, record.thread, record.line);
  });
}

void make(Block& block) {
  block.proxy = new ProxyState{};
  block.proxy->records.resize(kGranules);
}

void start(Block& block) {
  ProxyState& state = *block.proxy;
  ++state.block;
  for (int thread = 0; thread < block.threads; ++thread) state.fences[thread] = 0;
}

}  // namespace

void proxy_generic_write(uint32_t address, uint32_t bytes, int line) {
  const Fiber& self = current_fiber();
  if (!checking(self)) return;
  ProxyState& state = *self.block->proxy;
  const Record written{state.block, state.fences[self.thread], self.thread, line};
  for_records(state, address, bytes, [&](Record& record, uint32_t) { record = written; });
}

void proxy_fence() {
  const Fiber& self = current_fiber();
  ++self.block->proxy->fences[self.thread];
}

void proxy_check_read(uint32_t address, uint32_t bytes, const char* what, int line) {
  check(address, bytes, what, "reads", line);
}

void proxy_check_overwrite(uint32_t address, uint32_t bytes, const char* what, int line) {
  check(address, bytes, what, "overwrites", line);
}

void proxy_async_write(uint32_t address, uint32_t bytes) {
  for_records(*current_fiber().block->proxy, address, bytes, [](Record& record, uint32_t) { record.block = 0; });
}

const Module proxy_module = {make, start, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace lacuna_simt
