// cp.async: groups and waits belong to a thread. A copy poisons its destination at issue and takes effect when its
// thread waits ("late"), at issue ("early"), or at a seeded moment between ("mixed"): late + poison catches both a
// missing wait and a stage that is refilled while others still read it.
#include "simt/copy.h"

#include <string.h>

#include "simt/error.h"
#include "simt/memory.h"
#include "simt/module.h"
#include "simt/proxy.h"

namespace lacuna_simt {

namespace {

void perform(Fiber& fiber, AsyncCopy& copy) {
  Worker& worker = *fiber.block->worker;
  Fiber* const running = worker.current;
  worker.current = &fiber;  // whom a fault is to be blamed on
  if (copy.source_bytes > 0) memcpy(copy.destination, copy.source, copy.source_bytes);
  if (copy.source_bytes < 16) memset(copy.destination + copy.source_bytes, 0, 16 - copy.source_bytes);
  worker.current = running;
  worker.counters.copy_bytes += copy.source_bytes;
}

void forget_finished(Fiber& fiber) {
  if (fiber.copies_done < fiber.copies.size()) return;
  fiber.copies.clear();
  fiber.copies_done = 0;
}

// Copies of groups below `group` complete, oldest first.
void finish_groups(Fiber& fiber, uint32_t group) {
  while (fiber.copies_done < fiber.copies.size() && fiber.copies[fiber.copies_done].group < group) {
    perform(fiber, fiber.copies[fiber.copies_done++]);
    --fiber.block->copies_pending;
  }
  forget_finished(fiber);
}

bool has_pending_copies(const Fiber& fiber) { return fiber.copies_done < fiber.copies.size(); }

uint32_t finished_groups_wanted(const Fiber& fiber, int allowed) {
  const uint32_t pending = static_cast<uint32_t>(allowed);
  return fiber.committed > pending ? fiber.committed - pending : 0;
}

}  // namespace

void copy_issue(uint32_t destination, const void* source, int source_bytes, int line) {
  Fiber& self = current_fiber();
  Worker& worker = *self.block->worker;
  if (source_bytes < 0 || source_bytes > 16) fail(line, "cp.async: source size %d", source_bytes);
  unsigned char* to = shared_pointer(destination, 16, 16, "cp.async", line);
  if (source_bytes > 0) {
    if ((reinterpret_cast<uintptr_t>(source) & 15) != 0)
      fail(line, "cp.async: source %p is not 16-byte aligned", source);
    if (worker.config.checks != 0) check_source(source, static_cast<size_t>(source_bytes), "cp.async", line);
  }
  proxy_copy(destination, self.committed, line);
  AsyncCopy copy{to, source, static_cast<uint32_t>(source_bytes), self.committed, line};
  if (worker.config.async_mode == LACUNA_SIMT_EARLY) {
    perform(self, copy);
    return;
  }
  if (worker.config.checks != 0) memset(to, 0xFF, 16);
  self.copies.push_back(copy);
  ++self.block->copies_pending;
}

void copy_commit() { ++current_fiber().committed; }

void copy_wait(int pending, int line) {
  Fiber& self = current_fiber();
  const uint32_t wanted = finished_groups_wanted(self, pending);
  proxy_await_copies(wanted);
  if (!has_pending_copies(self) || self.copies[self.copies_done].group >= wanted) return;
  if (self.block->worker->config.async_mode == LACUNA_SIMT_MIXED && self.block->worker->random.below(2) == 0) {
    finish_groups(self, wanted);
    return;
  }
  self.wait_allowed = pending;
  self.block->copy_waiting.push_back(&self);
  block_fiber("cp.async.wait_group", line);
}

namespace {

void finish_wanted(Block& block, uint32_t index) {
  Fiber& waiter = *block.copy_waiting[index];
  finish_groups(waiter, finished_groups_wanted(waiter, waiter.wait_allowed));
  block.copy_waiting[index] = block.copy_waiting.back();
  block.copy_waiting.pop_back();
  make_ready(waiter);
}

void finish_pending(Block& block, Random& random) {
  const size_t threads = static_cast<size_t>(block.threads);
  const size_t first = random.below(static_cast<uint32_t>(threads));
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = *block.fibers[(first + i) % threads];
    if (!has_pending_copies(fiber)) continue;
    perform(fiber, fiber.copies[fiber.copies_done++]);
    --block.copies_pending;
    forget_finished(fiber);
    return;
  }
}

void start(Block& block) {
  block.copy_waiting.clear();
  block.copies_pending = 0;
}

void exit(Fiber& fiber) {
  if (!has_pending_copies(fiber)) return;
  fail(fiber.copies[fiber.copies_done].line, "the thread exits with a cp.async that it never waited for");
}

}  // namespace

const Module copy_module = {
    nullptr,
    start,
    exit,
    nullptr,
    [](const Block& block) { return block.copy_waiting.size(); },
    finish_wanted,
    [](const Block& block) { return block.copies_pending; },
    finish_pending,
    nullptr,
};

}  // namespace lacuna_simt
